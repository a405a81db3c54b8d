"""What goes wrong between a hub and a disk, each case as a person meets it: `shipvlm fetch` and loopback servers."""

import errno
import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from shipvlm.lock import LOCK, QUARANTINE, UNFINISHED
from tests.fetch.fake_hub import FakeHub
from tests.fetch.made_repository import SHARDS, repository
from tests.fetch.serving import ALWAYS, Fault, Reply, Request, Server, html
from tests.shipvlm.commands import run

FILES = repository()
SHARD = SHARDS[1]
SMALL = "tokenizer.json"
OFFLINE = "huggingface_hub.constants.HF_HUB_OFFLINE"

Fetch = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fetch(capsys: pytest.CaptureFixture[str], out: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """`fetch(hub, ...)`: from this hub alone; `fetch(hub, "--source", "auto")`: ModelScope too; exit code and words."""

    def command(server: FakeHub | None, *options: object) -> tuple[int, str, str]:
        source = () if "--source" in options else ("--source", "hf")
        endpoint = ("--endpoint", server.url) if server else ()
        return run(capsys, "fetch", "owner/tiny", "-o", out, *source, *endpoint, *options)

    return command


def modelscope_alone(fetch: Fetch, *options: object) -> tuple[int, str, str]:
    return fetch(None, "--source", "modelscope", *options)


def is_whole(out: Path, files: dict[str, bytes] = FILES) -> bool:
    """Whether the folder holds exactly these bytes, and a lock that says so."""
    lock = json.loads((out / LOCK).read_text())
    said = {path: entry["sha256"] for part in ("files", "documents") for path, entry in lock[part].items()}
    found = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != LOCK and QUARANTINE not in path.relative_to(out).parts
    }
    return found == files and said == {path: sha256(content).hexdigest() for path, content in files.items()}


def nothing_loadable(out: Path) -> bool:
    """Whether no command would take what is in the folder for a finished checkpoint."""
    return not (out / LOCK).exists()


def asked(server: Server, part: str) -> list[Request]:
    return [request for request in server.requests if part in request.target]


def typed(err: str) -> list[str]:
    return [line.strip() for line in err.splitlines() if line.startswith("    ")]


# Accounts, tokens, names


@pytest.mark.parametrize(("open_tree", "there"), [(True, "has the same weights"), (False, "not known")])
def test_gated_without_a_token(fetch: Fetch, hub, scope, out, open_tree: bool, there: str) -> None:
    hub.gated, hub.open_tree = "auto", open_tree
    code, _, err = fetch(hub, "--source", "auto")
    assert code == 5
    assert "owner/tiny is gated" in err and "no token was found" in err
    assert "https://huggingface.co/owner/tiny" in err and "hf auth login" in typed(err)
    assert there in err and any("--source modelscope" in line for line in typed(err))
    assert nothing_loadable(out)
    assert not any(r.path.endswith("/repo") for r in scope.server.requests)  # a gate is not walked around
    code, _, err = modelscope_alone(fetch)  # and what the error says works
    assert code == 0, err
    assert is_whole(out)


def test_a_gate_is_met_once(fetch: Fetch, hub, out) -> None:
    hub.gated, hub.open_tree = "auto", True
    code, _, err = fetch(hub)
    assert code == 5
    assert err.startswith("error: owner/tiny is gated")
    assert len(asked(hub.server, "/resolve/")) == 1


