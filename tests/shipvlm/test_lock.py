"""Locks: the bytes of a fetched checkpoint are told from any others, by each command that loads one."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipvlm.artifact import checkpoint_digest
from shipvlm.errors import GateError, InputError
from shipvlm.lock import (
    LOCK,
    UNFINISHED,
    Lock,
    LockedFile,
    differences,
    files_digest,
    is_commit,
    origin,
    read_lock,
    safe_path,
    verify_lock,
    write_lock,
)
from tests.shipvlm.commands import run

COMMIT = "0123456789abcdef" * 2 + "01234567"


def lock_of(folder: Path, documents: tuple[str, ...] = ("README.md",)) -> Lock:
    """The lock of all that is in `folder`, by the plainest way to hash it."""
    table = {
        path.relative_to(folder).as_posix(): LockedFile(
            bytes=len(path.read_bytes()), sha256=hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK
    }
    return Lock(
        repo="owner/tiny",
        revision="main",
        commit=COMMIT,
        source="hf",
        endpoint="https://hub",
        licence="mit",
        files={name: file for name, file in table.items() if name not in documents},
        documents={name: file for name, file in table.items() if name in documents},
    )


@pytest.fixture
def fetched(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "fetched"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "README.md").write_text("card")
    (folder / "docs").mkdir()
    (folder / "docs/a.md").write_text("a")
    write_lock(lock_of(folder), folder / LOCK)
    return folder


def test_a_lock_is_read_as_it_was_written_and_is_the_same_bytes_every_time(fetched: Path, tmp_path: Path) -> None:
    lock = read_lock(fetched / LOCK)
    assert lock == lock_of(fetched)
    shuffled = lock.model_copy(update={"files": dict(reversed(lock.files.items()))})
    write_lock(shuffled, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (fetched / LOCK).read_bytes()
    assert verify_lock(fetched) == lock
    assert str(tmp_path) not in (fetched / LOCK).read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json: 2 bytes instead of"),
        (lambda folder: (folder / "README.md").write_text("CARD"), "README.md: other bytes"),
        (lambda folder: (folder / "docs/a.md").unlink(), "docs/a.md: missing"),
        (lambda folder: (folder / "added_tokens.json").write_text("{}"), "added_tokens.json: not in the lock"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter_config.json: not in the lock"),
        (lambda folder: (folder / "model-2.safetensors").write_text("{}"), "model-2.safetensors: not in the lock"),
    ],
)
def test_what_is_not_as_locked_is_named(fetched: Path, change: Callable[[Path], object], message: str) -> None:
    change(fetched)
    with pytest.raises(GateError, match=message):
        verify_lock(fetched)


def test_a_link_is_not_what_was_locked_even_with_its_bytes(fetched: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (fetched / "config.json").rename(tmp_path / "outside/config.json")
    (fetched / "config.json").symlink_to(tmp_path / "outside/config.json")
    (fetched / "docs").rename(tmp_path / "outside/docs")
    (fetched / "docs").symlink_to(tmp_path / "outside/docs")
    assert differences(fetched, read_lock(fetched / LOCK)) == {"config.json": "a link", "docs/a.md": "a link"}


def test_notes_beside_a_checkpoint_do_not_matter(fetched: Path) -> None:
    (fetched / "notes.txt").write_text("mine")
    verify_lock(fetched)


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 10**9), bit=st.integers(0, 7), name=st.sampled_from(["a.json", "b/c.txt"]))
def test_one_turned_bit_is_seen(tmp_path_factory, place: int, bit: int, name: str) -> None:
    folder = tmp_path_factory.mktemp("locked")
    (folder / "b").mkdir()
    for path in ("a.json", "b/c.txt"):
        (folder / path).write_bytes(path.encode() * 9)
    lock = lock_of(folder)
    content = bytearray((folder / name).read_bytes())
    content[place % len(content)] ^= 1 << bit
    (folder / name).write_bytes(content)
    assert differences(folder, lock) == {name: "other bytes (sha256)"}
    shutil.rmtree(folder)


def test_many_differences_are_counted(fetched: Path) -> None:
    for path in fetched.glob("*.json"):
        if path.name != LOCK:
            path.unlink()
    with pytest.raises(GateError, match=r"missing and \d more\. Run the same shipvlm fetch again"):
        verify_lock(fetched)


@pytest.mark.parametrize("path", ["a", "a/b.c", "a..b", "...", "a/.hidden", "checkpoint.lock.json.bak", "é/ü"])
def test_a_path_in_the_folder_is_safe(path: str) -> None:
    assert safe_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/passwd", "..", "../a", "a/../b", "a/..", "./a", "a//b", "a/", "a\\b", "a\0b", "a\nb"),
        *("\x1b[2J", ".fetch/a", ".quarantine/a", LOCK, "a\u202eb", ".FETCH/a", "Checkpoint.Lock.JSON"),
    ],
)
def test_any_other_path_is_not(path: str, fetched: Path) -> None:
    with pytest.raises(ValueError):
        safe_path(path)
    values = json.loads((fetched / LOCK).read_text())
    values["files"][path] = {"bytes": 0, "sha256": "0" * 64}
    (fetched / LOCK).write_text(json.dumps(values))
    with pytest.raises(InputError, match="is no lock") as caught:
        read_lock(fetched / LOCK)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("part", "path", "message"),
    [
        ("files", "pytorch_model.bin", "run code"),
        ("files", "docs/MODEL.PTH", "run code"),
        ("files", "modeling_x.py", "none of the data"),
        ("files", "LICENSE.py", "none of the data"),
        ("files", "model.onnx", "none of the data"),
        ("files", "manifest.json", "shipvlm built"),
        ("files", "Graphs.json", "shipvlm built"),
        ("documents", "config.json", "no model card"),
        ("documents", "LICENSE.py", "no model card"),
        ("documents", "docs/README.md", "no model card"),
    ],
)
def test_a_lock_names_nothing_that_is_never_fetched(fetched: Path, part: str, path: str, message: str) -> None:
    values = json.loads((fetched / LOCK).read_text())
    values[part][path] = {"bytes": 0, "sha256": "0" * 64}
    (fetched / LOCK).write_text(json.dumps(values))
    for reader in (verify_lock, origin):
        with pytest.raises(InputError, match=rf"is no lock: {part}\.{re.escape(path)}: it .*{message}"):
            reader(fetched)


@given(st.text())
def test_a_safe_path_stays_in_its_folder(path: str) -> None:
    try:
        safe = safe_path(path)
    except ValueError:
        return
    assert os.path.normpath(f"/folder/{safe}") == f"/folder/{safe}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("schema_version", 2), ("source", "elsewhere"), ("commit", "main"), ("extra", 1), ("repo", None)],
        ("files", {"a": {"bytes": -1, "sha256": "0" * 64}}),
        ("files", {"a": {"bytes": 1, "sha256": "0" * 63}}),
        ("files", {"a": {"bytes": 1, "sha256": "G" * 64}}),
        ("files", ["a"]),
    ],
)
def test_what_is_no_lock_is_refused(fetched: Path, name: str, value: object) -> None:
    values = json.loads((fetched / LOCK).read_text()) | {name: value}
    (fetched / LOCK).write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"is no lock: {name}"):
        verify_lock(fetched)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_broken_lock_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK).write_bytes(content)
    with pytest.raises(InputError, match="is no lock"):
        read_lock(tmp_path / LOCK)
    with pytest.raises(InputError, match="cannot be read"):
        read_lock(tmp_path)


def test_the_digest_is_that_of_the_files_and_of_nothing_else(fetched: Path) -> None:
    lock = read_lock(fetched / LOCK)
    elsewhere = lock.model_copy(update={"source": "modelscope", "commit": None, "documents": {}, "revision": "master"})
    assert files_digest(lock) == files_digest(elsewhere)
    other = lock.model_copy(update={"files": lock.files | {"x": LockedFile(bytes=0, sha256="0" * 64)}})
    assert files_digest(lock) != files_digest(other)
    assert origin(fetched) == {"repo": "owner/tiny", "commit": COMMIT, "licence": "mit", "sha256": files_digest(lock)}
    assert origin(fetched.parent) is None


def test_the_digest_of_a_checkpoint_holds_its_bytes_against_the_lock(fetched: Path, tiny_checkpoint: Path) -> None:
    assert checkpoint_digest(fetched) == checkpoint_digest(tiny_checkpoint)
    weights = (fetched / "model.safetensors").read_bytes()
    (fetched / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(GateError, match=r"model\.safetensors: other bytes"):
        checkpoint_digest(fetched)
    (fetched / "model.safetensors").write_bytes(weights)
    (fetched / "added_tokens.json").write_text("{}")
    with pytest.raises(GateError, match=r"added_tokens\.json: not in the lock"):
        checkpoint_digest(fetched)
    (fetched / "added_tokens.json").unlink()
    (fetched / "chat_template.jinja").unlink()
    with pytest.raises(GateError, match=r"chat_template\.jinja: missing"):
        checkpoint_digest(fetched)


def test_what_this_process_has_just_verified_is_not_hashed_again(fetched: Path) -> None:
    """The digest is the same; what can be seen without hashing is still looked at, and the lock is read again."""
    lock = verify_lock(fetched)
    assert checkpoint_digest(fetched, lock) == checkpoint_digest(fetched)
    other = lock.files | {"config.json": LockedFile(bytes=1, sha256="0" * 64)}
    with pytest.raises(GateError, match=r"config\.json: other bytes"):
        checkpoint_digest(fetched, lock.model_copy(update={"files": other}))
    (fetched / "added_tokens.json").write_text("{}")
    with pytest.raises(GateError, match=r"added_tokens\.json: not in the lock"):
        checkpoint_digest(fetched, lock)
    (fetched / "added_tokens.json").unlink()
    (fetched / "chat_template.jinja").unlink()
    with pytest.raises(GateError, match=r"chat_template\.jinja: missing"):
        checkpoint_digest(fetched, lock)


@pytest.mark.parametrize("command", ["ask", "quantize", "convert", "bench"])
def test_every_command_refuses_other_bytes_and_what_is_not_complete(capsys, command, fetched, tmp_path) -> None:
    arguments = {
        "ask": ("ask", "--model", fetched, "what"),
        "quantize": ("quantize", fetched, "--scheme", "w8a16", "-o", tmp_path / "out"),
        "convert": ("convert", fetched, "-o", tmp_path / "out"),
        "bench": ("bench", "run", fetched, "-o", tmp_path / "out"),
    }[command]
    config = (fetched / "config.json").read_text()
    (fetched / "config.json").write_text(config + " ")
    code, _, err = run(capsys, *arguments)
    assert (code, "config.json" in err) == (1, True), err
    (fetched / "config.json").write_text(config)
    (fetched / UNFINISHED).mkdir()
    shutil.copy(fetched / LOCK, fetched / UNFINISHED / LOCK)
    code, _, err = run(capsys, *arguments)
    assert (code, "not complete" in err) == (2, True), err
    assert not (tmp_path / "out").exists()


def test_verify_tells_a_fetched_folder_by_its_lock(capsys, fetched: Path) -> None:
    code, out, _ = run(capsys, "verify", fetched)
    assert code == 0
    assert f"as locked: owner/tiny at {COMMIT}; digest {files_digest(read_lock(fetched / LOCK))}" in out
    code, out, _ = run(capsys, "verify", fetched, "--json")
    assert json.loads(out)["files"] == len(list(fetched.rglob("*.*"))) - 1
    (fetched / "README.md").unlink()
    code, _, err = run(capsys, "verify", fetched)
    assert (code, "README.md: missing" in err) == (1, True)


def test_a_commit_is_forty_hex_digits() -> None:
    assert is_commit(COMMIT)
    assert not any(map(is_commit, ["main", COMMIT[:-1], COMMIT.upper(), COMMIT + "\n"]))
