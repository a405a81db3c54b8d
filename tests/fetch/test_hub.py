import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

import fetch.hub
import fetch.request
import fetch.retry
from fetch.access import AccessError
from fetch.hub import HubSource, hub_source
from fetch.listed import checked_files
from fetch.request import Refused, opened, read_json
from fetch.retry import Again, retrying
from fetch.source import Place, RemoteFile
from fetch.tokens import Token
from fetch.transfer import TransferError
from shipvlm.errors import InputError
from shipvlm.lock import safe_path
from tests.fetch.fake_hub import FakeHub
from tests.fetch.serving import ALWAYS, Fault, Reply, Server, blob, html

FILES = {
    "config.json": b'{"model_type": "qwen3_vl"}',
    "model.safetensors": os.urandom(70_000),
    "docs/a page.md": b"words",
    "empty.json": b"",
}
TOKEN = Token("hf_approved", "HF_TOKEN")


def source(hub: FakeHub, token: Token | None = None, allow: bool = True) -> HubSource:
    made = hub_source(hub.url, token, allow)
    assert isinstance(made, HubSource)
    return made


def refused(hub: FakeHub, token: Token | None = None, allow: bool = True, revision: str | None = None) -> AccessError:
    with pytest.raises(AccessError) as caught:
        listing = source(hub, token, allow).list(hub.repo, revision)
        source(hub, token, allow).check_access(listing)
    assert "hf_" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("resolve_cache", [False, True])
def test_the_real_client_downloads_from_the_fake_hub(tmp_path: Path, resolve_cache: bool) -> None:
    with FakeHub(FILES, page_size=3, resolve_cache=resolve_cache) as hub:
        folder = huggingface_hub.snapshot_download(hub.repo, endpoint=hub.url, token=False, local_dir=tmp_path)
        assert {path: (Path(folder) / path).read_bytes() for path in FILES} == FILES
        assert {request.path for request in hub.cdn.requests} == {"/model.safetensors"}


def test_a_listing_has_what_the_real_client_says(hub: FakeHub) -> None:
    api = huggingface_hub.HfApi(endpoint=hub.url, token=False)
    info = api.model_info(hub.repo, files_metadata=True)
    tree = {e.path: e for e in api.list_repo_tree(hub.repo) if isinstance(e, huggingface_hub.RepoFile)}
    listing = source(hub).list(hub.repo, None)
    assert (listing.commit, listing.revision, listing.licence, listing.gated) == (info.sha, "main", "apache-2.0", None)
    assert {f.path: f.bytes for f in listing.files} == {path: entry.size for path, entry in tree.items()}
    lfs = tree["model.safetensors"].lfs
    by_path = {file.path: file for file in listing.files}
    assert lfs is not None
    assert by_path["model.safetensors"] == RemoteFile("model.safetensors", 70_000, lfs.sha256, None)
    assert by_path["config.json"] == RemoteFile("config.json", 26, None, tree["config.json"].blob_id)


def test_a_listing_goes_over_all_pages() -> None:
    files = {f"{i:03}.json": b"%d" % i for i in range(25)}
    with FakeHub(files, page_size=4) as hub:
        assert [file.path for file in source(hub).list(hub.repo, None).files] == sorted(files)


def test_a_branch_is_pinned_to_its_commit(hub: FakeHub) -> None:
    first = hub.commit
    listing = source(hub).list(hub.repo, "main")
    hub.push({"config.json": b"{}"})
    with opened(source(hub).place(listing, "config.json")) as response:
        assert response.content == FILES["config.json"]
        assert response.headers["X-Repo-Commit"] == first
    assert source(hub).list(hub.repo, first).commit == first
    assert source(hub).list(hub.repo, None).commit != first


def test_bytes_come_by_range_and_from_the_cdn_without_the_token(hub: FakeHub) -> None:
    listing = source(hub, TOKEN).list(hub.repo, None)
    with opened(source(hub, TOKEN).place(listing, "model.safetensors"), start=5, stop=9) as response:
        assert response.content == FILES["model.safetensors"][5:9]
    assert len(hub.cdn.requests) == 1
    assert not {"authorization", "cookie"} & set(hub.cdn.requests[0].headers)
    assert {request.headers["authorization"] for request in hub.server.requests} == {"Bearer hf_approved"}