def test_words_of_a_server_do_not_steer_the_terminal(fetch: Fetch, hub, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_known")
    said = {"X-Error-Code": "GatedRepo", "X-Error-Message": "wait \x1b[2J\x1b]0;title\x07 " + "for ever " * 100}
    hub.server.fail("*/tree/*", Fault(status=403, headers=said, times=ALWAYS))
    code, _, err = fetch(hub, "--allow-token-to-endpoint")
    assert code == 5
    assert "wait" in err and all(line.isprintable() for line in err.splitlines())
    assert len(err) < 3000


def test_gated_and_other_bytes_on_modelscope(fetch: Fetch, hub, scope) -> None:
    hub.gated, hub.open_tree = "auto", True
    scope.push(repository(seed=1))
    code, _, err = fetch(hub, "--source", "auto")
    assert code == 5
    assert "other bytes" in err
    assert not any("--source modelscope" in line for line in typed(err))


def test_gated_and_a_token_that_is_not_approved(fetch: Fetch, hub, out, monkeypatch) -> None:
    hub.gated = "manual"
    monkeypatch.setenv("HF_TOKEN", "hf_known")
    code, _, err = fetch(hub, "--allow-token-to-endpoint")
    assert code == 5
    assert "token from the environment variable HF_TOKEN is valid" in err
    assert "https://huggingface.co/owner/tiny" in err
    assert "Read access to contents of all public gated repos you can access" in err
    assert "not in the authorized list" in err
    assert nothing_loadable(out)


def test_gated_and_approved(fetch: Fetch, hub, out, tmp_path) -> None:
    hub.gated = "manual"
    (tmp_path / "token").write_text("hf_approved\n")
    code, printed, err = fetch(hub, "--allow-token-to-endpoint", "--token-file", tmp_path / "token")
    assert code == 0, err
    assert is_whole(out)
    assert "https://huggingface.co/owner/tiny" in printed + err  # the page of the terms


def test_a_mirror_gets_no_token_and_does_not_lift_a_gate(fetch: Fetch, hub, monkeypatch) -> None:
    hub.gated = "auto"
    monkeypatch.setenv("HF_TOKEN", "hf_approved")
    code, _, err = fetch(hub)
    assert code == 5
    assert f"your token was not sent to {hub.url}" in err and "mirror does not lift a gate" in err
    assert hub.with_authorization() == []
    assert any(line.endswith("--allow-token-to-endpoint") for line in typed(err))
    assert any("--endpoint https://huggingface.co" in line for line in typed(err))


@pytest.mark.parametrize("kind", ["HF_TOKEN", "stored", "file"])
def test_a_rejected_token_is_named(fetch: Fetch, hub, monkeypatch, empty_home, tmp_path, kind: str) -> None:
    option: tuple[object, ...] = ()
    if kind == "HF_TOKEN":
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        name, remedy = "the environment variable HF_TOKEN", "unset HF_TOKEN"
    elif kind == "stored":
        (empty_home / "hf").mkdir(exist_ok=True)
        (empty_home / "hf" / "token").write_text("hf_expired")
        name, remedy = "the stored login", "hf auth logout"
    else:
        (tmp_path / "token").write_text("hf_expired")
        option = ("--token-file", tmp_path / "token")
        name, remedy = "--token-file", "leave --token-file out"
    code, _, err = fetch(hub, "--allow-token-to-endpoint", *option)
    assert code == 5
    assert f"refuses the token from {name}" in err or f"the token from the file given with {name}" in err
    assert remedy in err and "even public models are refused" in err
    assert "hf_expired" not in err


def test_a_private_or_misspelt_name(capsys, hub, out, monkeypatch) -> None:
    for private, repo, token in ((True, "owner/tiny", None), (False, "owner/tinny", None), (True, "owner/tiny", "x")):
        hub.private = private
        if token:
            monkeypatch.setenv("HF_TOKEN", "hf_known")
        options = ("--source", "hf", "--endpoint", hub.url, "--allow-token-to-endpoint")
        code, _, err = run(capsys, "fetch", repo, "-o", out, *options)
        assert code == 5
        assert f"no model {repo}" in err and "private" in err
        assert f"search={repo.partition('/')[2]}" in err
        assert ("token from the environment variable HF_TOKEN" in err) == bool(token)
        assert nothing_loadable(out)


def test_a_revision_that_is_not_there(fetch: Fetch, hub, out) -> None:
    code, _, err = fetch(hub, "--revision", "v9")
    assert code == 5
    assert "no revision v9" in err
    assert nothing_loadable(out)


def test_a_disabled_repository(fetch: Fetch, hub) -> None:
    hub.disabled = True
    code, _, err = fetch(hub)
    assert code == 5
    assert "is disabled" in err and "No account and no token changes that" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gated": "auto"}, "受限模型"),
        ({"private": True}, "找不到模型"),
        ({"disabled": True}, "已被禁用"),
    ],
)
def test_in_chinese(fetch: Fetch, hub, monkeypatch, change: dict[str, object], words: str) -> None:
    for name, value in change.items():
        setattr(hub, name, value)
    assert words in fetch(hub, "--lang", "zh")[2]
    assert words not in fetch(hub)[2]
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert words in fetch(hub)[2]
    assert words not in fetch(hub, "--lang", "en")[2]


