"""A whole fetch, from real lists over the network to a locked folder: pinned, mended, compared, refused."""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fetch.access import AccessError
from fetch.stage import Fetched, fetch, fetch_folder
from fetch.transfer import TransferError
from shipvlm.errors import GateError, InputError, SetupError
from shipvlm.lock import LOCK, QUARANTINE, UNFINISHED, check_finished, read_lock, verify_lock, write_lock
from shipvlm.recipe import ModelSection
from shipvlm.stages import alone
from tests.fetch.fake_hub import FakeHub
from tests.fetch.fake_modelscope import FakeModelScope
from tests.fetch.made_repository import SHARDS, repository
from tests.fetch.serving import ALWAYS, Fault

FILES = repository(numbers=300)
MOVED = {**FILES, "config.json": FILES["config.json"] + b"\n"}
RETRAINED = repository(seed=1, numbers=300)

Do = Callable[..., Fetched]


@pytest.fixture
def do(hub, out: Path, said: list[str]) -> Do:
    """`do()`: fetch owner/tiny from `hub` into `out`; keywords are those of `ModelSection`."""

    def run(**changes: Any) -> Fetched:
        values = {"path": out, "repo": "owner/tiny", "source": "hf", "endpoint": hub.url} | changes
        return fetch(ModelSection(**values), lambda *_: None, said.append)

    return run


@pytest.fixture
def both(do: Do, scope, monkeypatch) -> Do:
    """The same with ModelScope as the second source."""
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", scope.url)
    return lambda **changes: do(source="auto", **changes)


