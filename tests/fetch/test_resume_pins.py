"""What was pinned stays pinned: a fetch that goes on, or a folder that is there, never ends with other bytes."""

import errno
from pathlib import Path
from typing import Any

import pytest

import shipvlm.lock
from fetch.access import AccessError
from fetch.stage import Fetched, fetch, fetch_folder
from fetch.transfer import TransferError
from shipvlm.errors import GateError, InputError, SetupError, ShipvlmError
from shipvlm.lock import LOCK, QUARANTINE, UNFINISHED, read_lock, verify_lock
from shipvlm.recipe import ModelSection
from tests.fetch.fake_hub import FakeHub
from tests.fetch.made_repository import SHARDS, repository
from tests.fetch.serving import ALWAYS, Fault

FILES = repository(numbers=300)
OTHER = repository(seed=5, numbers=300)
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def do(hub, out: Path, said: list[str]):
    def run(**changes: Any) -> Fetched:
        values = {"path": out, "repo": "owner/tiny", "endpoint": hub.url} | changes
        return fetch(ModelSection(**values), lambda *_: None, said.append)

    return run


def broken_off(do, hub: FakeHub, pattern: str = "*/resolve/*/config.json", **changes: Any) -> None:
    hub.server.fail(pattern, Fault(status=503, times=ALWAYS))
    with pytest.raises(ShipvlmError):
        do(source="hf", **changes)
    hub.server.faults.clear()


# Going on


def test_a_commit_does_not_go_on_with_another_source(do, hub, scope, out: Path) -> None:
    scope.push(OTHER)
    broken_off(do, hub, revision=hub.commit)
    with pytest.raises(AccessError) as error:
        do(revision=hub.commit, endpoint=NOWHERE)
    assert error.value.situation == "unreachable"
    with pytest.raises(AccessError):
        do(endpoint=NOWHERE)  # a branch that was pinned is no different
    assert not (out / LOCK).exists()
    do(revision=hub.commit)
    assert (out / SHARDS[0]).read_bytes() == FILES[SHARDS[0]]


def test_another_source_does_not_take_over_a_part(do, hub, scope, out: Path) -> None:
    for server in (hub, scope):
        server.push(FILES, "v1")
    scope.push(OTHER)
    broken_off(do, hub, revision="v1")
    with pytest.raises(InputError, match="go on with --source hf, or give another folder"):
        do(revision="v1", source="modelscope", endpoint=scope.url)
    assert not (out / LOCK).exists()
    assert do(revision="v1").lock.revision == "v1"


def test_the_second_source_is_asked_for_the_same_tag(do, hub, scope, said: list[str]) -> None:
    for server in (hub, scope):
        server.push(FILES, "v1")
    scope.push(OTHER)
    broken_off(do, hub, revision="v1")
    do()
    assert [line for line in said if "has other files" in line] == []


def test_what_modelscope_began_alone_goes_on_there(do, hub, scope, out: Path) -> None:
    scope.server.fail("*FilePath=*model-00002*", Fault(status=503, times=ALWAYS))
    with pytest.raises(TransferError):
        do(endpoint=NOWHERE)
    scope.server.faults.clear()
    hub.push(OTHER)
    done = do()
    assert (done.lock.source, done.lock.commit) == ("modelscope", scope.commit)
    assert (out / SHARDS[0]).read_bytes() == FILES[SHARDS[0]]


def test_a_given_lock_goes_on_from_whoever_has_its_bytes(do, hub, scope, out: Path, tmp_path: Path) -> None:
    do(path=tmp_path / "first", source="hf")
    broken_off(do, hub, lock=tmp_path / "first" / LOCK)
    done = do(lock=tmp_path / "first" / LOCK, endpoint=NOWHERE)
    assert (done.lock.source, done.lock.files) == ("modelscope", read_lock(tmp_path / "first" / LOCK).files)