def test_a_connection_is_kept(hub: FakeHub) -> None:
    listing = source(hub).list(hub.repo, None)
    for _ in range(3):
        with opened(source(hub).place(listing, "model.safetensors")) as response:
            assert response.content == FILES["model.safetensors"]
    assert (hub.server.connections, hub.cdn.connections) == (1, 1)


def test_a_token_stays_at_home(hub: FakeHub) -> None:
    listing = source(hub, TOKEN, allow=False).list(hub.repo, None)
    with opened(source(hub, TOKEN, allow=False).place(listing, "config.json")):
        pass
    assert hub.with_authorization() == []
    home = HubSource(None, TOKEN, False)
    assert home.label == "Hugging Face Hub"
    assert home.place(listing, "config.json").headers["Authorization"] == "Bearer hf_approved"


def test_a_stored_token_is_not_taken(hub: FakeHub, empty_home: Path) -> None:
    (empty_home / "hf").mkdir()
    (empty_home / "hf" / "token").write_text("hf_approved")
    assert huggingface_hub.get_token() == "hf_approved"
    source(hub, None).list(hub.repo, None)
    assert hub.with_authorization() == []


def test_netrc_does_not_replace_the_token(hub: FakeHub, empty_home: Path) -> None:
    (empty_home / ".netrc").write_text("machine 127.0.0.1 login a password canary\n")
    source(hub, TOKEN).list(hub.repo, None)
    assert {request.headers.get("authorization") for request in hub.server.requests} == {"Bearer hf_approved"}


def test_a_next_page_at_another_address_is_not_asked_for(hub: FakeHub) -> None:
    with Server(lambda request: Reply(body=b"[]")) as other:
        page = Fault(
            status=200,
            headers={"Content-Type": "application/json", "Link": f'<{other.url}/x>; rel="next"'},
            body=b"[]",
            times=ALWAYS,
        )
        hub.server.fail("*/tree/*", page)
        error = refused(hub, TOKEN)
        assert error.situation == "not-a-hub"
        assert other.requests == []


def test_a_next_page_of_the_hub_itself_is_asked_for_at_the_mirror(hub: FakeHub) -> None:
    link = f'<https://huggingface.co/api/models/{hub.repo}/tree/{hub.commit}?page=2>; rel="next"'
    hub.server.fail("*/tree/*", Fault(status=200, headers={"Link": link}, body=b"[]"))
    assert len(source(hub).list(hub.repo, None).files) == len(FILES)
    assert hub.server.requests[-1].query == {"page": "2"}


def test_a_list_without_end_ends(hub: FakeHub) -> None:
    link = f'<{hub.url}/api/models/{hub.repo}/tree/{hub.commit}?page=2>; rel="next"'
    hub.server.fail("*/tree/*", Fault(status=200, headers={"Link": link}, body=b"[]", times=ALWAYS))
    assert refused(hub).situation == "not-a-hub"


@pytest.mark.parametrize("open_tree", [True, False])
@pytest.mark.parametrize(
    ("token", "allow", "situation"),
    [
        (None, True, "gated-no-token"),
        (TOKEN, False, "gated-token-withheld"),
        (Token("hf_known", "stored login"), True, "gated-not-approved"),
        (Token("hf_expired", "--token-file"), True, "token-rejected"),
    ],
)
def test_a_gate(token: Token | None, allow: bool, situation: str, open_tree: bool) -> None:
    with FakeHub(FILES, gated="manual", open_tree=open_tree) as hub:
        error = refused(hub, token, allow)
        assert error.situation == situation
        assert error.fields.get("withheld" if situation == "gated-token-withheld" else "token_source") == (
            token.source if token else None
        )


def test_a_gate_is_open_to_those_who_are_let_in() -> None:
    with FakeHub(FILES, gated="auto") as hub:
        listing = source(hub, TOKEN).list(hub.repo, None)
        assert listing.gated == "auto"
        source(hub, TOKEN).check_access(listing)
        assert len(source(hub).list(hub.repo, None).files) == len(FILES), "the list itself is shown to all"


