"""Runs a job in a fresh process (bench.worker) and hands on its lines as they come."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.observations import LINE, Answered, Job, Loaded
from shipvlm.errors import ExecutionError, InputError, SetupError, ShipvlmError

WORKER_ERRORS: dict[int, type[ShipvlmError]] = {
    error.exit_code: error for error in (InputError, SetupError, ExecutionError)
}
WORKER = (sys.executable, "-m", "bench.worker")
TAIL = 15  # lines of a failed worker that are shown


def measure(job: Job) -> Iterator[Loaded | Answered]:
    """The lines of a fresh worker. It ends when it is done, and when this process does.

    Raises the ShipvlmError that the worker reports, and ExecutionError with its last words where it died otherwise.
    """
    with TemporaryDirectory(prefix="shipvlm-") as folder, (Path(folder) / "stderr").open("w+b") as stderr:
        path = Path(folder) / "job.json"
        path.write_text(job.model_dump_json(), encoding="utf-8")
        process = subprocess.Popen(
            [*WORKER, str(path)],
            stdin=subprocess.PIPE,  # open as long as this process lives
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"TQDM_DISABLE": "1"},  # what it says last should be what went wrong
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.endswith(b"\n"):  # a worker that is killed may leave half a line
                    yield LINE.validate_json(line)
            process.wait()
        finally:
            process.kill()
            process.communicate()
        if process.returncode:
            stderr.seek(0)
            raise _failure(job, process.returncode, stderr.read().decode(errors="replace"))


def _failure(job: Job, code: int, stderr: str) -> ShipvlmError:
    said = [line for line in stderr.splitlines() if line.strip()]
    if code in WORKER_ERRORS and said and said[-1].startswith("error: "):
        return WORKER_ERRORS[code](f"variant {job.variant}: {said[-1].removeprefix('error: ')}")
    reason = f"was killed by signal {-code} (9: often a lack of memory)" if code < 0 else f"ended with code {code}"
    return ExecutionError("\n".join([f"variant {job.variant}: its process {reason}; it said last:", *said[-TAIL:]]))
