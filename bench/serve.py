"""A fresh process that measures and says what it saw, a JSON line at a time: `python -m MODULE JOB.json`.

Whatever a library prints goes to stderr. The process ends when its stdin closes, so that a parent which is killed
leaves nothing behind that goes on measuring.

A graph set on a CPU needs no torch, and is measured without it: importing it would take most of the cold start that is
measured, and no server of graphs has it. On CUDA its libraries are those that ONNX Runtime runs on.
"""

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from shipvlm.errors import ShipvlmError

if TYPE_CHECKING:
    from pydantic import BaseModel

INTERNAL_ERROR = 4  # python's own 1 stands for a gate


def serve(run: Callable[[bytes], Iterable["BaseModel"]]) -> None:
    """Give the job, JSON in the file that the first argument names, to `run`, and say each line that it makes. `run`
    imports what measures: not before it is called is torch hidden where it is not needed.

    An error for people is one line on stderr, and its exit code; any other its traceback, and INTERNAL_ERROR.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # also for what is not Python
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        job = Path(sys.argv[1]).read_bytes()
        _hide_torch(job)
        for line in run(job):
            print(line.model_dump_json(exclude_none=True), file=out, flush=True)
    except ShipvlmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(INTERNAL_ERROR)


def _hide_torch(job: bytes) -> None:
    """Where what `job` asks for does without it."""
    asked = json.loads(job)
    if (asked.get("engine"), asked["device"]) == ("onnxruntime", "cpu"):
        sys.modules["torch"] = None  # type: ignore[assignment]  # import finds nothing; transformers goes on without


def _end_with_stdin() -> None:
    while os.read(0, 1):  # sys.stdin holds a lock that the end of the process would wait for
        pass
    os._exit(INTERNAL_ERROR)