def test_a_fine_grained_token_without_the_permission(hub: FakeHub) -> None:
    said = "Please enable access to public gated repositories in your fine-grained token settings."
    hub.server.fail("*/revision/*", Fault(status=403, headers={"X-Error-Message": said}, times=ALWAYS))
    assert refused(hub, TOKEN).situation == "gated-not-approved"


def test_private_and_missing_look_the_same() -> None:
    with FakeHub(FILES, private=True) as hub:
        assert refused(hub).situation == "not-found"
        assert refused(hub, Token("hf_known", "HF_TOKEN")).situation == "not-found"
        assert source(hub, TOKEN).list(hub.repo, None).commit == hub.commit
        with pytest.raises(AccessError) as caught:
            source(hub).list("owner/other", None)
        assert caught.value.situation == "not-found"


def test_a_revision_that_is_not_there(hub: FakeHub) -> None:
    assert refused(hub, revision="v9").situation == "revision-not-found"
    assert refused(hub, revision="0" * 40).situation == "revision-not-found"


def test_a_disabled_repository() -> None:
    with FakeHub(FILES, disabled=True) as hub:
        assert refused(hub).situation == "disabled"


def test_a_mirror_that_gives_another_commit_than_the_one_asked_for_is_listed_with_that(hub: FakeHub) -> None:
    asked, other = hub.commit, hub.push({"config.json": b"{}"})
    hub.server.fail("*/revision/*", Fault(status=200, body=json.dumps({"id": hub.repo, "sha": other}).encode()))
    listing = source(hub).list(hub.repo, asked)
    assert (listing.revision, listing.commit) == (asked, other)


def test_a_mirror_that_strips_the_commit_header_is_good_enough() -> None:
    with FakeHub(FILES, no_commit_header=True) as hub:
        assert source(hub).list(hub.repo, None).commit == hub.commit


def test_a_web_page_with_status_200(hub: FakeHub) -> None:
    hub.server.fail("*", html())
    assert refused(hub).situation == "web-page"


def test_a_network_that_sends_everybody_to_its_login_page(hub: FakeHub) -> None:
    with Server(lambda request: Reply(headers={"Content-Type": "text/html"}, body=b"<html>log in</html>")) as portal:
        hub.server.fail("*", Fault(status=302, headers={"Location": portal.url + "/login"}, times=ALWAYS))
        assert refused(hub, TOKEN).situation == "web-page"
        assert [request.headers.get("authorization") for request in portal.requests] == [None]


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"id": 1, "sha": "x"}', b"nothing", b'{"sha', b"1", b'"x"', b"null"])
def test_what_is_no_answer_of_a_hub(hub: FakeHub, body: bytes) -> None:
    hub.server.fail("*/revision/*", Fault(status=200, body=body, times=ALWAYS))
    assert refused(hub).situation == "not-a-hub"


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'[{"type": "file"}]', b'[{"type": "file", "path": "a", "size": 1}]'])
def test_what_is_no_list_of_files(hub: FakeHub, body: bytes) -> None:
    hub.server.fail("*/tree/*", Fault(status=200, body=body, times=ALWAYS))
    if body == b"{}":
        assert source(hub).list(hub.repo, None).files == ()
    else:
        assert refused(hub).situation == "not-a-hub"


def test_a_server_that_is_no_hub() -> None:
    with Server(lambda request: Reply(404)) as server, pytest.raises(AccessError) as caught:
        hub_source(server.url, None, False).list("owner/tiny", None)
    assert caught.value.situation == "not-a-hub"


def test_what_passes_is_tried_again(hub: FakeHub) -> None:
    hub.server.fail("*/revision/*", Fault(status=503, headers={"Retry-After": "0"}))
    hub.server.fail("*/revision/*", Fault(drop_after=0, times=2))
    hub.server.fail("*/tree/*", Fault(drop_after=10, times=2))
    hub.server.fail("*/tree/*", Fault(status=429))
    assert len(source(hub).list(hub.repo, None).files) == len(FILES)


def test_what_does_not_pass_ends(hub: FakeHub) -> None:
    hub.server.fail("*", Fault(status=503, times=ALWAYS))
    with pytest.raises(TransferError, match="HTTP 503"):
        source(hub).list(hub.repo, None)
    assert len(hub.server.requests) == fetch.retry.ATTEMPTS


