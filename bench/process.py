"""Runs what measures in a fresh process and hands on its lines as they come. See bench.serve for the other side."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel

from shipvlm.errors import ExecutionError, InputError, SetupError, ShipvlmError

WORKER_ERRORS: dict[int, type[ShipvlmError]] = {
    error.exit_code: error for error in (InputError, SetupError, ExecutionError)
}
PYTHON = (sys.executable, "-m")
# What it says last should be what went wrong. The driver (bench.nvml) and CUDA are to count devices alike.
ENVIRONMENT = {"TQDM_DISABLE": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
TAIL = 15  # lines of a failed process that are shown


def lines(module: str, job: BaseModel, title: str) -> Iterator[bytes]:
    """The lines of stdout of a fresh `python -m MODULE JOB.json`. It ends when it is done, and when this process does.

    Raises, `title` before the message, the ShipvlmError that the process reports, and ExecutionError with its last
    words where it died otherwise.
    """
    with TemporaryDirectory(prefix="shipvlm-") as folder, (Path(folder) / "stderr").open("w+b") as stderr:
        path = Path(folder) / "job.json"
        path.write_text(job.model_dump_json(), encoding="utf-8")
        process = subprocess.Popen(
            [*PYTHON, module, str(path)],
            stdin=subprocess.PIPE,  # open as long as this process lives
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, **ENVIRONMENT},
            process_group=0,  # Ctrl-C is for this process, which ends the other
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.endswith(b"\n"):  # a process that is killed may leave half a line
                    yield line
            process.wait()
        finally:
            process.kill()
            process.communicate()
        if process.returncode:
            stderr.seek(0)
            raise _failure(title, process.returncode, stderr.read().decode(errors="replace"))


def _failure(title: str, code: int, stderr: str) -> ShipvlmError:
    said = [line for line in stderr.splitlines() if line.strip()]
    if code in WORKER_ERRORS and said and said[-1].startswith("error: "):
        return WORKER_ERRORS[code](f"{title}: {said[-1].removeprefix('error: ')}")
    reason = f"was killed by signal {-code} (9: often a lack of memory)" if code < 0 else f"ended with code {code}"
    return ExecutionError("\n".join([f"{title}: its process {reason}; it said last:", *said[-TAIL:]]))