# Endpoints that are not what they should be


def test_a_mirror_that_strips_the_headers_of_a_hub(fetch: Fetch, hub, out) -> None:
    """A proxy that passes files on and answers the lists itself, or with something else."""
    hub.server.fail("/api/*", Fault(status=200, headers={"Content-Type": "application/json"}, body=b"{}", times=ALWAYS))
    code, _, err = fetch(hub)
    assert code == 5
    assert f"{hub.url} does not answer as a hub does" in err
    assert any(line.startswith("curl") for line in typed(err))
    assert nothing_loadable(out)


def test_a_mirror_without_x_repo_commit_is_held_to_the_list(fetch: Fetch, hub, out) -> None:
    """The client of the Hub refuses it. Here each file's hash is checked, so the header is not missed."""
    hub.no_commit_header = True
    code, _, err = fetch(hub)
    assert code == 0, err
    assert is_whole(out)


def test_a_mirror_that_lags(fetch: Fetch, hub, out, capsys) -> None:
    old = hub.commit
    with FakeHub(repository(seed=1)) as ahead:
        code, _, err = fetch(hub, "--revision", ahead.commit)
        assert code == 5
        assert ahead.commit in err and f"main is at {old}" in err and "lag" in err
        assert fetch(ahead)[0] == 0
        lock = out.with_name("copied.lock.json")
        lock.write_bytes((out / LOCK).read_bytes())
        code, _, err = run(
            *(capsys, "fetch", "owner/tiny", "-o", out.with_name("second"), "--source", "hf"),
            *("--endpoint", hub.url, "--lock", lock),
        )
    assert code == 5
    assert f"The lock {lock} asks for it" in err and ahead.commit in err and f"main is at {old}" in err
    assert nothing_loadable(out.with_name("second"))


def test_a_mirror_that_answers_with_another_commit(fetch: Fetch, hub, out) -> None:
    wanted = hub.push(repository(seed=2), branch="wanted")
    hub.branches[wanted] = hub.commit  # a branch of that name: the answer has another sha
    code, _, err = fetch(hub, "--revision", wanted)
    assert code == 1
    assert wanted in err and hub.commit in err
    assert nothing_loadable(out)


@pytest.mark.parametrize("pattern", ["*/revision/*", "*/tree/*", f"*/resolve/*{SMALL}*"])
def test_a_web_page_instead_of_data(fetch: Fetch, hub, out, pattern: str) -> None:
    hub.server.fail(pattern, html())
    code, _, err = fetch(hub)
    assert code == 5
    assert "web page" in err and "log in to the network" in err
    assert "<html" not in err.lower()
    assert nothing_loadable(out)


def test_a_web_page_from_the_cdn_of_one_file(fetch: Fetch, hub, out) -> None:
    """Whether it is asked again at once or by the next run: the page is never taken for the file."""
    hub.cdn.fail(f"*{SHARD}*", html(times=1))
    code, _, err = fetch(hub)
    assert (code, (out / LOCK).exists()) in ((0, True), (5, False)), err
    assert "web page" in err
    assert fetch(hub)[0] == 0
    assert is_whole(out)


