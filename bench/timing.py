"""Latency from timed requests.

    TTFT = preprocess + vision + prefill          request to first token
    TPOT = (end to end - TTFT) / (tokens - 1)     time per output token after the first
    other = end to end - all stages               what no stage counts

A comparison (bench.ratio) needs a value of each request in each block: the median over its repeats. A percentile is
of all requests, and null under as many as MLCommons asks for before it lets one be stated at 99 % confidence
(mlcommons/endpoints, docs/early_stopping.md): 11 for p50, 64 for p90, 130 for p95, 662 for p99.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from scipy import stats

from bench.intervals import CONFIDENCE, Estimate
from bench.observations import Loaded, Timed

STAGES = ("preprocess", "vision", "prefill", "decode", "detokenise", "other")
METRICS = ("ttft", "tpot", "e2e")
PERCENTILES = {"p50": (50, 11), "p90": (90, 64), "p95": (95, 130), "p99": (99, 662)}  # percentile, fewest values
COLD = "cold"  # the one request of a block of cold starts
Times = dict[str, float]


def times(line: Timed) -> Times:
    """Seconds of one timed request: every name of METRICS and STAGES; no `tpot` where its answers have one token."""
    stages = line.stages
    decode = sum(stages.decode)
    ttft = stages.preprocess + stages.vision + stages.prefill
    found = {
        "ttft": ttft,
        "e2e": line.wall,
        "preprocess": stages.preprocess,
        "vision": stages.vision,
        "prefill": stages.prefill,
        "decode": decode,
        "detokenise": stages.detokenise,
        "other": line.wall - ttft - decode - stages.detokenise,
    }
    return found | ({"tpot": (line.wall - ttft) / (line.new_tokens - 1)} if line.new_tokens > 1 else {})


def blocks(timed: Sequence[Timed], metric: str) -> list[dict[str, float]]:
    """For each block the median over its repeats of each request, by id; {} for a block without lines.

    `timed` are the lines that count, of one variant and one case.
    """
    groups: dict[int, dict[str, list[float]]] = {}
    for line in timed:
        found = times(line)
        if metric in found:
            groups.setdefault(line.block, {}).setdefault(line.id, []).append(found[metric])
    return [
        {name: median(values) for name, values in sorted(groups.get(block, {}).items())}
        for block in range(max(groups, default=-1) + 1)
    ]


def cold_start(loaded: Sequence[Loaded]) -> list[dict[str, float]]:
    """Seconds from the start of the program to its first answer, block by block; {} where no first answer came."""
    found = {
        line.block: {COLD: line.imports + line.load + line.first}
        for line in loaded
        if line.phase == "timing" and line.first is not None
    }
    return [found.get(block, {}) for block in range(max(found, default=-1) + 1)]


def summarise(timed: Sequence[Timed], metric: str) -> dict[str, Any] | None:
    """Of one variant and case: the median over requests of the medians over their repeats and blocks, with its interval
    over requests, and the percentiles of all answers that they are enough for. None without a value."""
    groups: dict[str, list[float]] = {}
    for line in timed:
        if metric in (found := times(line)):
            groups.setdefault(line.id, []).append(found[metric])
    if not groups:
        return None
    every = [value for group in groups.values() for value in group]
    return {
        **median_of([median(group) for group in groups.values()]).as_dict(),
        "requests": len(every),
        **{name: percentile(every, name) for name in PERCENTILES if name != "p50"},
    }


def percentile(values: Sequence[float], name: str) -> float | None:
    """A percentile of PERCENTILES, by its name; None under as many values as it needs."""
    place, fewest = PERCENTILES[name]
    return float(np.percentile(values, place)) if len(values) >= fewest else None


def median_of(values: Sequence[float]) -> Estimate:
    """Median with its exact interval from order statistics (scipy.stats.quantile_test); `low` and `high` are None under
    six values, which are too few for one."""
    middle = float(median(values))
    interval = stats.quantile_test(np.asarray(values, float), q=middle, p=0.5).confidence_interval(CONFIDENCE)
    if not (np.isfinite(interval.low) and np.isfinite(interval.high)):
        return Estimate(len(values), middle, None, None)
    return Estimate(len(values), middle, float(interval.low), float(interval.high))
