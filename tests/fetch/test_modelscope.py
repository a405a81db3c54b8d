import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import modelscope_hub
import pytest

import fetch.modelscope
import fetch.retry
from fetch.access import AccessError
from fetch.hub import hub_source
from fetch.modelscope import ModelScopeSource, modelscope_source
from fetch.request import opened
from fetch.source import RemoteFile
from fetch.tokens import Token
from fetch.transfer import TransferError
from shipvlm.errors import InputError
from tests.fetch.fake_hub import FakeHub
from tests.fetch.fake_modelscope import FakeModelScope
from tests.fetch.serving import ALWAYS, Fault, Reply, Server, html

FILES = {
    "config.json": b'{"model_type": "qwen3_vl"}',
    "model.safetensors": os.urandom(70_000),
    "docs/a page.md": b"words",
    "empty.json": b"",
}
TOKEN = Token("ms-right", "MODELSCOPE_API_TOKEN")


def source(scope: FakeModelScope, token: Token | None = None, allow: bool = True) -> ModelScopeSource:
    made = modelscope_source(scope.url, token, allow)
    assert isinstance(made, ModelScopeSource)
    return made


def refused(
    scope: FakeModelScope, token: Token | None = None, allow: bool = True, revision: str | None = None
) -> AccessError:
    with pytest.raises(AccessError) as caught:
        source(scope, token, allow).list(scope.repo, revision)
    assert "ms-" not in str(caught.value)
    assert caught.value.fields["source"] == "modelscope"
    return caught.value


def test_the_real_client_downloads_from_the_fake_modelscope(scope: FakeModelScope, tmp_path: Path) -> None:
    logging.getLogger("modelscope_hub").setLevel(logging.ERROR)
    folder = modelscope_hub.HubApi(endpoint=scope.url).download_repo(scope.repo, "model", local_dir=tmp_path)
    assert {path: (Path(folder) / path).read_bytes() for path in FILES} == FILES


@pytest.mark.slow
def test_the_client_that_people_use_downloads_from_the_fake_modelscope(scope: FakeModelScope, tmp_path: Path) -> None:
    code = "import sys, modelscope; modelscope.snapshot_download(sys.argv[1], endpoint=sys.argv[2], local_dir='out')"
    done = subprocess.run(
        [sys.executable, "-c", code, scope.repo, scope.url], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path: (tmp_path / "out" / path).read_bytes() for path in FILES} == FILES


@pytest.mark.parametrize("revision", [None, "commit"])
def test_a_listing_has_what_the_real_client_says(scope: FakeModelScope, revision: str | None) -> None:
    logging.getLogger("modelscope_hub").setLevel(logging.ERROR)
    asked = scope.commit if revision else None
    api = modelscope_hub.HubApi(endpoint=scope.url)
    said = [entry for entry in api.list_repo_files(scope.repo, "model", revision=asked) if entry.type == "blob"]
    listing = source(scope).list(scope.repo, asked)
    assert listing.commit == scope.commit
    assert (listing.revision, listing.licence) == (asked or "master", "Apache License 2.0")
    assert {file.path: (file.bytes, file.sha256) for file in listing.files} == {
        entry.path: (entry.size, entry.sha256) for entry in said
    }


def test_both_hubs_say_the_same_of_the_same_files(scope: FakeModelScope) -> None:
    listing = source(scope).list(scope.repo, None)
    with FakeHub(FILES) as hub:
        other = hub_source(hub.url, None, False).list(hub.repo, None)
    assert [(file.path, file.bytes) for file in listing.files] == [(file.path, file.bytes) for file in other.files]
    by_path = {file.path: file.sha256 for file in listing.files}
    assert [f.sha256 for f in other.files if f.sha256] == [by_path["model.safetensors"]]
    assert listing.commit != other.commit


def test_a_branch_is_pinned_to_its_commit(scope: FakeModelScope) -> None:
    listing = source(scope).list(scope.repo, "master")
    scope.push({"config.json": b"{}"})
    with opened(source(scope).place(listing, "docs/a page.md"), start=1, stop=4) as response:
        assert response.content == b"ord"