# Servers that fail


@pytest.mark.parametrize(
    ("pattern", "status"),
    [("*/revision/*", 429), ("*/tree/*", 503), (f"*{SMALL}*", 502), (f"*{SHARD}*", 500), (f"*{SHARD}*", 504)],
)
def test_a_busy_server_is_asked_again(fetch: Fetch, hub, out, pattern: str, status: int) -> None:
    for server in (hub.server, hub.cdn):
        server.fail(pattern, Fault(status=status, times=2))
    code, _, err = fetch(hub)
    assert code == 0, err
    assert is_whole(out)


def test_retry_after_is_waited_for(fetch: Fetch, hub) -> None:
    hub.server.fail("*/tree/*", Fault(status=429, headers={"Retry-After": "1"}, times=1))
    assert fetch(hub)[0] == 0
    first, second = asked(hub.server, "/tree/")[:2]
    assert second.when - first.when >= 1


def test_a_server_that_stays_busy_ends_clearly(fetch: Fetch, hub, out) -> None:
    hub.server.fail("*/tree/*", Fault(status=503, times=ALWAYS))
    code, _, err = fetch(hub)
    assert code == 4
    assert "503" in err and "check your internet" not in err
    assert len(asked(hub.server, "/tree/")) == 5
    assert nothing_loadable(out)


@pytest.mark.parametrize("wait", [None, "3600"])
def test_a_limit_of_requests_says_when(fetch: Fetch, hub, wait: str | None) -> None:
    headers = {"Retry-After": wait} if wait else {}
    hub.server.fail("*/revision/*", Fault(status=429, headers=headers, times=ALWAYS))
    code, _, err = fetch(hub)
    assert code == 4
    assert "too many requests" in err
    assert ("answers again in 3600 s" in err) == bool(wait)


def test_nobody_is_there(capsys, hub, out) -> None:
    with FakeHub(FILES) as gone:
        pass
    code, _, err = run(capsys, "fetch", "owner/tiny", "-o", out, "--source", "hf", "--endpoint", gone.url)
    assert code == 4
    assert "cannot be reached" in err and "HTTPS_PROXY" in err
    assert "What was fetched" not in err
    assert nothing_loadable(out)


def test_no_content_length(fetch: Fetch, hub, out) -> None:
    for server in (hub.server, hub.cdn):
        server.fail("*", Fault(no_length=True, times=ALWAYS))
    code, _, err = fetch(hub)
    assert code == 0, err
    assert is_whole(out)


def test_a_connection_that_breaks_goes_on_where_it_was(fetch: Fetch, hub, out) -> None:
    hub.cdn.fail(f"*{SHARD}*", Fault(drop_after=5000, times=2))
    code, _, err = fetch(hub)
    assert code == 0, err
    assert is_whole(out)
    ranges = [request.headers.get("range") for request in asked(hub.cdn, SHARD)]
    assert ranges == [None, "bytes=5000-", "bytes=10000-"]


def test_a_link_of_the_cdn_that_grew_old(fetch: Fetch, hub, out) -> None:
    hub.cdn.fail(f"*{SHARD}*", Fault(drop_after=5000, times=1))
    hub.cdn.fail(f"*{SHARD}*", Fault(status=403, times=1))
    code, _, err = fetch(hub)
    assert code == 0, err
    assert is_whole(out)
    assert len(asked(hub.server, f"resolve/{hub.commit}/{SHARD}")) == 3  # a new link each time


