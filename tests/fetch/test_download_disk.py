"""What a download does to the disk: nothing outside its folder, nothing lost when it is full, many and large files."""

import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import pytest

from fetch import space
from fetch.download import download
from fetch.hub import hub_source
from fetch.landing import set_aside
from fetch.source import RemoteFile
from fetch.space import bytes_to_come, check_space
from shipvlm.errors import InputError, SetupError
from shipvlm.lock import LockedFile
from tests.fetch.downloading import FILES, WEIGHTS, bring, check
from tests.fetch.fake_hub import FakeHub
from tests.fetch.serving import ALWAYS, Fault, blob


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
    for content, name in ((b"1", "a.1"), (b"2", "a.2"), (b"3", "a.3"), (b"3", "a.3"), (b"2", "a.2"), (b"33", "a.4")):
        (out / "a").write_bytes(content)
        (out / ".quarantine" / "a.x").parent.mkdir(exist_ok=True)
        (out / ".quarantine" / "a.x").write_bytes(b"of the file a.x")
        assert set_aside(out, "a").name == name
        assert not (out / "a").exists()
    kept = {path.name: path.read_bytes() for path in (out / ".quarantine").iterdir()}
    assert kept == {"a.3": b"3", "a.4": b"33", "a.x": b"of the file a.x"}  # each once, and the last two
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