def test_where_no_commit_is_said_the_branch_is_all_there_is() -> None:
    with FakeModelScope(FILES, says_commit=False) as scope:
        listing = source(scope).list(scope.repo, None)
        assert (listing.commit, listing.revision) == (None, "master")
        with opened(source(scope).place(listing, "config.json")) as response:
            assert response.content == FILES["config.json"]


def test_a_token_is_sent_where_it_may_be_and_nowhere_else() -> None:
    with FakeModelScope(FILES, private=True) as scope:
        assert len(source(scope, TOKEN).list(scope.repo, None).files) == len(FILES)
        sent = scope.with_credentials()
        assert {r.headers["authorization"] for r in sent} == {"Bearer ms-right"}
        assert {r.headers["cookie"] for r in sent} == {"m_session_id=ms-right"}
        scope.server.requests.clear()
        error = refused(scope, TOKEN, allow=False)
        assert (error.situation, error.fields["withheld"]) == ("gated-token-withheld", "MODELSCOPE_API_TOKEN")
        assert scope.with_credentials() == []


def test_a_stored_token_is_not_taken(scope: FakeModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-right")
    source(scope, None).list(scope.repo, None)
    assert scope.with_credentials() == []


def test_credentials_do_not_go_on_to_another_address(scope: FakeModelScope) -> None:
    with Server(lambda request: Reply(body=b"bytes"), "127.0.0.2") as store:
        listing = source(scope, TOKEN).list(scope.repo, None)
        scope.server.fail("*FilePath=*", Fault(status=302, headers={"Location": store.url + "/x?Signature=s"}))
        with opened(source(scope, TOKEN).place(listing, "config.json")) as response:
            assert response.content == b"bytes"
        assert not {"authorization", "cookie"} & set(store.requests[0].headers)


def test_nothing_is_written_at_home(scope: FakeModelScope, empty_home: Path) -> None:
    source(scope, TOKEN).list(scope.repo, None)
    assert list(empty_home.rglob("*")) == []


def test_refusals(scope: FakeModelScope) -> None:
    assert refused(scope, Token("ms-wrong", "stored login")).situation == "token-rejected"
    assert refused(scope, revision="v9").situation == "revision-not-found"
    with pytest.raises(AccessError) as caught:
        source(scope).list("owner/other", None)
    assert caught.value.situation == "not-found"
    scope.private = True
    assert refused(scope).situation == "gated-no-token"
    scope.server.fail("*", Fault(status=403, times=ALWAYS))
    assert refused(scope, TOKEN).situation == "gated-not-approved"


def test_its_other_site_is_asked_when_the_first_has_no_such_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeModelScope(FILES, repo="owner/other") as first, FakeModelScope(FILES) as second:
        monkeypatch.setattr(fetch.modelscope, "SITES", (first.url, second.url))
        made = modelscope_source(None, None, False)
        listing = made.list("owner/tiny", None)
        assert (listing.endpoint, made.endpoint) == (second.url, None)
        assert made.place(listing, "a").url.startswith(second.url)
        assert made.list("owner/other", None).endpoint == first.url
        with pytest.raises(AccessError) as caught:
            made.list("owner/none", None)
        assert caught.value.situation == "not-found"


def test_the_other_site_is_no_way_out_of_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeModelScope(FILES, private=True) as first, FakeModelScope(FILES) as second:
        monkeypatch.setattr(fetch.modelscope, "SITES", (first.url, second.url))
        with pytest.raises(AccessError):
            modelscope_source(None, None, False).list("owner/tiny", None)
        assert second.server.requests == []


def test_its_own_sites_get_the_token() -> None:
    made = ModelScopeSource(None, TOKEN, False)
    listing = fetch.modelscope.Listing("modelscope", "a/b", fetch.modelscope.SITES[0], "master", None, ())
    assert made.label == "ModelScope"
    assert made.place(listing, "x").headers["Authorization"] == "Bearer ms-right"


def test_the_endpoint_of_the_environment(scope: FakeModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", scope.url + "/")
    made = modelscope_source(None, None, False)
    assert (made.endpoint, made.label) == (scope.url, f"ModelScope at {scope.url}")


@pytest.mark.parametrize(
    ("fault", "situation"),
    [
        (html(), "web-page"),
        (Fault(status=200, body=b"{}", times=ALWAYS), "not-a-hub"),
        (Fault(status=200, body=b"[]", times=ALWAYS), "not-a-hub"),
        (Fault(status=200, body=b'{"Code": 404, "Success": false, "Data": null}', times=ALWAYS), "not-a-hub"),
        (Fault(status=200, body=b'{"Data": {"Files": [{}]}}', times=ALWAYS), "not-a-hub"),
        (Fault(status=200, body=b'{"Data": {"Files": null}}', times=ALWAYS), "not-a-hub"),
        (Fault(status=429, headers={"Retry-After": "400"}, times=ALWAYS), "rate-limited"),
    ],
)
def test_what_is_no_answer_of_modelscope(scope: FakeModelScope, fault: Fault, situation: str) -> None:
    scope.server.fail("*/repo/files*", fault)
    assert refused(scope).situation == situation


def test_what_passes_is_tried_again_and_what_does_not_ends(scope: FakeModelScope) -> None:
    scope.server.fail("*/repo/files*", Fault(status=502, times=2))
    scope.server.fail("*/repo/files*", Fault(drop_after=7, times=2))
    assert len(source(scope).list(scope.repo, None).files) == len(FILES)
    scope.server.fail("*", Fault(status=503, times=ALWAYS))
    with pytest.raises(TransferError, match="HTTP 503"):
        source(scope).list(scope.repo, None)


def test_a_403_of_what_was_just_shown_may_pass(scope: FakeModelScope) -> None:
    scope.server.fail("*/repo/files*", Fault(status=403, times=2))
    assert len(source(scope).list(scope.repo, None).files) == len(FILES)
    scope.server.fail("*/repo/files*", Fault(status=403, times=ALWAYS))
    with pytest.raises(TransferError, match="HTTP 403"):
        source(scope).list(scope.repo, None)


def test_offline(scope: FakeModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert refused(scope).situation == "offline"
    assert scope.server.requests == []


@pytest.mark.parametrize("path", ["../x.json", "/x.json", "a\\b"])
def test_a_path_that_leaves_the_folder_is_refused(path: str) -> None:
    with FakeModelScope({**FILES, path: b"x"}) as scope, pytest.raises(InputError, match="nothing was fetched"):
        source(scope).list(scope.repo, None)


def test_a_list_that_is_cut_off_is_refused(scope: FakeModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.modelscope, "MOST_FILES", 5)  # four files and a folder
    assert refused(scope).situation == "not-a-hub"


def test_an_empty_hash_is_none(scope: FakeModelScope) -> None:
    entry = {"Type": "blob", "Path": "a", "Size": 3, "Sha256": ""}
    body = json.dumps({"Data": {"Files": [entry]}}).encode()
    scope.server.fail("*/repo/files*", Fault(status=200, body=body))
    assert source(scope).list(scope.repo, None).files == (RemoteFile("a", 3, None, None),)


def test_a_revision_that_the_first_site_lacks_is_not_looked_for_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeModelScope(FILES) as first, FakeModelScope(FILES, repo="owner/other") as second:
        monkeypatch.setattr(fetch.modelscope, "SITES", (first.url, second.url))
        with pytest.raises(AccessError) as caught:
            modelscope_source(None, None, False).list("owner/tiny", "v9")
        assert caught.value.situation == "revision-not-found"
        assert second.server.requests == []


def test_a_wrong_address_in_the_environment_is_said_to_be_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "modelscope.example")
    with pytest.raises(InputError, match=r"^MODELSCOPE_ENDPOINT: endpoint 'modelscope.example'"):
        modelscope_source(None, None, False)
    with pytest.raises(InputError, match=r"^endpoint 'elsewhere'"):
        modelscope_source("elsewhere", None, False)