def test_the_next_process_goes_on_where_the_last_one_was(fetch: Fetch, hub, out) -> None:
    hub.cdn.fail(f"*{SHARD}*", Fault(drop_after=5000, times=1))
    hub.cdn.fail(f"*{SHARD}*", Fault(drop_after=0, times=4))
    code, _, err = fetch(hub)
    assert code == 4
    assert "run the same shipvlm fetch again" in err
    assert nothing_loadable(out) and (out / UNFINISHED / LOCK).is_file()
    before = len(hub.cdn.requests)
    code, _, err = fetch(hub)
    assert code == 0, err
    assert is_whole(out)
    assert [(r.path.rpartition("/")[2], r.headers.get("range")) for r in hub.cdn.requests[before:]] == [
        (SHARD, "bytes=5000-")
    ]


def test_the_next_process_stays_at_the_commit_when_the_branch_moves(fetch: Fetch, hub, out) -> None:
    hub.cdn.fail(f"*{SHARD}*", Fault(drop_after=5000, times=1))
    hub.cdn.fail(f"*{SHARD}*", Fault(drop_after=0, times=4))
    assert fetch(hub)[0] == 4
    hub.push(repository(seed=3))
    code, _, err = fetch(hub)
    assert code == 0, err
    assert is_whole(out)  # the first commit's bytes, not a mixture


# Bytes that are not the right ones


def flipped(server: Server, times: int) -> None:
    server.fail(f"*{SHARD}*", Fault(flip=7000, times=times))


def cut(server: Server, times: int) -> None:
    server.fail(f"*{SHARD}*", Fault(truncate=7000, times=times))


@pytest.mark.parametrize("damage", [flipped, cut])
def test_bytes_damaged_on_the_way_are_fetched_again(fetch: Fetch, hub, out, damage) -> None:
    damage(hub.cdn, 1)
    code, _, err = fetch(hub)
    assert code == 0, err
    assert is_whole(out)


def test_bytes_that_stay_wrong_come_from_the_second_source(fetch: Fetch, hub, scope, out) -> None:
    flipped(hub.cdn, ALWAYS)
    code, _, err = fetch(hub, "--source", "auto")
    assert code == 0, err
    assert is_whole(out)
    assert len(asked(hub.cdn, SHARD)) == 2  # it fails twice, then the other one is asked, for this file alone
    assert [request.query["FilePath"] for request in asked(scope.server, "FilePath")] == [SHARD]
    assert any((out / QUARANTINE).iterdir())


def test_bytes_that_stay_wrong_without_a_second_source(fetch: Fetch, hub, out) -> None:
    flipped(hub.cdn, ALWAYS)
    code, _, err = fetch(hub)
    assert code == 1
    assert SHARD in err
    assert nothing_loadable(out)
    assert not (out / SHARD).exists()


def test_a_small_file_has_no_sha256_on_the_hub_and_is_checked_too(fetch: Fetch, hub, out) -> None:
    hub.server.fail(f"*{SMALL}*", Fault(flip=3, times=1))
    code, _, err = fetch(hub)
    assert code == 0, err
    assert is_whole(out)


def rot(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [rot, shorten, Path.unlink])
@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_damage_on_disk_is_found_and_only_that_file_is_fetched(fetch: Fetch, hub, scope, out, source, damage) -> None:
    ask = fetch if source == "hf" else lambda _: modelscope_alone(fetch)
    assert ask(hub)[0] == 0
    damage(out / SHARD)
    hub.cdn.requests.clear()
    scope.server.requests.clear()
    code, _, err = ask(hub)
    assert code == 0, err
    assert is_whole(out)
    fetched = [r.path.rpartition("/")[2] for r in hub.cdn.requests]
    fetched += [r.query["FilePath"] for r in asked(scope.server, "FilePath")]
    assert fetched == [SHARD]


@pytest.mark.parametrize("case", ["gone", "refused", "offline"])
def test_what_is_there_is_verified_and_not_passed_off_as_new(fetch: Fetch, hub, out, monkeypatch, case) -> None:
    assert fetch(hub)[0] == 0
    if case == "refused":
        hub.gated = "auto"
    elif case == "offline":
        monkeypatch.setattr(OFFLINE, True)
    else:
        hub.server.fail("*", Fault(drop_after=0, times=ALWAYS))
    code, printed, err = fetch(hub)
    assert code == 0, err
    said = printed + err
    assert "kept" in said and hub.commit in said
    assert case == "refused" or "not refreshed" in said
    assert is_whole(out)


