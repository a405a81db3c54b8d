"""`python -m bench.worker JOB.json`: a fresh process that measures one block (bench.job), a JSON line at a time."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.serve import serve

if TYPE_CHECKING:
    from bench.observations import Line


def run(job: bytes) -> Iterator["Line"]:
    """The lines of the block that `job` (JSON) asks for."""
    from bench.job import Job
    from bench.measure import measure

    yield from measure(Job.model_validate_json(job))


if __name__ == "__main__":
    serve(run)
    os._exit(0)  # all is said, and to take torch apart takes a second