def test_files_of_an_include_that_is_given_up_do_not_stay(do, hub, out: Path, said: list[str]) -> None:
    hub.push({**FILES, "docs/a.md": b"hello", "zz.safetensors": b"z" * 50})
    hub.cdn.fail("*00002*", Fault(status=503, times=ALWAYS))
    with pytest.raises(TransferError):
        do(source="hf", include=("docs/*", "zz*"))
    hub.cdn.faults.clear()
    lock = do(source="hf").lock
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    left = {path for path in there if not path.startswith(QUARANTINE)}
    assert left == {LOCK, *lock.files, *lock.documents}
    assert {f"{QUARANTINE}/docs/a.md.1", f"{QUARANTINE}/zz.safetensors.1"} <= there
    assert any(line.startswith("docs/a.md: is not asked for any more") for line in said)


# A finished folder that is extended, broken off

MORE = {"docs/a.md": b"hello", "extra-1.safetensors": b"y" * 50, "extra-2.safetensors": b"z" * 50, "pics/b.png": b"b"}
ASKED = ("docs/*", "extra*")


@pytest.fixture
def half(do, hub, out: Path) -> Path:
    """`FILES` with their lock, and all but one file of what was asked for in addition; and a file of the owner's."""
    hub.push({**FILES, **MORE})
    do(source="hf")
    (out / "notes.txt").write_text("mine")
    hub.cdn.fail("*extra-2*", Fault(status=503, times=ALWAYS))
    with pytest.raises(TransferError):
        do(source="hf", include=ASKED)
    hub.cdn.faults.clear()
    assert (out / "docs/a.md").is_file() and (out / "extra-1.safetensors").is_file()
    return out


def agree(out: Path, *more: str) -> bool:
    """Whether the folder holds what its lock says, `FILES` and these, and nothing else but the owner's file."""
    lock = verify_lock(out)
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    there = {path for path in there if not path.startswith(QUARANTINE)} - {LOCK, "notes.txt"}
    return there == {*lock.files, *lock.documents} == {*FILES, *more} and (out / "notes.txt").is_file()


def test_an_extension_that_is_given_up_leaves_what_there_was(do, hub, half: Path, said: list[str]) -> None:
    with pytest.raises(InputError, match="not complete"):
        verify_lock(half)
    before = (half / LOCK).read_bytes()
    assert do(source="hf", endpoint=NOWHERE).kept  # without asking anybody
    assert agree(half) and (half / LOCK).read_bytes() == before
    aside = {path.name for path in (half / QUARANTINE).rglob("*") if path.is_file()}
    assert aside == {"a.md.1", "extra-1.safetensors.1"}
    assert any(line.startswith("docs/a.md: is not asked for any more") for line in said)


def test_an_extension_goes_on_where_it_was(do, hub, half: Path) -> None:
    before = len(hub.server.requests)
    assert not do(source="hf", include=ASKED).kept
    assert agree(half, "docs/a.md", "extra-1.safetensors", "extra-2.safetensors")
    assert [r.path.rpartition("/")[2] for r in hub.server.requests[before:] if "/resolve/" in r.path] == [
        "extra-2.safetensors"
    ]
    assert not (half / QUARANTINE).exists()


def test_another_extension_takes_the_place_of_one_that_is_given_up(do, hub, half: Path) -> None:
    hub.server.fail("*b.png", Fault(status=503, times=ALWAYS))
    with pytest.raises(TransferError):
        do(source="hf", include=("pics/*",))
    hub.server.faults.clear()
    do(source="hf", include=("pics/*",))
    assert agree(half, "pics/b.png")


