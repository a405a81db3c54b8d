"""`python -m bench.sweep_worker JOB.json`: the engine process of bench.sweep, which says JSON lines."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.serve import serve

if TYPE_CHECKING:
    from bench.sweep_levels import Level, Opened


def run(job: bytes) -> Iterator["Opened | Level"]:
    """What `job` (JSON) asks for."""
    asked = json.loads(job)
    if asked["engine"] == "onnxruntime" and asked["device"] == "cpu":
        sys.modules["torch"] = None  # type: ignore[assignment]  # as in bench.worker
    from bench.sweep_levels import SweepJob, measure

    yield from measure(SweepJob.model_validate_json(job))


if __name__ == "__main__":
    serve(run)