def damaged(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def contents(folder: Path) -> dict[str, bytes]:
    """All files of `folder` but the lock and what was set aside."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    return {path.as_posix(): (folder / path).read_bytes() for path in paths if path.parts[0] != QUARANTINE}


def asked(server: FakeHub | FakeModelScope, part: str) -> list[str]:
    more = server.cdn.requests if isinstance(server, FakeHub) else []
    return [request.path for request in (*server.server.requests, *more) if part in request.target]


def broken_off(do: Do, hub: FakeHub, shard: str = SHARDS[1]) -> None:
    """A fetch that has all but one shard."""
    hub.cdn.fail(f"*{shard}*", Fault(drop_after=100, times=5))
    with pytest.raises(TransferError):
        do()


# The lock


def test_the_lock_says_what_came_and_from_which_commit(do: Do, hub, out: Path, tmp_path: Path) -> None:
    done = do()
    assert contents(out) == FILES
    values = json.loads((out / LOCK).read_text())
    hashes = {path: {"bytes": len(content), "sha256": sha256(content).hexdigest()} for path, content in FILES.items()}
    documents = {path: hashes.pop(path) for path in ("README.md", "LICENSE")}
    assert values == {
        "schema_version": 1,
        "repo": "owner/tiny",
        "revision": "main",
        "commit": hub.commit,
        "source": "hf",
        "endpoint": hub.url,
        "licence": "apache-2.0",
        "include": [],
        "files": hashes,
        "documents": documents,
    }
    assert (done.kept, done.adapter, done.bytes) == (False, False, sum(map(len, FILES.values())))
    assert verify_lock(out) == done.lock
    assert not (out / UNFINISHED).exists()


def test_the_lock_is_the_same_whoever_gave_the_bytes(both: Do, do: Do, hub, out: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("fetch.choose.WORTH_PROBING", 0)
    hub.cdn.fail("*", Fault(rate=2_000, times=2))  # the probe
    assert both(path=tmp_path / "mixed").label == "ModelScope at " + os.environ["MODELSCOPE_ENDPOINT"]
    do()
    assert (tmp_path / "mixed" / LOCK).read_bytes() == (out / LOCK).read_bytes()
    assert contents(tmp_path / "mixed") == FILES


# A second time


def test_a_second_time_nothing_is_fetched(do: Do, hub, out: Path) -> None:
    do()
    lock, before = (out / LOCK).read_bytes(), len(asked(hub, "/resolve/"))
    done = do()
    assert (done.kept, done.bytes) == (True, 0)
    assert done.state == f"commit {hub.commit}, which main still is"
    assert len(asked(hub, "/resolve/")) == before
    assert (out / LOCK).read_bytes() == lock


def test_what_is_damaged_is_set_aside_and_fetched_again_alone(do: Do, hub, out: Path, said: list[str]) -> None:
    do()
    (out / SHARDS[0]).write_bytes(damaged(FILES[SHARDS[0]]))
    (out / "README.md").unlink()
    (out / "added_tokens.json").write_text("{}")
    before = len(asked(hub, "/resolve/"))
    lock = (out / LOCK).read_bytes()
    assert not do().kept
    assert sorted(path.rpartition("/")[2] for path in asked(hub, "/resolve/")[before:]) == ["README.md", SHARDS[0]]
    assert contents(out) == FILES
    assert (out / LOCK).read_bytes() == lock
    assert {path.name for path in (out / QUARANTINE).iterdir()} == {f"{SHARDS[0]}.1", "added_tokens.json.1"}
    assert f"{SHARDS[0]}: other bytes (sha256); set aside as {QUARANTINE}/{SHARDS[0]}.1" in said
    assert "README.md: missing" in said


def test_mending_stays_at_the_locked_commit(do: Do, hub, out: Path) -> None:
    first = do().lock
    hub.push(RETRAINED)
    (out / SHARDS[0]).unlink()
    assert do().lock == first
    assert contents(out) == FILES
    assert "main is" in str(do().state)


def test_a_folder_that_is_being_mended_is_not_taken_for_finished(do: Do, hub, out: Path) -> None:
    do()
    (out / SHARDS[1]).unlink()
    hub.cdn.fail("*", Fault(drop_after=0, times=ALWAYS))
    with pytest.raises(TransferError):
        do()
    with pytest.raises(InputError, match="not complete"):
        check_finished(out)
    hub.cdn.faults.clear()
    do()
    check_finished(out)
    assert contents(out) == FILES


def test_a_broken_off_fetch_goes_on_at_its_commit(do: Do, hub, out: Path) -> None:
    broken_off(do, hub)
    assert not (out / LOCK).exists()
    with pytest.raises(InputError, match="not complete"):
        check_finished(out)
    first, _ = hub.commit, hub.push(RETRAINED)
    before = len(asked(hub, "/resolve/"))
    done = do()
    assert done.lock.commit == first
    assert done.lock.revision == "main"
    assert contents(out) == FILES
    assert [path.rpartition("/")[2] for path in asked(hub, "/resolve/")[before:]] == [SHARDS[1]]


def test_a_kill_between_the_last_file_and_the_end_costs_nothing(do: Do, hub, out: Path) -> None:
    do()
    (out / UNFINISHED).mkdir()
    shutil.copy(out / LOCK, out / UNFINISHED / LOCK)
    assert do().kept
    check_finished(out)


@pytest.mark.parametrize("changes", [{"repo": "owner/other"}, {"revision": "v2"}, {"revision": "f" * 40}])
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_holds_one_thing(do: Do, hub, out: Path, changes: dict[str, str], finished: bool) -> None:
    do() if finished else broken_off(do, hub)
    before = contents(out)
    with pytest.raises(InputError, match="holds owner/tiny at main"):
        do(**changes)
    assert contents(out) == before
    do(revision=hub.commit)  # the same thing by another name
    do(revision="main")


def test_a_folder_of_somebody_else_is_left_alone(do: Do, hub, out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and has no"):
        do()
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    do()
    with pytest.raises(InputError, match="exists and has no"):
        do(path=out / "config.json")


@pytest.mark.parametrize("finished", [True, False])
def test_a_lock_that_is_none_is_an_error_and_not_an_empty_folder(do: Do, hub, out: Path, finished: bool) -> None:
    do() if finished else broken_off(do, hub)
    (out / LOCK if finished else out / UNFINISHED / LOCK).write_text("{}")
    with pytest.raises(InputError, match="its lock cannot be used; give another folder"):
        do()
    assert (out / "config.json").exists()


def test_one_process_at_a_time(do: Do, out: Path) -> None:
    with alone(out), pytest.raises(InputError, match="another shipvlm is writing there"):
        do()
    assert not out.exists()


# --include


def test_include_is_kept_and_can_be_extended(do: Do, hub, out: Path) -> None:
    more = {"docs/a.md": b"a", "docs/b.png": b"b", "extra.safetensors": b"c" * 100}
    hub.push({**FILES, **more, "pytorch_model.bin": b"p", "run.py": b"r"})
    do()
    assert contents(out) == FILES
    before = len(asked(hub, "/resolve/"))
    assert not do(include=("docs/*", "extra.*")).kept
    assert len(asked(hub, "/resolve/")) - before == 3
    assert contents(out) == {**FILES, **more}
    assert read_lock(out / LOCK).include == ("docs/*", "extra.*")
    assert do().kept and do(include=("docs/*",)).kept
    with pytest.raises(InputError, match="run code"):
        do(include=("*.bin",))
    verify_lock(out)


# --lock


def test_a_lock_brings_the_same_bytes_though_the_branch_moved(do: Do, hub, out: Path, tmp_path: Path) -> None:
    first = do().lock
    hub.push(RETRAINED)
    done = do(path=tmp_path / "second", lock=out / LOCK)
    assert done.lock.files == first.files
    assert done.lock.commit == first.commit
    assert contents(tmp_path / "second") == FILES


@pytest.mark.parametrize(("files", "named"), [(MOVED, "config.json"), (RETRAINED, SHARDS[0])])
def test_a_branch_that_is_not_what_the_lock_says_is_named(do: Do, hub, out, tmp_path, files, named: str) -> None:
    first = do().lock.commit
    now = hub.push(files)
    before = len(asked(hub, "/resolve/"))
    with pytest.raises(GateError, match=rf"{named}.*main is commit {now} there, the lock says {first}"):
        do(path=tmp_path / "second", lock=out / LOCK, revision="main")
    assert len(asked(hub, "/resolve/")) == before
    assert not (tmp_path / "second").exists()


def test_a_mirror_that_lags_says_what_it_has(do: Do, hub, out: Path, tmp_path: Path) -> None:
    with FakeHub(FILES) as mirror:
        new = hub.push(RETRAINED)
        do()
        with pytest.raises(AccessError) as error:
            do(path=tmp_path / "second", lock=out / LOCK, endpoint=mirror.url)
    assert error.value.situation == "revision-not-found"
    assert error.value.fields["revision"] == new
    assert (error.value.fields["default_revision"], error.value.fields["default_commit"]) == ("main", mirror.commit)


@pytest.mark.parametrize("name", [SHARDS[1], "tokenizer.json"])
def test_other_bytes_under_the_same_commit_are_found_by_a_lock(do: Do, hub, out, tmp_path, name: str) -> None:
    """A mirror that serves what it wants and calls it the commit that was asked for, with a list that fits it."""
    do()
    other = damaged(FILES[name])
    with FakeHub({**FILES, name: other}) as mirror:
        mirror.commits = {hub.commit: mirror.commits[mirror.commit]}
        mirror.branches = {"main": hub.commit}
        with pytest.raises(GateError, match=f"other .*{name}"):
            do(path=tmp_path / "second", lock=out / LOCK, endpoint=mirror.url)
    assert not (tmp_path / "second" / LOCK).exists()


@pytest.mark.parametrize("name", [SHARDS[1], "tokenizer.json"])
def test_other_bytes_on_the_second_source_are_said(both: Do, scope, out: Path, said: list[str], name: str) -> None:
    scope.push({**FILES, name: damaged(FILES[name])})
    done = both()
    assert contents(out) == FILES
    assert done.lock.source == "hf"
    assert len([line for line in said if "has other files than" in line and name in line]) == 1
    assert not asked(scope, "FilePath=")


def test_one_lock_holds_on_every_source(do: Do, scope, out: Path, tmp_path: Path) -> None:
    first = do().lock
    scope.push({**FILES, "README.md": b"---\nlicense: Apache License 2.0\n---\nother words"})
    there = {"source": "modelscope", "endpoint": scope.url, "lock": out / LOCK}
    done = do(path=tmp_path / "second", **there)
    assert done.lock.files == first.files
    assert (done.lock.source, done.lock.commit, done.lock.revision) == ("modelscope", scope.commit, "master")
    scope.push({**FILES, SHARDS[0]: damaged(FILES[SHARDS[0]])})
    with pytest.raises(GateError, match=SHARDS[0]):
        do(path=tmp_path / "third", **there)


def test_a_lock_names_the_source_that_has_its_files(both: Do, do: Do, hub, scope, out, tmp_path: Path) -> None:
    do()
    hub.push(RETRAINED)
    with pytest.raises(GateError, match=r"has the locked files: shipvlm fetch .* --lock FILE --source modelscope"):
        both(path=tmp_path / "second", lock=out / LOCK, revision="main")


def test_a_folder_that_is_not_what_a_lock_says(do: Do, hub, out: Path, tmp_path: Path) -> None:
    lock = do().lock
    given = tmp_path / "given.json"
    write_lock(lock.model_copy(update={"files": lock.files | {"x.json": lock.files["config.json"]}}), given)
    with pytest.raises(GateError, match=r"x\.json: differs"):
        do(lock=given)
    assert do(lock=out / LOCK).kept
    with pytest.raises(InputError, match="give one of them"):
        do(lock=given, include=("*.md",))


# What is no checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config.json": b'{"model_type": "llama"}'}, "model_type is 'llama'"),
        ({"config.json": b'{"model_type": "qwen3_vl", "auto_map": {}}'}, "chooses code"),
        ({"tokenizer.json": None}, "missing tokenizer.json"),
        ({SHARDS[1]: None}, f"names {SHARDS[1]}, which its list does not have"),
        ({"model.safetensors.index.json": b"{}"}, "has no weight_map"),
        ({"adapter_config.json": b"{}"}, "points to another base model"),
    ],
)
def test_it_is_refused_before_its_weights_are_fetched(do: Do, hub, out: Path, change, message: str) -> None:
    files = {path: content for path, content in {**FILES, **change}.items() if content is not None}
    hub.push(files)
    with pytest.raises(InputError, match=message):
        do()
    assert not asked(hub, ".safetensors?")
    assert not hub.cdn.requests
    assert (out / "LICENSE").exists()  # what came stays
    assert not (out / LOCK).exists()


def test_an_adapter_is_fetched_and_said_to_be_one(do: Do, hub, out: Path) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w" * 50, "README.md": b"# no licence\n"}
    hub.push({**files, "adapter_model.bin": b"p"})
    done = do()
    assert done.adapter
    assert contents(out) == files
    assert done.lock.licence == "apache-2.0"  # as the source says it
    assert do().kept


def test_space_is_checked_for_all_files_before_the_first_byte(do: Do, hub, out: Path, monkeypatch) -> None:
    need = sum(map(len, FILES.values()))
    usage = shutil.disk_usage(Path.cwd())._replace(free=need)  # and nothing to spare
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SetupError, match="still to come"):
        do()
    assert not asked(hub, "/resolve/")
    assert not out.exists()


# Offline


def test_without_a_network_a_finished_folder_is_verified(do: Do, hub, out: Path, monkeypatch) -> None:
    do()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = do()
    assert done.kept
    assert str(done.state).startswith(f"commit {hub.commit}, not refreshed (")
    (out / "config.json").write_text("{}")
    with pytest.raises(AccessError) as error:
        do()
    assert (error.value.exit_code, error.value.fields["files"]) == (3, "config.json")
    assert (out / "config.json").read_text() == "{}"  # nothing is set aside that cannot be replaced


def test_without_a_network_an_unfinished_folder_says_what_is_missing(do: Do, hub, out: Path, monkeypatch) -> None:
    broken_off(do, hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AccessError) as error:
        do()
    assert (error.value.exit_code, error.value.fields["files"]) == (3, SHARDS[1])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(AccessError) as error:
        do(endpoint="http://127.0.0.1:9")
    assert (error.value.situation, error.value.exit_code) == ("unreachable", 3)
    assert error.value.fields["files"] == SHARDS[1]


# A local folder


@pytest.fixture
def copy(out: Path, tmp_path: Path, said: list[str]) -> Do:
    """`copy()`: what is in `tmp_path/source` into `out`."""

    def run(folder: Path = tmp_path / "source", **options: Any) -> Fetched:
        return fetch_folder(folder, options.pop("out", out), lambda *_: None, said.append, **options)

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for path, content in {**FILES, "notes.txt": b"n", "pytorch_model.bin": b"p", "docs/a.md": b"a"}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def test_a_folder_is_copied_with_a_lock(copy: Do, source: Path, out: Path) -> None:
    done = copy()
    assert contents(out) == FILES
    lock = verify_lock(out)
    assert (lock.repo, lock.source, lock.commit, lock.revision, lock.endpoint) == ("source", "folder", None, None, None)
    assert lock.licence == "apache-2.0"
    assert done.bytes == sum(map(len, FILES.values()))
    assert copy().kept
    (out / "config.json").write_text("{}")
    copy()
    assert contents(out) == FILES
    copy(include=("docs/*",))
    assert contents(out) == {**FILES, "docs/a.md": b"a"}


def test_a_fetched_folder_keeps_its_origin_when_it_is_copied(do: Do, copy: Do, out: Path, tmp_path: Path) -> None:
    do()
    copy(out, out=tmp_path / "second")
    assert (tmp_path / "second" / LOCK).read_bytes() == (out / LOCK).read_bytes()
    (out / SHARDS[0]).write_bytes(damaged(FILES[SHARDS[0]]))
    with pytest.raises(GateError, match=SHARDS[0]):
        copy(out, out=tmp_path / "third")
    assert not (tmp_path / "third" / LOCK).exists()
    (out / SHARDS[0]).unlink()
    with pytest.raises(GateError, match=f"other files than its own lock: {SHARDS[0]}: is not there"):
        copy(out, out=tmp_path / "fourth")


def test_a_folder_is_held_against_a_lock(do: Do, copy: Do, source: Path, out: Path, tmp_path: Path) -> None:
    do()
    copy(out=tmp_path / "second", lock=out / LOCK)
    assert contents(tmp_path / "second") == FILES
    (source / "tokenizer.json").write_bytes(damaged(FILES["tokenizer.json"]))
    with pytest.raises(GateError, match=r"tokenizer\.json"):
        copy(out=tmp_path / "third", lock=out / LOCK)


@pytest.mark.parametrize("place", ["source", "source/below", "."])
def test_a_folder_is_not_copied_into_itself(copy: Do, source: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(InputError, match="give another folder"):
        copy(out=tmp_path / place)
