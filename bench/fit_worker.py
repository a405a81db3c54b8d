"""`python -m bench.fit_worker JOB.json`: the engine process of bench.fit, which says JSON lines."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.serve import serve

if TYPE_CHECKING:
    from bench.fit_tries import Tried


def run(job: bytes) -> Iterator["Tried"]:
    """What `job` (JSON) asks for."""
    from bench.fit_tries import FitJob, measure

    yield from measure(FitJob.model_validate_json(job))


if __name__ == "__main__":
    serve(run)
