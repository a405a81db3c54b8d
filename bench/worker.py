"""`python -m bench.worker JOB.json`: a fresh process that measures one block (bench.job), a JSON line at a time.

A graph set on a CPU needs no torch, and is measured without it: importing it would take most of the cold start that is
measured, and no server of graphs has it. On CUDA its libraries are those that ONNX Runtime runs on.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.serve import serve

if TYPE_CHECKING:
    from bench.observations import Line


def run(job: bytes) -> Iterator["Line"]:
    """The lines of the block that `job` (JSON) asks for."""
    asked = json.loads(job)
    if asked["engine"] == "onnxruntime" and asked["device"] == "cpu":
        sys.modules["torch"] = None  # type: ignore[assignment]  # import finds nothing; transformers goes on without
    from bench.job import Job
    from bench.measure import measure

    yield from measure(Job.model_validate_json(job))


if __name__ == "__main__":
    serve(run)
    os._exit(0)  # all is said, and to take torch apart takes a second