def test_a_connection_that_always_breaks(hub: FakeHub) -> None:
    hub.server.fail("*", Fault(drop_after=0, times=ALWAYS))
    with pytest.raises(TransferError, match="connection broke"):
        source(hub).list(hub.repo, None)


def test_a_server_that_says_nothing(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.request, "SILENCE", 0.1)
    monkeypatch.setattr(fetch.retry, "ATTEMPTS", 2)
    hub.server.fail("*/tree/*", Fault(hang=10, times=ALWAYS))
    with pytest.raises(TransferError, match="silent"):
        source(hub).list(hub.repo, None)


@pytest.mark.parametrize("read", [lambda response: response.content, lambda response: response.raw.read()])
def test_a_server_that_stops_in_the_middle(monkeypatch: pytest.MonkeyPatch, read: Callable) -> None:
    monkeypatch.setattr(fetch.request, "SILENCE", 0.1)
    with Server(lambda request: Reply(body=b"abcdefgh")) as server:
        server.fail("*", Fault(rate=1))
        with pytest.raises(Again, match="silent"), opened(Place(server.url)) as response:
            read(response)
        server.fail("*", Fault(drop_after=3))
        with pytest.raises(Again, match="broke"), opened(Place(server.url)) as response:
            read(response)


def test_a_limit_of_requests(hub: FakeHub) -> None:
    hub.server.fail("*", Fault(status=429, headers={"RateLimit": '"api";r=0;t=250'}, times=ALWAYS))
    error = refused(hub)
    assert (error.situation, error.fields["wait"]) == ("rate-limited", "250")
    assert len(hub.server.requests) == 1, "nobody waits for four minutes"


def test_nobody_there() -> None:
    with Server(lambda request: Reply()) as server:
        url = server.url
    with pytest.raises(AccessError) as caught:
        hub_source(url, None, False).list("owner/tiny", None)
    assert caught.value.situation == "unreachable"
    assert "127.0.0.1" in caught.value.fields["detail"]


def test_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert refused(hub).situation == "offline"
    assert hub.server.requests == []


