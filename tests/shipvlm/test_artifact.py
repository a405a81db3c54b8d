"""Manifests: what was built is told from what is there."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipvlm.artifact import MANIFEST, checkpoint_digest, folder_digest, read_manifest, verify, write_manifest
from shipvlm.errors import GateError, InputError

FILES = {"a.bin": b"first", "b/c.bin": b"", "b/d.json": b"{}"}


@pytest.fixture
def built(tmp_path: Path) -> Path:
    folder = tmp_path / "built"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_manifest(folder, {"stage": "test", "key": "k"})
    return folder


def test_a_manifest_lists_every_file_with_its_sha256(built: Path) -> None:
    manifest = read_manifest(built)
    assert manifest["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in FILES.items()
    }
    assert (manifest["stage"], manifest["schema_version"]) == ("test", 1)
    assert verify(built) == manifest
    assert folder_digest(built) == hashlib.sha256((built / MANIFEST).read_bytes()).hexdigest()


def test_whoever_may_read_new_files_may_read_all(built: Path) -> None:
    (built / "a.bin").chmod(0o600)
    write_manifest(built, {})
    assert {path.stat().st_mode for path in built.rglob("*") if path.is_file()} == {(built / MANIFEST).stat().st_mode}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "a.bin").write_bytes(b"FIRST"), "a.bin changed"),
        (lambda folder: (folder / "b/c.bin").unlink(), "b/c.bin missing"),
        (lambda folder: (folder / "b/e.bin").write_bytes(b""), "b/e.bin not in the manifest"),
        (lambda folder: (folder / "a.bin").rename(folder / "x"), "a.bin missing; x not in the manifest"),
    ],
)
def test_what_is_not_as_built_is_named(built: Path, change: Callable[[Path], object], message: str) -> None:
    change(built)
    with pytest.raises(GateError, match=message):
        verify(built)


@given(name=st.sampled_from(["a.bin", "b/d.json"]), place=st.integers(0, 100), bit=st.integers(0, 7))
def test_one_turned_bit_is_seen(tmp_path_factory: pytest.TempPathFactory, name: str, place: int, bit: int) -> None:
    folder = tmp_path_factory.mktemp("built")
    (folder / "b").mkdir()
    (folder / "a.bin").write_bytes(FILES["a.bin"])
    (folder / "b/d.json").write_bytes(FILES["b/d.json"])
    write_manifest(folder, {})
    content = bytearray((folder / name).read_bytes())
    content[place % len(content)] ^= 1 << bit
    (folder / name).write_bytes(content)
    with pytest.raises(GateError, match=f"{name} changed"):
        verify(folder)
    shutil.rmtree(folder)


def test_many_changes_are_counted(built: Path) -> None:
    for number in range(9):
        (built / f"x{number}").touch()
    with pytest.raises(GateError, match="x4 and 4 more not in the manifest"):
        verify(built)


def test_links_and_pipes_are_refused(built: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for make in (
        lambda path: path.symlink_to(built / "a.bin"),
        lambda path: path.symlink_to(tmp_path / "elsewhere"),
        os.mkfifo,
    ):
        make(built / "odd")
        with pytest.raises(InputError, match="odd: is a link or no plain file"):
            verify(built)
        (built / "odd").unlink()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema_version": 2, "files": {}}', '{"schema_version": 1, "files": [1]}']
)
def test_a_broken_manifest_is_refused(built: Path, text: str) -> None:
    (built / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="again"):
        verify(built)
    (built / MANIFEST).unlink()
    with pytest.raises(InputError, match=f"has no {MANIFEST}"):
        verify(built)


def test_the_digest_of_a_checkpoint_is_that_of_its_own_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    digest = checkpoint_digest(tiny_checkpoint)
    (copy / "README.md").write_text("notes")
    assert checkpoint_digest(copy) == digest
    for name in ("model.safetensors", "config.json", "chat_template.jinja"):
        original = (copy / name).read_bytes()
        (copy / name).write_bytes(original + b" ")
        assert checkpoint_digest(copy) != digest, name
        (copy / name).write_bytes(original)
    assert checkpoint_digest(copy) == digest
    assert json.loads((copy / "config.json").read_text())
