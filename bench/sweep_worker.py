"""`python -m bench.sweep_worker JOB.json`: the engine process of bench.sweep, which says JSON lines."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.serve import serve

if TYPE_CHECKING:
    from bench.sweep_levels import Level, Opened


def run(job: bytes) -> Iterator["Level | Opened"]:
    """What `job` (JSON) asks for."""
    from bench.sweep_levels import SweepJob, measure

    yield from measure(SweepJob.model_validate_json(job))


if __name__ == "__main__":
    serve(run)