def test_nothing_but_the_endpoint_is_asked(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """build_hf_headers asks HF_ENDPOINT for the names of coding agents."""
    with Server(lambda request: Reply(404)) as other:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", other.url)
        monkeypatch.setenv("HF_ENDPOINT", other.url)
        with opened(source(hub).place(source(hub).list(hub.repo, None), "config.json")):
            pass
        assert other.requests == []


def test_the_endpoint_of_the_environment(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    made = hub_source(None, None, False)
    assert (made.endpoint, made.label) == (hub.url, f"mirror {hub.url}")
    assert made.list(hub.repo, None).endpoint == hub.url


@pytest.mark.parametrize("repo", ["", "a", "a/b/c", "../b", "a/..", "a b/c", "a/b?x", "https://huggingface.co/a/b"])
def test_what_is_no_repository(hub: FakeHub, repo: str) -> None:
    with pytest.raises(InputError, match="owner/name"):
        source(hub).list(repo, None)
    assert hub.server.requests == []


@pytest.mark.parametrize("path", ["../x.json", "/etc/x.json", "a/../../x.json", "a//b", "a\\b", "a\0b", "", "a\nb"])
def test_a_path_that_leaves_the_folder_is_refused(path: str) -> None:
    with FakeHub({**FILES, path: b"x"}) as hub, pytest.raises(InputError, match="nothing was fetched"):
        source(hub).list(hub.repo, None)


def test_names_that_shipvlm_uses_itself_are_left_out() -> None:
    ours = {"checkpoint.lock.json": b"{}", ".fetch/a": b"", ".FETCH/b": b"", ".quarantine/b": b""}
    with FakeHub({**FILES, **ours}) as hub:
        assert {file.path for file in source(hub).list(hub.repo, None).files} == set(FILES)


def test_a_file_that_is_also_a_folder_is_refused() -> None:
    with FakeHub({"a": b"", "a/b": b""}) as hub, pytest.raises(InputError, match="as a folder"):
        source(hub).list(hub.repo, None)


@given(st.lists(st.one_of(st.text(max_size=8), st.text(alphabet="./\\a\0", max_size=8)), max_size=6))
def test_only_paths_inside_the_folder_are_listed(tmp_path_factory: pytest.TempPathFactory, paths: list[str]) -> None:
    root = Path("/somewhere/out")
    try:
        files = checked_files([RemoteFile(path, 1, None, None) for path in paths], "a mirror")
    except InputError:
        return
    for file in files:
        assert safe_path(file.path) == file.path
        assert root in Path(os.path.normpath(root / file.path)).parents
    assert len({file.path for file in files}) == len(files)


@pytest.mark.parametrize(
    "file",
    [
        RemoteFile("a", -1, None, None),
        RemoteFile("a", "7", None, None),  # type: ignore[arg-type]
        RemoteFile("a", None, None, None),  # type: ignore[arg-type]
        RemoteFile("a", True, None, None),
        RemoteFile("a", 1, "abc", None),
        RemoteFile("a", 1, None, ""),
        RemoteFile("a\ud800", 1, None, None),
        RemoteFile("a", 2**63, None, None),
        RemoteFile("a", 10**400, None, None),
        RemoteFile("a", 1e400, None, None),  # type: ignore[arg-type]
        RemoteFile("a", 1, 3, None),  # type: ignore[arg-type]
        RemoteFile("a", 1, None, 3),  # type: ignore[arg-type]
    ],
)
def test_sizes_hashes_and_names_that_are_none(file: RemoteFile) -> None:
    good = RemoteFile("b", 1, "0" * 64, "0" * 40)
    assert checked_files([good], "here") == (good,)
    with pytest.raises(InputError, match="'a"):
        checked_files([good, file], "here")


@pytest.mark.parametrize("path", [None, 3, ["a"]])
def test_a_path_that_is_no_text(path: Any) -> None:
    with pytest.raises(InputError, match="no path"):
        checked_files([RemoteFile(path, 1, None, None)], "here")


@pytest.mark.parametrize(
    "paths",
    [
        *(("config.json", "config.json"), ("Config.json", "config.json"), ("docs/a.md", "DOCS/a.md")),
        *(("\u00e9.md", "e\u0301.md"), ("stra\u00dfe.md", "STRASSE.md"), ("Docs", "docs/a.md"), ("docs/a.md", "DOCS")),
    ],
)
def test_paths_that_are_one_on_some_disks_are_refused(paths: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="nothing was fetched"):
        checked_files([RemoteFile(path, 1, None, None) for path in paths], "here")


@pytest.mark.parametrize("target", ["http://example.invalid/x", "file:///etc/passwd", "ftp://example.invalid/x"])
def test_a_redirect_from_https_to_what_is_not_safe_is_refused(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    answer = requests.Response()
    answer.status_code = 302
    answer.headers["Location"] = target
    answer.raw = BytesIO()
    monkeypatch.setattr(requests.Session, "get", lambda *arguments, **named: answer)
    with pytest.raises(Refused, match="not safe"), opened(Place("https://hub.invalid/x")):
        pass


@pytest.mark.parametrize("target", ["http://[x/", "http://a:b/", "http://a:99999/", "http://", "//", "/again"])
def test_a_redirect_to_nowhere_is_refused(target: str) -> None:
    with Server(lambda request: Reply(302, {"Location": target})) as server:
        with pytest.raises(Refused) as caught, opened(Place(server.url + "/again")):
            pass
        assert len(server.requests) <= fetch.request.REDIRECTS
        assert target.strip("/") == "" or target not in str(caught.value)


@pytest.mark.parametrize("status", [300, 304, 400, 404, 407, 410, 418])
def test_a_status_that_is_no_answer(status: int) -> None:
    with (
        Server(lambda request: Reply(status)) as server,
        pytest.raises(Refused),
        opened(Place(server.url)),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (requests.exceptions.SSLError("canary"), Refused),
        (requests.exceptions.ProxyError("canary"), Again),
        (requests.exceptions.ConnectTimeout("canary"), Again),
        (requests.exceptions.InvalidURL("canary"), Refused),
        (requests.exceptions.ChunkedEncodingError("canary"), Again),
        (requests.exceptions.ConnectionError(), Again),
    ],
)
def test_the_words_of_the_library_do_not_get_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    def get(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(requests.Session, "get", get)
    with pytest.raises(kind) as caught, opened(Place("https://hub.invalid/x")):
        pass
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_server_that_repeats_the_token_is_not_quoted(hub: FakeHub) -> None:
    echo = Fault(status=403, headers={"X-Error-Message": "who is hf_approved?"}, times=ALWAYS)
    hub.server.fail("*", echo)
    assert "hf_approved" not in str(refused(hub, TOKEN))


def test_nothing_of_an_attempt_shows_the_link(hub: FakeHub) -> None:
    hub.cdn.fail("*", Fault(drop_after=10, times=ALWAYS))
    listing = source(hub).list(hub.repo, None)
    with (
        pytest.raises(Again) as caught,
        opened(source(hub).place(listing, "model.safetensors")) as response,
    ):
        response.content  # noqa: B018
    shown = str(source(hub).explain(listing, caught.value)) + str(caught.value)
    assert "Signature" not in shown
    assert caught.value.__cause__ is None


def test_an_answer_that_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.request, "LONGEST_LIST", 1000)
    with Server(lambda request: Reply(body=b" " * 2000)) as server, pytest.raises(Refused, match="no end"):
        read_json(Place(server.url))


def test_a_range_beyond_the_end_is_handed_on() -> None:
    with Server(lambda request: Reply(body=b"abc")) as server, opened(Place(server.url), start=3) as response:
        assert response.status_code == 416
        assert response.headers["Content-Range"] == "bytes */3"


def test_waiting_follows_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)

    def attempt() -> None:
        raise Again("no", 503, after=7.0)

    with pytest.raises(Again):
        retrying()(attempt)
    assert waits == [7.0] * (fetch.retry.ATTEMPTS - 1)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "-4"}, 0.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"api";r=10;t=55'}, None),
        ({}, None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert fetch.retry.retry_after(headers) == seconds


def test_a_sparse_file_is_served_whole(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.truncate(300 << 20)
    with FakeHub({"big.safetensors": blob(path, "0" * 64)}) as hub:
        listing = source(hub).list(hub.repo, None)
        with opened(source(hub).place(listing, "big.safetensors"), start=(300 << 20) - 5) as response:
            assert response.content == bytes(5)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_certificates_that_are_not_there(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(name, "/nope/ca.pem")
    with pytest.raises(InputError, match=f"{name}: there is no /nope/ca.pem"):
        source(hub).list(hub.repo, None)


def test_names_like_one_that_is_not_there(hub: FakeHub) -> None:
    with pytest.raises(AccessError) as caught:
        source(hub, TOKEN).list("ovner/Tiny", None)
    assert "Names like it: owner/tiny\n" in str(caught.value)
    asked = [request for request in hub.server.requests if request.path == "/api/models"]
    assert [request.query for request in asked] == [{"search": "Tiny", "limit": "5"}]
    assert "authorization" not in asked[0].headers
    with pytest.raises(AccessError) as caught:
        source(hub).list("owner/another", None)
    assert "Names like it" not in str(caught.value)


def test_revisions_that_there_are(hub: FakeHub) -> None:
    hub.push(FILES, "v1")
    assert "There are: main, v1\n" in str(refused(hub, revision="v9"))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, times=ALWAYS),
        Fault(drop_after=3, times=ALWAYS),
        Fault(hang=60.0, times=ALWAYS),
        html(),
        *(Fault(status=200, body=body, times=ALWAYS) for body in (b"{}", b"[3]", b'[{"id": 3}]', b"null", b"x")),
    ],
)
def test_a_search_that_fails_takes_nothing_from_the_refusal(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(fetch.hub, "BRIEF", 0.2)
    hub.server.fail("/api/models[?]*", fault)
    hub.server.fail("*/refs", fault)
    with pytest.raises(AccessError) as caught:
        source(hub).list("ovner/tiny", None)
    assert (caught.value.situation, "suggestions" in caught.value.fields) == ("not-found", False)
    error = refused(hub, revision="v9")
    assert (error.situation, "revisions" in error.fields) == ("revision-not-found", False)
    assert len([r for r in hub.server.requests if r.path == "/api/models" or r.path.endswith("/refs")]) == 2
