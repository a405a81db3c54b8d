"""bench.worker where each request takes PACE longer, and of the variant `slowed` EXTRA more, some 10 % of a request.

PACE makes what else runs on the machine small beside a request; so no block counts as disturbed by it.
"""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

from bench import worker
from bench.serve import serve

PACE, EXTRA = 0.2, 0.022  # seconds


def run(job: bytes) -> Iterator[Any]:
    from bench import conditions
    from shipvlm.runtime.graphs import GraphSet

    conditions.disturbed = lambda found: ()
    seconds = PACE + (EXTRA if json.loads(job)["variant"] == "slowed" else 0)
    vision = GraphSet.vision

    def slower(self: GraphSet, batch: Any) -> Any:
        time.sleep(seconds)
        return vision(self, batch)

    GraphSet.vision = slower  # type: ignore[method-assign]
    yield from worker.run(job)


if __name__ == "__main__":
    serve(run)
    os._exit(0)
