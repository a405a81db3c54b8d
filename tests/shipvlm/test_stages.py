"""The stage runner: what is kept, what is made anew, and what a kill leaves behind."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from shipvlm.artifact import verify
from shipvlm.errors import InputError
from shipvlm.stages import Progress, alone, code_digest, library_versions
from tests.shipvlm.made_stage import FILES, run, stage

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(folder: Path) -> list[str]:
    """What a run left behind, its locks aside."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".") and path.suffix != ".lock")


@contextmanager
def started(out: Path, seconds: float, kind: str = "anew") -> Iterator[subprocess.Popen[bytes]]:
    """The stage in a process of its own, killed at the end."""
    command = [sys.executable, "-m", "tests.shipvlm.made_stage", str(out), str(seconds), kind]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(pattern: str, out: Path) -> None:
    until = time.monotonic() + 30
    while not list(out.glob(pattern)):
        assert time.monotonic() < until, f"no {pattern} in {out}"
        time.sleep(0.005)


def test_a_stage_is_made_once(tmp_path: Path) -> None:
    first = run(stage(), tmp_path)
    said: list[str] = []
    second = run(stage(), tmp_path, said)
    assert (first.kept, second.kept, said) == (False, True, [])
    assert (first.folder, first.digest, first.manifest) == (second.folder, second.digest, second.manifest)
    assert len(contents(first.folder)) == FILES + 1
    assert first.manifest["result"] == {"files": FILES}
    assert first.manifest["versions"]["no-such-distribution"] is None
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"inputs": {"source": "1"}}, "inputs.source"),
        ({"inputs": {"source": "0", "calibration": "2"}}, "inputs.calibration"),
        ({"section": {"a": 2}}, "section.a"),
        ({"code": ("shipvlm.families",)}, "versions.code"),
        ({"libraries": ("numpy",)}, "versions.no-such-distribution"),
    ],
)
def test_a_changed_input_makes_it_anew_and_says_why(tmp_path: Path, changes, named: str) -> None:
    before = run(stage(), tmp_path)
    said: list[str] = []
    after = run(stage(**changes), tmp_path, said)
    assert not after.kept
    assert after.digest != before.digest
    [line] = said
    if named != "versions.no-such-distribution":  # absent and not asked for are the same version
        assert f"for {named} changed" in line
    assert run(stage(**changes), tmp_path).kept


def test_a_damaged_result_is_made_anew(tmp_path: Path) -> None:
    before = contents(run(stage(), tmp_path).folder)
    said: list[str] = []
    (tmp_path / "made" / "7.txt").write_text("y")
    assert not run(stage(), tmp_path, said).kept
    assert "7.txt changed" in said[0]
    assert contents(tmp_path / "made") == before


def test_what_is_not_its_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine").write_text("mine")
    with pytest.raises(InputError, match="is no result of shipvlm"):
        run(stage(), tmp_path)
    assert contents(tmp_path / "made") == {"mine": b"mine"}
    run(stage(name="other"), tmp_path / "second")
    with pytest.raises(InputError, match="holds the result of other, not of made"):
        run(stage(), tmp_path / "second")


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_stage_that_fails_leaves_the_old_result_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    before = contents(run(stage(), tmp_path).folder)

    def fail(out: Path, _: object) -> dict[str, object]:
        (out / "half").touch()
        raise error

    broken = stage(section={"a": 2})
    object.__setattr__(broken, "make", fail)
    with pytest.raises(type(error)):
        run(broken, tmp_path)
    assert contents(tmp_path / "made") == before
    assert hidden(tmp_path) == []


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    with started(tmp_path, 60) as process:
        wait_for(".made.*.partial/0.txt", tmp_path)
        with pytest.raises(InputError, match="another shipvlm is writing there"):
            run(stage(), tmp_path)
        assert process.poll() is None
    assert not run(stage(), tmp_path).kept  # the right ends with the process


