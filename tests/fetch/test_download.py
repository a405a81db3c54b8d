"""Many files: what is right stays, what is wrong is set aside and asked again, and nothing lands outside the folder."""

import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import pytest

from fetch import request, retry, space
from fetch.access import AccessError
from fetch.download import download
from fetch.hub import hub_source
from fetch.landing import set_aside
from fetch.scope import modelscope_source
from fetch.source import RemoteFile
from fetch.space import bytes_to_come, check_space
from fetch.transfer import TransferError
from shipvlm.errors import GateError, InputError, SetupError
from shipvlm.lock import LockedFile
from tests.fetch.fake_hub import FakeHub
from tests.fetch.fake_modelscope import FakeModelScope
from tests.fetch.serving import ALWAYS, Fault, blob, html

WEIGHTS = "model-1.safetensors"
FILES = {
    WEIGHTS: bytes(range(256)) * 1600,  # 409,600 bytes
    "model-2.safetensors": b"second" * 10_000,
    "config.json": b"{}",
    "sub/folder/tokenizer.json": b'{"a": 1}',
    "empty.json": b"",
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(request, "SILENCE", 5.0)
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub():
    with FakeHub(FILES) as hub:
        yield hub


@pytest.fixture
def scope():
    with FakeModelScope(FILES) as scope:
        yield scope


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def bring(out, *servers, say=lambda line: None, progress=lambda *_: None, workers=4) -> dict[str, LockedFile]:
    sources = []
    for server in servers:
        source = (hub_source if isinstance(server, FakeHub) else modelscope_source)(server.url, None, False)
        sources.append((source, source.list(server.repo, None)))
    for server in servers:
        server.server.requests.clear()
    return download(sources[0][1].files, sources, out, progress, say, workers)


def check(out, files=FILES) -> None:
    assert {path: (out / path).read_bytes() for path in files} == files


def asked(server, path: str) -> int:
    """How often the content of a file was asked for."""
    if isinstance(server, FakeHub):
        return sum(request.path.endswith(path) for request in server.server.requests)
    return sum(request.query.get("FilePath") == path for request in server.server.requests)


def quarantined(out) -> list[str]:
    folder = out / ".quarantine"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_all_files_come_and_are_hashed(hub, out):
    seen = {}
    locked = bring(out, hub, progress=lambda path, count, size: seen.update({path: (count, size)}))
    check(out)
    assert locked == {
        path: LockedFile(bytes=len(content), sha256=sha256(content).hexdigest()) for path, content in FILES.items()
    }
    assert seen == {path: (len(content), len(content)) for path, content in FILES.items()}
    assert not [path for path in (out / ".fetch").rglob("*") if path.is_file()]


def test_the_largest_files_come_first(hub, out):
    bring(out, hub, workers=1)
    paths = [request.path.partition(f"/{hub.commit}/")[2] for request in hub.server.requests]
    assert paths == [WEIGHTS, "model-2.safetensors", "sub/folder/tokenizer.json", "config.json"]


def test_what_is_there_and_right_is_hashed_and_not_asked_for(hub, out):
    first = bring(out, hub)
    seen = {}
    assert bring(out, hub, progress=lambda path, count, size: seen.update({path: (count, size)})) == first
    assert hub.server.requests == []
    assert seen == {path: (len(content), len(content)) for path, content in FILES.items()}


@pytest.mark.parametrize("wrong", [b"x" + FILES[WEIGHTS][1:], FILES[WEIGHTS][:100], b""])
def test_a_file_that_is_wrong_on_disk_is_set_aside_and_only_it_comes_again(hub, out, wrong):
    lines = []
    for number in (1, 2):
        bring(out, hub)
        (out / WEIGHTS).write_bytes(wrong)
        bring(out, hub, say=lines.append)
        check(out)
        assert [request.path.rpartition("/")[2] for request in hub.server.requests] == [WEIGHTS]
        assert (out / ".quarantine" / f"{WEIGHTS}.{number}").read_bytes() == wrong
        assert f"set aside as .quarantine/{WEIGHTS}.{number}" in lines[-1]


def test_a_small_file_without_sha256_in_the_list_is_verified_on_disk_by_gits_id(hub, out):
    bring(out, hub)
    (out / "config.json").write_bytes(b"[]")
    bring(out, hub)
    check(out)
    assert quarantined(out) == ["config.json.1"]


def test_a_byte_that_flips_once_is_set_aside_and_asked_for_again(hub, scope, out):
    hub.cdn.fail("*", Fault(flip=5, method="GET"))
    lines = []
    bring(out, hub, scope, say=lines.append, workers=1)
    check(out)
    assert asked(hub, WEIGHTS) == 2
    assert scope.server.requests == []
    assert quarantined(out) == [f"{WEIGHTS}.1"]
    assert len(lines) == 1
    assert "other bytes" in lines[0] and lines[0].endswith("asking again")


def test_after_two_failures_the_second_source_is_asked_for_that_file_only(hub, scope, out):
    hub.server.fail(f"*{WEIGHTS}", Fault(status=200, body=b"!" * len(FILES[WEIGHTS]), times=ALWAYS))
    lines = []
    bring(out, hub, scope, say=lines.append)
    check(out)
    assert asked(hub, WEIGHTS) == 2
    assert [request.query["FilePath"] for request in scope.server.requests] == [WEIGHTS]
    assert quarantined(out) == [f"{WEIGHTS}.1", f"{WEIGHTS}.2"]
    assert lines[-1].endswith("asking ModelScope at " + scope.url)


def test_bytes_that_are_wrong_everywhere_are_named_and_all_other_files_are_there(hub, scope, out):
    hub.cdn.fail(f"*{blob(FILES[WEIGHTS]).sha256}*", Fault(flip=1, times=ALWAYS))
    scope.server.fail(f"*FilePath={WEIGHTS}*", Fault(truncate=1000, times=ALWAYS))
    with pytest.raises(GateError) as raised:
        bring(out, hub, scope)
    text = str(raised.value)
    for part in (WEIGHTS, hub.url, scope.url, blob(FILES[WEIGHTS]).sha256, "1,000 bytes instead of 409,600", "again"):
        assert part in text
    check(out, {path: content for path, content in FILES.items() if path != WEIGHTS})
    assert not (out / WEIGHTS).exists()
    assert quarantined(out) == [f"{WEIGHTS}.1", f"{WEIGHTS}.2"]
    hub.cdn.faults.clear()
    bring(out, hub)
    check(out)


def test_a_web_page_instead_of_a_file_is_never_written_and_the_second_source_is_asked(hub, scope, out):
    hub.cdn.fail("*", html())
    bring(out, hub, scope)
    check(out)
    assert {request.query["FilePath"] for request in scope.server.requests} == {WEIGHTS, "model-2.safetensors"}
    assert quarantined(out) == []


def test_one_web_page_does_not_end_it(hub, out):
    hub.cdn.fail("*", html(times=1))
    bring(out, hub)
    check(out)


def test_a_web_page_ends_it_where_there_is_no_other_source(hub, out):
    hub.server.fail("*resolve*", html())
    with pytest.raises(AccessError) as raised:
        bring(out, hub)
    assert raised.value.situation == "web-page"
    assert [path for path in out.rglob("*") if path.is_file() and path.stat().st_size] == []


def test_a_source_that_breaks_off_is_taken_over_from_where_it_was(hub, scope, out):
    hub.cdn.fail(f"*{blob(FILES[WEIGHTS]).sha256}*", Fault(drop_after=100_000))
    hub.cdn.fail(f"*{blob(FILES[WEIGHTS]).sha256}*", Fault(drop_after=0, times=ALWAYS))
    lines = []
    bring(out, hub, scope, say=lines.append)
    check(out)
    taken_over = [request for request in scope.server.requests if request.query["FilePath"] == WEIGHTS]
    assert [request.headers.get("range") for request in taken_over] == ["bytes=100000-"]
    assert "broke" in lines[0]


def test_a_network_that_is_gone_is_said_with_every_source_and_keeps_what_came(hub, scope, out):
    for server, pattern in ((hub.cdn, "*"), (scope.server, "*FilePath=model*")):
        server.fail(pattern, Fault(drop_after=100_000))
        server.fail(pattern, Fault(status=503, times=ALWAYS))
    with pytest.raises(TransferError) as raised:
        bring(out, hub, scope, workers=1)
    for part in (WEIGHTS, "model-2.safetensors", hub.url, scope.url, "HTTP 503", "All other files are there"):
        assert part in str(raised.value)
    assert raised.value.exit_code == 4
    assert (out / ".fetch" / f"{WEIGHTS}.part").read_bytes() == FILES[WEIGHTS][:200_000]
    check(out, {path: content for path, content in FILES.items() if "model" not in path})


@pytest.mark.parametrize("status", [401, 403])
def test_a_gate_ends_it_at_once_and_is_not_walked_around(hub, scope, out, status):
    refusal = Fault(status=status, headers={"X-Error-Code": "GatedRepo"}, times=ALWAYS)
    hub.server.fail("*resolve*", refusal)
    lines = []
    with pytest.raises(AccessError) as raised:
        bring(out, hub, scope, say=lines.append, workers=1)
    assert raised.value.situation == "gated-no-token"
    assert len(hub.server.requests) == 1
    assert scope.server.requests == lines == []


def test_a_gate_that_closes_in_mid_way_keeps_what_came(hub, out):
    hub.cdn.fail("*", Fault(drop_after=200_000))
    refusal = Fault(status=403, headers={"X-Error-Code": "GatedRepo"}, times=ALWAYS)
    hub.cdn.fail("*", refusal)
    with pytest.raises(AccessError):
        bring(out, hub, workers=1)
    assert (out / ".fetch" / f"{WEIGHTS}.part").read_bytes() == FILES[WEIGHTS][:200_000]


def test_a_cdn_that_says_403_once_is_asked_again(hub, out):
    hub.cdn.fail("*", Fault(status=403))
    bring(out, hub)
    check(out)


def test_a_file_that_one_source_does_not_have_comes_from_the_other(hub, scope, out):
    gone = Fault(status=404, headers={"X-Error-Code": "EntryNotFound"}, times=ALWAYS)
    hub.server.fail("*resolve*config.json", gone)
    bring(out, hub, scope)
    check(out)
    assert asked(scope, "config.json") == 1


@pytest.mark.parametrize(
    "path", ["../x", "/x", "a/../../x", "a//x", ".fetch/x", ".quarantine/x", "checkpoint.lock.json"]
)
def test_a_path_that_leaves_the_folder_is_refused_before_anything_comes(hub, out, path):
    source = hub_source(hub.url, None, False)
    listing = source.list(hub.repo, None)
    with pytest.raises(InputError):
        download([*listing.files, RemoteFile(path, 1, "0" * 64, None)], [(source, listing)], out, print, print)
    assert [path for path in out.parent.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "link", ["sub", "sub/folder", ".fetch", ".fetch/sub", "config.json", ".fetch/config.json.part"]
)
def test_a_planted_link_is_refused_and_not_followed(hub, out, tmp_path, link):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(b"mine")
    (out / link).parent.mkdir(parents=True)
    (out / link).symlink_to(elsewhere / "file" if "config" in link else elsewhere)
    with pytest.raises(InputError, match="is a link"):
        bring(out, hub)
    assert [path.name for path in elsewhere.iterdir()] == ["file"]
    assert (elsewhere / "file").read_bytes() == b"mine"


def test_what_is_set_aside_goes_to_no_link_and_over_no_file(out, tmp_path):
    out.mkdir()
    for content in (b"1", b"2", b"3"):
        (out / "a").write_bytes(content)
        set_aside(out, "a")
    assert [(out / ".quarantine" / f"a.{n}").read_bytes() for n in (1, 2, 3)] == [b"1", b"2", b"3"]
    (out / "b").symlink_to(tmp_path)
    assert set_aside(out, "b").is_symlink()
    shutil.rmtree(out / ".quarantine")
    (out / ".quarantine").symlink_to(tmp_path)
    (out / "a").write_bytes(b"4")
    with pytest.raises(InputError, match="is a link"):
        set_aside(out, "a")


def test_space_counts_what_is_still_to_come(out, monkeypatch):
    files = [RemoteFile("a", 1000, "0" * 64, None), RemoteFile("b/c", 500, "0" * 64, None)]
    monkeypatch.setattr(space.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10_000, 9_000, 1_000))
    assert bytes_to_come(files, out) == 1500
    with pytest.raises(SetupError, match=r"1.5 kB are still to come and 1.0 kB are free on that disk; free 0.6 kB"):
        check_space(files, out)
    (out / ".fetch" / "b").mkdir(parents=True)
    (out / ".fetch" / "b" / "c.part").write_bytes(b"x" * 400)
    assert bytes_to_come(files, out) == 1100
    with pytest.raises(SetupError):
        check_space(files, out)
    (out / "a").write_bytes(b"x" * 1000)
    assert bytes_to_come(files, out) == 100
    check_space(files, out)


