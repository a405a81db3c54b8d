"""A fresh process that measures and says what it saw, a JSON line at a time: `python -m MODULE JOB.json`.

Whatever a library prints goes to stderr. The process ends when its stdin closes, so that a parent which is killed
leaves nothing behind that goes on measuring.
"""

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
    """Give the job, JSON in the file that the first argument names, to `run`, and say each line that it makes.

    An error for people is one line on stderr, and its exit code; any other its traceback, and INTERNAL_ERROR.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # also for what is not Python
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        for line in run(Path(sys.argv[1]).read_bytes()):
            print(line.model_dump_json(exclude_none=True), file=out, flush=True)
    except ShipvlmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(INTERNAL_ERROR)


def _end_with_stdin() -> None:
    while os.read(0, 1):  # sys.stdin holds a lock that the end of the process would wait for
        pass
    os._exit(INTERNAL_ERROR)
