"""Fresh processes: what they say, how they fail, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from bench import process, worker
from bench.observations import LINE, Answered, Job, Loaded, Packed
from shipvlm.errors import ExecutionError, InputError, SetupError
from tests.bench.made_records import records

ROOT = Path(__file__).parents[2]


def job(folder: Path, **fields) -> Job:
    packed = tuple(Packed(**dict(record)) for record in records(3))
    common: dict[str, Any] = {
        "run": "r",
        "variant": "int8",
        "folder": folder,
        "device": "cpu",
        "block": 0,
        "threads": 1,
    }
    settings = {"phase": "accuracy", "threads": 1, "max_new_tokens": 4, "batch_size": 2, "records": packed}
    return Job(**common | settings | fields)


def said_by(monkeypatch, script: str, folder: Path) -> list:
    """The lines of a worker that runs `script`."""
    monkeypatch.setattr(process, "WORKER", (sys.executable, "-c", script))
    return list(process.measure(job(folder)))


@pytest.mark.parametrize(
    ("code", "last", "error", "message"),
    [
        (2, "error: no weights", InputError, r"^variant int8: no weights$"),
        (3, "error: no CUDA", SetupError, r"^variant int8: no CUDA$"),
        (4, "error: not a number", ExecutionError, r"^variant int8: not a number$"),
        (
            4,
            "ValueError: 7",
            ExecutionError,
            r"^variant int8: its process ended with code 4; it said last:\n.*\nValueError: 7$",
        ),
        (1, "error: no gate is here", ExecutionError, "ended with code 1"),
    ],
)
def test_a_worker_that_fails_is_one_error_that_names_the_variant(monkeypatch, tmp_path, code, last, error, message):
    script = f"import sys; print('before\\n{last}', file=sys.stderr); sys.exit({code})"
    with pytest.raises(error, match=message):
        said_by(monkeypatch, script, tmp_path)


def test_only_the_tail_of_a_long_story_is_told(monkeypatch, tmp_path):
    script = "import sys; print('\\n'.join(map(str, range(500))), file=sys.stderr); sys.exit(4)"
    with pytest.raises(ExecutionError) as caught:
        said_by(monkeypatch, script, tmp_path)
    assert str(caught.value).splitlines()[1:] == [str(number) for number in range(500 - process.TAIL, 500)]


def test_a_worker_that_is_killed_says_so_and_its_torn_line_is_dropped(monkeypatch, tmp_path):
    script = 'import os, sys; sys.stdout.write(\'{"kind": "loa\'); sys.stdout.flush(); os.kill(os.getpid(), 9)'
    with pytest.raises(ExecutionError, match="killed by signal 9"):
        said_by(monkeypatch, script, tmp_path)


def test_a_reader_that_leaves_takes_the_worker_along(monkeypatch, tmp_path):
    line = Loaded(run="r", phase="timing", block=0, seconds=1, rss_before=1, rss_after=2).model_dump_json()
    script = (
        f"import os, time; print('{line}', flush=True)\n"
        f"open('{tmp_path}/pid', 'w').write(str(os.getpid())); time.sleep(600)"
    )
    monkeypatch.setattr(process, "WORKER", (sys.executable, "-c", script))
    reading = process.measure(job(tmp_path))
    assert isinstance(next(reading), Loaded)
    while not (tmp_path / "pid").is_file() or not (pid := (tmp_path / "pid").read_text()):
        time.sleep(0.01)
    reading.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.slow
def test_a_fresh_process_says_what_this_one_would(tiny_checkpoint):
    asked = job(tiny_checkpoint, phase="timing", repeats=2, batch_size=1)
    there, here = list(process.measure(asked)), list(worker.measure(asked))
    kept = {"id", "repeat", "output", "token_ids", "finish", "prompt_sha256", "image_sha256"}
    assert [line.model_dump(include=kept) for line in there] == [line.model_dump(include=kept) for line in here]
    assert [line.kind for line in there] == ["loaded"] + ["answered"] * 6
    assert all(len(line.stages.decode) == 3 and line.wall > 0 for line in there if isinstance(line, Answered))


@pytest.mark.parametrize(("error", "code"), [(InputError("no weights"), 2), (ValueError("no weights"), 4), (None, 0)])
def test_lines_go_to_stdout_and_all_else_to_stderr(monkeypatch, capfd, tmp_path, error, code):
    line = Loaded(run="r", phase="timing", block=0, seconds=1, rss_before=1, rss_after=2)

    def measure(asked):
        assert asked == job(tmp_path)
        os.write(1, b"a library says hello\n")
        yield line
        if error:
            raise error

    (tmp_path / "job.json").write_text(job(tmp_path).model_dump_json())
    monkeypatch.setattr(worker, "measure", measure)
    monkeypatch.setattr(worker, "_end_with_stdin", lambda: None)
    monkeypatch.setattr(sys, "argv", ["worker", str(tmp_path / "job.json")])
    with pytest.raises(SystemExit) if code else nullcontext() as left:
        worker.main()
    out, err = capfd.readouterr()
    assert LINE.validate_json(out) == line
    assert "a library says hello" in err
    if left:
        assert left.value.code == code
        assert err.splitlines()[-1] == ("error: no weights" if code == 2 else "ValueError: no weights")


@pytest.mark.slow
def test_a_worker_ends_when_its_parent_does(tiny_checkpoint, tmp_path):
    (tmp_path / "job.json").write_text(job(tiny_checkpoint, phase="timing", repeats=10**6).model_dump_json())
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'bench.worker', sys.argv[1]], stdin=-1, stdout=-1)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "while child.stdout.readline(): pass\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "job.json"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.02)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the worker went on without its parent")