def test_a_disk_that_is_too_small_is_said_before_the_first_byte(hub, out, monkeypatch):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(SetupError, match=r"469.6 kB are still to come"):
        bring(out, hub)
    assert hub.server.requests == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 700 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", place], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip(f"may not mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_in_mid_way_keeps_what_came_and_says_how_much_is_missing(hub, small_disk):
    out = small_disk / "out"
    filler = small_disk / "filler"

    def fill(path: str, count: int, size: int) -> None:
        """Somebody else writes to the same disk."""
        if path == WEIGHTS and not filler.exists():
            filler.write_bytes(b"x" * 400_000)

    with pytest.raises(SetupError, match=r"are still to come and .* are free on that disk; free "):
        bring(out, hub, progress=fill, workers=1)
    part = out / ".fetch" / f"{WEIGHTS}.part"
    there = part.stat().st_size
    assert 0 < there < len(FILES[WEIGHTS])
    filler.unlink()
    bring(out, hub)
    check(out)
    assert [r.headers.get("range") for r in hub.server.requests if r.path.endswith(WEIGHTS)] == [f"bytes={there}-"]


def test_a_stalled_server_does_not_hold_up_the_end(hub, out):
    hub.cdn.fail("*", Fault(hang=60.0, times=ALWAYS))

    def fail(path: str, count: int, size: int) -> None:
        if path == "config.json":
            raise KeyboardInterrupt

    start = monotonic()
    with pytest.raises(KeyboardInterrupt):
        bring(out, hub, progress=fail)
    assert monotonic() - start < 4


