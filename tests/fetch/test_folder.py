import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import huggingface_hub
import pytest

from fetch.folder import copy_file, folder_listing
from fetch.source import RemoteFile
from shipvlm.errors import GateError, InputError, SetupError
from shipvlm.lock import LOCK, Lock, LockedFile, write_lock
from tests.fetch.fake_hub import FakeHub

FILES = {"config.json": b"{}", "model.safetensors": os.urandom(9000), "docs/a.md": b"words"}
FILES |= {"README.md": b"card", "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoint"
    for path, content in FILES.items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_bytes(content)
    return made


def listed(folder: Path) -> dict[str, int]:
    return {file.path: file.bytes for file in folder_listing(folder).files}


def test_a_folder_is_listed(folder: Path) -> None:
    listing = folder_listing(folder)
    assert (listing.source, listing.repo, listing.endpoint, listing.commit) == ("folder", "checkpoint", None, None)
    assert listed(folder) == {path: len(content) for path, content in FILES.items()}
    assert {(file.sha256, file.git_blob) for file in listing.files} == {(None, None)}


def test_hidden_folders_and_our_own_names_are_left_out(folder: Path) -> None:
    for path in (".git/config", ".cache/huggingface/x", ".quarantine/config.json.1", "docs/.x/y"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(b"x")
    assert set(listed(folder)) == set(FILES)


def test_the_hashes_of_a_lock_are_listed(folder: Path) -> None:
    files = {path: LockedFile(bytes=len(data), sha256=sha256(data).hexdigest()) for path, data in FILES.items()}
    lock = Lock(
        repo="owner/tiny",
        revision="main",
        commit="0" * 40,
        source="hf",
        endpoint=None,
        licence=None,
        files={path: files[path] for path in ("config.json", "model.safetensors", "docs/a.md")},
        documents={"README.md": files["README.md"]},
    )
    write_lock(lock, folder / LOCK)
    hashes = {path: file.sha256 for path, file in files.items()} | {"empty": None}
    assert {file.path: file.sha256 for file in folder_listing(folder).files} == hashes
    (folder / "config.json").write_bytes(b"[]")
    [config] = [file for file in folder_listing(folder).files if file.path == "config.json"]
    with pytest.raises(GateError, match=r"config\.json"):
        copy_file(folder, config, folder / "part", lambda count: None)


def test_a_folder_whose_fetch_was_broken_off_is_refused(folder: Path) -> None:
    (folder / ".fetch").mkdir()
    (folder / ".fetch" / LOCK).write_text("{}")
    with pytest.raises(InputError, match="not complete"):
        folder_listing(folder)


def test_what_is_no_folder(folder: Path) -> None:
    for path in (folder / "none", folder / "config.json"):
        with pytest.raises(InputError, match="no such folder"):
            folder_listing(path)


def test_a_snapshot_in_the_cache_of_the_hub_is_read_through_its_links(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub:
        snapshot = Path(
            huggingface_hub.snapshot_download(hub.repo, endpoint=hub.url, token=False, cache_dir=tmp_path / "cache")
        )
    assert (snapshot / "docs" / "a.md").is_symlink()
    assert listed(snapshot) == {path: len(content) for path, content in FILES.items()}
    for file in folder_listing(snapshot).files:
        assert copy_file(snapshot, file, tmp_path / "part", lambda count: None)
        assert (tmp_path / "part").read_bytes() == FILES[file.path]
        assert not (tmp_path / "part").is_symlink()
    with pytest.raises(InputError, match="snapshots"):
        folder_listing(snapshot.parent.parent)
    (snapshot / "config.json").resolve().unlink()
    with pytest.raises(InputError, match="does not exist"):
        folder_listing(snapshot)


def test_a_link_inside_the_folder_is_a_file(folder: Path, tmp_path: Path) -> None:
    (folder / "again.json").symlink_to("config.json")
    (folder / "docs" / "up.json").symlink_to("../config.json")
    assert listed(folder)["docs/up.json"] == listed(folder)["again.json"] == 2
    (tmp_path / "other").symlink_to(folder)
    assert set(listed(tmp_path / "other")) == {*FILES, "again.json", "docs/up.json"}


def test_a_link_to_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("canary")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "x").write_text("canary")
    for target in ("../secret.json", str(tmp_path / "secret.json"), "../blobs/x", "/nowhere", "docs/../../secret.json"):
        (folder / "notes.json").symlink_to(target)
        with pytest.raises(InputError, match="outside the folder"):
            folder_listing(folder)
        (folder / "notes.json").unlink()
    (folder / "hop.json").symlink_to("hop2.json")
    (folder / "hop2.json").symlink_to("../secret.json")
    with pytest.raises(InputError, match="outside the folder"):
        folder_listing(folder)


def test_links_to_folders_and_to_nothing_are_refused(folder: Path) -> None:
    (folder / "more").symlink_to("docs")
    with pytest.raises(InputError, match="link to a folder"):
        folder_listing(folder)
    (folder / "more").unlink()
    (folder / "more").symlink_to("none.json")
    with pytest.raises(InputError, match="does not exist"):
        folder_listing(folder)
    (folder / "more").unlink()
    (folder / "more").symlink_to("more")
    with pytest.raises(InputError):
        folder_listing(folder)


def test_a_pipe_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "vocab.json")
    with pytest.raises(InputError, match="a pipe"):
        folder_listing(folder)


def test_a_copy(folder: Path, tmp_path: Path) -> None:
    counts: list[int] = []
    for file in folder_listing(folder).files:
        part = tmp_path / "out" / ".fetch" / f"{file.path}.part"
        assert copy_file(folder, file, part, counts.append) == sha256(FILES[file.path]).hexdigest()
        assert part.read_bytes() == FILES[file.path]
    assert sum(counts) == sum(map(len, FILES.values()))


def test_a_file_that_changed_after_it_was_listed(folder: Path, tmp_path: Path) -> None:
    [config] = [file for file in folder_listing(folder).files if file.path == "config.json"]
    (tmp_path / "secret.json").write_text("canary")
    (folder / "config.json").unlink()
    with pytest.raises(InputError):
        copy_file(folder, config, tmp_path / "part", lambda count: None)
    (folder / "config.json").symlink_to("../secret.json")
    with pytest.raises(InputError, match="outside"):
        copy_file(folder, config, tmp_path / "part", lambda count: None)
    assert not (tmp_path / "part").exists()
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(InputError, match="pipe"):
        copy_file(folder, config, tmp_path / "part", lambda count: None)
    (folder / "config.json").unlink()
    (folder / "config.json").write_bytes(b"longer")
    with pytest.raises(GateError, match="6 bytes"):
        copy_file(folder, config, tmp_path / "part", lambda count: None)


@pytest.mark.parametrize("path", ["../secret.json", "/etc/passwd"])
def test_a_copy_never_leaves_the_folder(folder: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.json").write_text("canary")
    with pytest.raises(InputError, match="outside"):
        copy_file(folder, RemoteFile(path, 6, None, None), tmp_path / "part", lambda count: None)


def test_a_full_disk(folder: Path) -> None:
    """/dev/full is always full."""
    [model] = [file for file in folder_listing(folder).files if file.path == "model.safetensors"]
    with pytest.raises(SetupError, match="full"):
        copy_file(folder, model, Path("/dev/full"), lambda count: None)


def test_a_file_that_may_not_be_read(folder: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from fetch.folder import *; folder = Path(sys.argv[1]);"
        "listing = folder_listing(folder); os.chmod(folder / 'config.json', 0); os.setuid(65534)\n"
        "config = next(file for file in listing.files if file.path == 'config.json')\n"
        "try: copy_file(folder, config, Path('/dev/null'), lambda count: None)\n"
        "except InputError as error: print(error)"
    )
    if os.getuid():
        pytest.skip("needs to be root, to become somebody who is not")
    for parent in (folder, *folder.parents[:-1]):
        parent.chmod(parent.stat().st_mode | 0o755)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert "Permission denied" in done.stdout, done.stderr