def test_an_extended_copy_that_is_broken_off(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(*include: str) -> Fetched:
        return fetch_folder(source, out, lambda *_: None, lambda _: None, include)

    source = made(tmp_path / "model", {**FILES, "a.txt": b"a", "b.txt": b"b"})
    copy()
    (out / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr("fetch.stage.final_path", lambda folder, path: folder / path if path != "b.txt" else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            copy("?.txt")
    assert (out / "a.txt").is_file()
    assert copy().kept and agree(out)


# A folder that is copied


def made(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (OTHER, SHARDS[0]),
        ({"README.md": b"other words"}, "README.md: .* bytes"),
        ({"added_tokens.json": b"{}"}, "added_tokens.json: is not in the copy"),
    ],
)
def test_a_copy_is_kept_only_while_it_is_one(tmp_path: Path, out: Path, change: dict[str, bytes], named: str) -> None:
    def copy(folder: Path) -> Fetched:
        return fetch_folder(folder, out, lambda *_: None, lambda _: None)

    first = made(tmp_path / "a" / "model", {**FILES, "extra.safetensors": b"not loaded"})
    copy(first)
    assert copy(first).kept
    before = (out / SHARDS[0]).read_bytes()
    with pytest.raises(InputError, match=f"holds another copy than .*{named}"):
        copy(made(tmp_path / "b" / "model", {**FILES, **change}))
    with pytest.raises(InputError, match=f"holds another copy than .*{named}"):
        copy(made(first, change))
    assert (out / SHARDS[0]).read_bytes() == before


# Links and a disk


@pytest.mark.parametrize("name", [UNFINISHED, f"{UNFINISHED}/.{LOCK}.new", f".{LOCK}.new"])
def test_a_planted_link_is_not_written_through(do, hub, out: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    if name == f".{LOCK}.new":
        do(source="hf")
        (out / SHARDS[0]).unlink()
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).symlink_to(outside if name == UNFINISHED else outside / "file")
    if name == UNFINISHED:
        with pytest.raises(InputError, match="is a link"):
            do(source="hf")
    else:
        do(source="hf")
        verify_lock(out)
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("file", "precious")]


def test_a_disk_that_is_full_when_the_lock_is_written(do, hub, out: Path, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shipvlm.lock.os, "fsync", full)
        with pytest.raises(SetupError, match="the disk is full; make room"):
            do(source="hf")
    assert not do(source="hf").kept


def test_a_folder_that_cannot_be_written_is_named(do, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        do(source="hf", path=tmp_path / "file" / "out")


# Settings of ModelScope


@pytest.mark.parametrize("setting", ["MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN", "the stored login of ModelScope"])
def test_auto_does_without_modelscope_when_its_settings_are_wrong(
    do, hub, said: list[str], monkeypatch, setting: str
) -> None:
    if setting.isupper():
        monkeypatch.setenv(setting, "two words")
    else:
        monkeypatch.setattr("modelscope_hub.HubConfig.load_token", lambda _: 1 / 0)
    do()
    assert said[0].startswith(f"ModelScope is not asked: {setting}")
    with pytest.raises(InputError):
        do(source="modelscope", endpoint=None)


# A lock that does not fit


def test_what_to_do_about_a_lock_that_does_not_fit(do, hub, scope, out: Path, tmp_path: Path) -> None:
    do(source="hf")
    lock = out / LOCK
    scope.push(OTHER)
    again = rf"shipvlm fetch owner/tiny -o {tmp_path}/second --lock FILE --source"
    with pytest.raises(GateError, match=f"The lock is not from there: {again} hf"):
        do(path=tmp_path / "second", lock=lock, source="modelscope", endpoint=scope.url)
    hub.push(OTHER)
    with pytest.raises(GateError, match=f"it moved on. Without --revision .*: {again} hf"):
        do(path=tmp_path / "second", lock=lock, source="hf", revision="main")


# What a server says, and how far a second run is


def test_a_licence_cannot_steer_a_terminal(do, hub) -> None:
    hub.push({path: content for path, content in FILES.items() if path != "README.md"})
    hub.licence = "mit\x1b[2J\x1b]0;owned\x07\nlock: /evil"
    assert do(source="hf").lock.licence == "mit [2J ]0;owned lock: /evil"


def test_verifying_a_second_time_says_how_far_it_is(do, hub, out: Path) -> None:
    do(source="hf")
    told: list[tuple[str, int, int]] = []
    section = ModelSection(path=out, repo="owner/tiny", source="hf", endpoint=hub.url)
    fetch(section, lambda *call: told.append(call), lambda _: None)
    sizes = {path: len(content) for path, content in FILES.items()}
    assert told[: len(sizes)] == [(path, 0, size) for path, size in sorted(sizes.items())]
    assert {path: done for path, done, _ in told} == sizes