def test_200_small_files_come_over_few_connections(out, monkeypatch):
    files = {f"part/{number:03}.json": b"%d" % number * 100 for number in range(200)}
    with FakeHub(files) as hub:
        accepted = []
        accept = hub.server.http.process_request
        monkeypatch.setattr(hub.server.http, "process_request", lambda *came: (accepted.append(came), accept(*came)))
        bring(out, hub, workers=8)
    check(out, files)
    assert len(accepted) <= 9


@pytest.fixture
def large():
    """A path in memory where there is such a place: disks can be slow at reading what was never written."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder) / "large"


@pytest.mark.slow
def test_a_sparse_file_of_3_gb(large, out):
    size = 3 << 30
    with large.open("wb") as file:
        file.write(b"start")
        file.seek(size - 3)
        file.write(b"end")
    expected = sha256(b"start")
    for length in [1 << 20] * 3071 + [(1 << 20) - 8]:
        expected.update(bytes(length))
    expected.update(b"end")
    with FakeHub({"model.safetensors": blob(large, expected.hexdigest())}) as hub:
        locked = bring(out, hub)["model.safetensors"]
    assert locked == LockedFile(bytes=size, sha256=expected.hexdigest())
    with (out / "model.safetensors").open("rb") as file:
        assert file.read(6) == b"start\0"
        assert file.seek(-4, 2) == size - 4
        assert file.read() == b"\0end"
