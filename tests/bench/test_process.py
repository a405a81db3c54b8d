"""Fresh processes: what they say, how they fail, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from bench import measure, process, serve, worker
from bench.observations import LINE, Warmed
from shipvlm.errors import ExecutionError, InputError, SetupError
from tests.bench.made_jobs import job

ROOT = Path(__file__).parents[2]
LINE_SAID = Warmed(run="r", variant="v", phase="timing", block=0, case="c", seconds=(1.0,), stable=False)


@pytest.fixture
def script(monkeypatch):
    """Fresh processes run the first argument of `process.lines` as code."""
    monkeypatch.setattr(process, "PYTHON", (sys.executable, "-c"))


def said_by(code: str, folder: Path) -> list[bytes]:
    return list(process.lines(code, job(folder), "variant int8"))


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
            r"^variant int8: its process ended with code 4; it said last:\nbefore\nValueError: 7$",
        ),
        (1, "error: no gate is here", ExecutionError, "ended with code 1"),
    ],
)
def test_a_process_that_fails_is_one_error_with_its_title(script, tmp_path, code, last, error, message):
    with pytest.raises(error, match=message):
        said_by(f"import sys; print('before\\n{last}', file=sys.stderr); sys.exit({code})", tmp_path)


def test_only_the_tail_of_a_long_story_is_told(script, tmp_path):
    with pytest.raises(ExecutionError) as caught:
        said_by("import sys; print('\\n'.join(map(str, range(500))), file=sys.stderr); sys.exit(4)", tmp_path)
    assert str(caught.value).splitlines()[1:] == [str(number) for number in range(500 - process.TAIL, 500)]


def test_a_process_that_is_killed_says_so_and_its_torn_line_is_dropped(script, tmp_path):
    reading = process.lines(
        'import os, sys; sys.stdout.write(\'whole\\n{"kind": "loa\'); sys.stdout.flush(); os.kill(os.getpid(), 9)',
        job(tmp_path),
        "variant int8",
    )
    assert next(reading) == b"whole\n"
    with pytest.raises(ExecutionError, match="killed by signal 9"):
        next(reading)


def test_a_reader_that_leaves_takes_the_process_along(script, tmp_path):
    code = (
        f"import os, time; print('line', flush=True)\n"
        f"open('{tmp_path}/pid', 'w').write(str(os.getpid())); time.sleep(600)"
    )
    reading = process.lines(code, job(tmp_path), "variant int8")
    assert next(reading) == b"line\n"
    while not (tmp_path / "pid").is_file() or not (pid := (tmp_path / "pid").read_text()):
        time.sleep(0.01)
    reading.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.parametrize(
    ("engine", "device", "hidden"),
    [("onnxruntime", "cpu", True), ("onnxruntime", "cuda", False), ("compile", "cpu", False)],
)
def test_graphs_on_a_cpu_and_nothing_else_are_measured_without_torch(monkeypatch, tmp_path, engine, device, hidden):
    monkeypatch.setitem(sys.modules, "torch", sys.modules["torch"])  # so that it is put back
    seen = []
    monkeypatch.setattr(measure, "measure", lambda asked: seen.append(sys.modules["torch"]) or iter(()))
    (tmp_path / "job.json").write_text(job(tmp_path, engine=engine, device=device).model_dump_json())
    monkeypatch.setattr(serve, "_end_with_stdin", lambda: None)
    monkeypatch.setattr(sys, "argv", ["worker", str(tmp_path / "job.json")])
    serve.serve(worker.run)
    assert [torch is None for torch in seen] == [hidden]


@pytest.mark.slow
def test_a_fresh_process_says_what_this_one_would(tiny_checkpoint, tmp_path):
    asked = job(tiny_checkpoint, phase="accuracy", baseline=True, references=tmp_path / "references.npz")
    there = [LINE.validate_json(line) for line in process.lines("bench.worker", asked, "v")]
    here = list(measure.measure(asked))
    kept = {"kind", "id", "output", "token_ids", "finish", "prompt_sha256", "image_sha256", "score", "parsed"}
    assert [line.model_dump(include=kept) for line in there] == [line.model_dump(include=kept) for line in here]
    assert [line.kind for line in there] == ["loaded", "answered", "answered", "answered", "ended"]


@pytest.mark.parametrize(("error", "code"), [(InputError("no weights"), 2), (ValueError("no weights"), 4), (None, 0)])
def test_lines_go_to_stdout_and_all_else_to_stderr(monkeypatch, capfd, tmp_path, error, code):
    def run(asked):
        assert asked == b'{"engine": "transformers", "device": "cpu"}'
        os.write(1, b"a library says hello\n")
        yield LINE_SAID
        if error:
            raise error

    (tmp_path / "job.json").write_text('{"engine": "transformers", "device": "cpu"}')
    monkeypatch.setattr(serve, "_end_with_stdin", lambda: None)
    monkeypatch.setattr(sys, "argv", ["worker", str(tmp_path / "job.json")])
    with pytest.raises(SystemExit) if code else nullcontext() as left:
        serve.serve(run)
    out, err = capfd.readouterr()
    assert LINE.validate_json(out) == LINE_SAID
    assert "a library says hello" in err
    if left:
        assert left.value.code == code
        assert err.splitlines()[-1] == ("error: no weights" if code == 2 else "ValueError: no weights")


@pytest.mark.slow
def test_a_process_ends_when_its_parent_does(tiny_checkpoint, tmp_path):
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


def test_a_worker_reads_its_job_and_measures_it(monkeypatch, tmp_path):
    asked = job(tmp_path)
    monkeypatch.setattr(measure, "measure", lambda found: iter([LINE_SAID] if found == asked else []))
    assert list(worker.run(asked.model_dump_json().encode())) == [LINE_SAID]