@pytest.mark.parametrize("kind", ["anew", "resumes"])
def test_kill_at_any_moment_then_run_again_gives_the_bytes_of_an_unbroken_run(tmp_path: Path, kind: str) -> None:
    unbroken = contents(run(stage(resumes=kind == "resumes"), tmp_path / "unbroken").folder)
    moments = random.Random(0)
    broken = tmp_path / "broken"
    for _ in range(3):
        number = moments.randrange(FILES)
        with started(broken, 3, kind):
            wait_for(f".made*.partial/{number}.txt", broken)
        assert not (broken / "made").exists()
        assert len(hidden(broken)) == 1
    done = run(stage(resumes=kind == "resumes"), broken)
    assert not done.kept
    assert contents(done.folder) == unbroken
    assert hidden(broken) == []


def test_a_kill_between_the_two_renames_is_survived(tmp_path: Path) -> None:
    before = contents(run(stage(), tmp_path).folder)
    (tmp_path / "made").rename(tmp_path / ".made.01234567.partial")
    (tmp_path / ".made.89abcdef.partial").mkdir()
    assert not run(stage(), tmp_path).kept
    assert contents(tmp_path / "made") == before
    assert hidden(tmp_path) == []


def test_a_stage_that_resumes_goes_on_in_its_last_result(tmp_path: Path) -> None:
    run(stage(resumes=True), tmp_path)
    (tmp_path / "made" / "extra").write_text("kept by a stage that knows what it is")
    after = run(stage(resumes=True, section={"a": 2}), tmp_path)
    assert not after.kept
    assert "extra" in after.manifest["files"]
    assert hidden(tmp_path) == []


def test_the_digest_of_code_follows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "__init__.py").write_text("")
    (tmp_path / "room" / "notes.txt").write_text("1")
    (tmp_path / "alone.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    names = ("room", "alone")
    seen = {code_digest(names)}
    (tmp_path / "room" / "notes.txt").write_text("2")
    assert {code_digest(names)} == seen
    for path in (tmp_path / "room" / "__init__.py", tmp_path / "room" / "page.html.j2", tmp_path / "alone.py"):
        path.write_text("x = 1")
        assert code_digest(names) not in seen
        seen.add(code_digest(names))


def test_versions_are_those_installed() -> None:
    import numpy

    assert library_versions(("numpy", "nowhere-to-be-found")) == {
        "numpy": numpy.__version__,
        "nowhere-to-be-found": None,
    }


def test_the_lock_lies_beside_the_folder_and_is_free_again(tmp_path: Path) -> None:
    for _ in range(2):
        with alone(tmp_path / "out"):
            assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]
        assert list(tmp_path.iterdir()) == []


def test_two_are_never_at_work_though_the_lock_is_removed_each_time(tmp_path: Path) -> None:
    inside: list[int] = []
    seen: list[int] = []

    def work() -> None:
        for _ in range(200):
            try:
                with alone(tmp_path / "out"):
                    inside.append(1)
                    time.sleep(0)
                    seen.append(len(inside))
                    inside.pop()
            except InputError:
                continue

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1}


def test_a_stage_holds_the_lock_of_its_own_folder(tmp_path: Path) -> None:
    """A command for one stage and a run of all of them have different folders, one inside the other."""
    with alone(tmp_path / "made"), pytest.raises(InputError, match="another shipvlm"):
        run(stage(), tmp_path)


def test_a_stage_that_resumes_and_fails_leaves_the_last_result(tmp_path: Path) -> None:
    def fail(out: Path, progress: Progress) -> dict[str, Any]:
        (out / "0.txt").write_text("changed")
        raise ValueError("no")

    before = contents(run(stage(resumes=True), tmp_path).folder)
    with pytest.raises(ValueError, match="no"):
        run(replace(stage(resumes=True, section={"a": 2}), make=fail), tmp_path)
    assert contents(tmp_path / "made") == before
    verify(tmp_path / "made")