def test_a_branch_that_moved_is_said(fetch: Fetch, hub, out) -> None:
    assert fetch(hub)[0] == 0
    old, new = hub.commit, hub.push(repository(seed=4))
    code, printed, err = fetch(hub)
    assert code == 0, err
    assert old in printed + err and new in printed + err
    assert is_whole(out)


def test_offline_and_not_complete(fetch: Fetch, hub, out, monkeypatch) -> None:
    assert fetch(hub)[0] == 0
    (out / SHARD).unlink()
    monkeypatch.setattr(OFFLINE, True)
    code, _, err = fetch(hub)
    assert code == 3
    assert SHARD in err and "unset HF_HUB_OFFLINE" in err
    assert SHARDS[0] not in err


def test_offline_and_nothing_there(fetch: Fetch, hub, out, monkeypatch) -> None:
    monkeypatch.setattr(OFFLINE, True)
    code, _, err = fetch(hub)
    assert code == 3
    assert "Offline mode is on" in err
    assert "ModelScope" not in fetch(None, "--source", "auto")[2]
    assert hub.server.requests == [] and nothing_loadable(out)


# Disks, paths, redirects


def test_a_disk_that_is_too_small_is_seen_before_the_first_byte(fetch: Fetch, hub, out, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"total": 10, "used": 0, "free": 10})())
    code, _, err = fetch(hub)
    assert code == 3
    assert re.search(r"[0-9] [kMG]?B", err)
    assert hub.cdn.requests == [] and nothing_loadable(out)


def test_a_disk_that_fills_up(fetch: Fetch, hub, out, monkeypatch) -> None:
    """Somebody else fills it: what came stays, and the next run goes on."""
    opened = Path.open

    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def open_full(self: Path, mode: str = "r", *arguments, **options):
        file = opened(self, mode, *arguments, **options)
        return Full(file) if "b" in mode and mode != "rb" and SHARD in self.name else file

    with monkeypatch.context() as full:
        full.setattr(Path, "open", open_full)
        code, _, err = fetch(hub)
    assert code == 3
    assert "disk" in err or "space" in err
    assert nothing_loadable(out)
    assert fetch(hub)[0] == 0
    assert is_whole(out)


@pytest.mark.parametrize("path", ["../evil.json", "a/../../evil.json", "/evil.json", "C:\\evil.json", "a//b.json"])
@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_a_path_that_leaves_the_folder(fetch: Fetch, hub, scope, out, path: str, source: str) -> None:
    for server in (hub, scope):
        server.push({**FILES, path: b"{}"})
    code, _, err = fetch(hub, "--include", "*.json") if source == "hf" else modelscope_alone(fetch)
    assert code == 2
    assert "evil.json" in err or "b.json" in err
    assert {p.name for p in out.parent.rglob("*") if p.is_file() and not p.name.endswith(".lock")} == set()


def test_a_redirect_to_another_host_gets_no_token(fetch: Fetch, hub, out, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_approved")
    code, _, err = fetch(hub, "--allow-token-to-endpoint")
    assert code == 0, err
    assert is_whole(out)
    assert any("authorization" in request.headers for request in hub.server.requests)
    assert hub.cdn.requests and not any("authorization" in request.headers for request in hub.cdn.requests)


# ModelScope


def test_modelscope_gives_the_same_lock_contents(fetch: Fetch, hub, scope, out, capsys) -> None:
    assert fetch(hub)[0] == 0
    lock = json.loads((out / LOCK).read_text())
    other = out.with_name("other")
    code, _, err = run(capsys, "fetch", "owner/tiny", "-o", other, "--source", "modelscope", "--lock", out / LOCK)
    assert code == 0, err
    assert is_whole(other)
    assert json.loads((other / LOCK).read_text())["files"] == lock["files"]


@pytest.mark.parametrize("says_commit", [True, False])
def test_modelscope_moves_its_branch_and_the_lock_holds(fetch: Fetch, scope, out, capsys, says_commit: bool) -> None:
    """Where it says its commit, that is asked for again. Where it does not, the other bytes are noticed."""
    scope.says_commit = says_commit
    assert modelscope_alone(fetch)[0] == 0
    scope.push(repository(seed=5))
    other = out.with_name("other")
    code, _, err = run(capsys, "fetch", "owner/tiny", "-o", other, "--source", "modelscope", "--lock", out / LOCK)
    if says_commit:
        assert code == 0, err
        assert is_whole(other)
    else:
        assert code == 1
        assert SHARD in err
        assert nothing_loadable(other)


@pytest.mark.parametrize("pattern", ["*/repo/files*", f"*FilePath={SHARD}*"])
def test_modelscope_says_403_now_and_then(fetch: Fetch, scope, out, pattern: str) -> None:
    """Of what it has just shown: its own client asks again too."""
    scope.server.fail(pattern, Fault(status=403, times=1))
    code, _, err = modelscope_alone(fetch)
    assert code == 0, err
    assert is_whole(out)


@pytest.mark.parametrize(
    ("private", "token", "words", "remedy"),
    [
        (True, None, "is gated or private on", "modelscope login"),
        (False, "ms-wrong", "refuses the token from the environment variable MODELSCOPE_API_TOKEN", "unset"),
    ],
)
def test_modelscope_refuses(fetch: Fetch, scope, monkeypatch, private, token, words, remedy) -> None:
    scope.private = private
    if token:
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", token)
    code, _, err = modelscope_alone(fetch, "--allow-token-to-endpoint")
    assert code == 5
    assert words in err and remedy in err
    assert "hf auth" not in err and "huggingface.co" not in err


def test_modelscope_has_no_such_model(capsys, scope, out) -> None:
    code, _, err = run(capsys, "fetch", "owner/tinny", "-o", out, "--source", "modelscope")
    assert code == 5
    assert "no model owner/tinny" in err


def test_modelscope_flips_a_byte_for_ever(fetch: Fetch, scope, out) -> None:
    scope.server.fail(f"*FilePath={SHARD}*", Fault(flip=7000, times=ALWAYS))
    code, _, err = modelscope_alone(fetch)
    assert code == 1
    assert SHARD in err
    assert nothing_loadable(out)


def test_an_empty_file_is_said_to_be_empty(fetch: Fetch, scope, out) -> None:
    """e3b0c442... is the sha256 of nothing: a known failure of servers, that tells more than two unlike hashes."""
    scope.server.fail(f"*FilePath={SHARD}*", Fault(truncate=0, times=ALWAYS))
    code, _, err = modelscope_alone(fetch)
    assert code == 1
    assert SHARD in err and "empty" in err
    assert nothing_loadable(out)


def test_modelscope_breaks_off_and_goes_on(fetch: Fetch, scope, out) -> None:
    scope.server.fail(f"*FilePath={SHARD}*", Fault(drop_after=5000, times=1))
    scope.server.fail(f"*FilePath={SHARD}*", Fault(drop_after=0, times=4))
    assert modelscope_alone(fetch)[0] == 4
    scope.server.requests.clear()
    assert modelscope_alone(fetch)[0] == 0
    assert is_whole(out)
    assert [r.headers.get("range") for r in asked(scope.server, "FilePath")] == ["bytes=5000-"]


def test_a_server_of_something_else(capsys, out) -> None:
    with Server(lambda request: Reply(404, body=b"not here")) as server:
        code, _, err = run(capsys, "fetch", "owner/tiny", "-o", out, "--source", "hf", "--endpoint", server.url)
    assert code == 5
    assert server.url in err
