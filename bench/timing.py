"""Latency from raw answers. The unit is the request: its repeats and blocks make one value, their median.

    TTFT = preprocess + vision + prefill          request to first token
    TPOT = (end to end - TTFT) / (tokens - 1)     time per output token after the first
    other = end to end - all stages               what no stage counts: reading the tokens as text

Medians and ratios get the exact 95 % interval from order statistics (scipy.stats.quantile_test), which exists from
six requests on. A percentile is null under as many requests as MLCommons asks for before it lets one be stated at
99 % confidence (mlcommons/endpoints, docs/early_stopping.md): 64 for p90, 662 for p99.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from scipy import stats

from bench.intervals import CONFIDENCE, Estimate
from bench.observations import Answered

STAGES = ("preprocess", "vision", "prefill", "decode", "other")
METRICS = ("ttft", "tpot", "e2e")
PERCENTILES = {"p90": (90, 64), "p99": (99, 662)}  # name: percentile, fewest requests
Times = dict[str, float]


def times(answer: Answered) -> Times:
    """Seconds of one timed answer: every name of METRICS and STAGES; no `tpot` where it has a single token."""
    stages = answer.stages
    decode = sum(stages.decode)
    ttft = stages.preprocess + stages.vision + stages.prefill
    found = {
        "ttft": ttft,
        "e2e": answer.wall,
        "preprocess": stages.preprocess,
        "vision": stages.vision,
        "prefill": stages.prefill,
        "decode": decode,
        "other": answer.wall - ttft - decode,
    }
    return found | ({"tpot": (answer.wall - ttft) / len(stages.decode)} if stages.decode else {})


def by_request(answers: Sequence[Answered]) -> dict[str, Times]:
    """For each request the median over its repeats and blocks, by id."""
    groups: dict[str, list[Times]] = {}
    for answer in answers:
        groups.setdefault(answer.id, []).append(times(answer))
    return {
        name: {metric: median(each[metric] for each in group) for metric in group[0]}
        for name, group in sorted(groups.items())
    }


def summarise(requests: dict[str, Times], metric: str) -> dict[str, Any] | None:
    """Median over requests with its interval, and the percentiles that they are enough for; None without a value."""
    values = [times[metric] for times in requests.values() if metric in times]
    if not values:
        return None
    percentiles = {
        name: float(np.percentile(values, percentile)) if len(values) >= fewest else None
        for name, (percentile, fewest) in PERCENTILES.items()
    }
    return {**median_of(values).as_dict(), **percentiles}


def speedup(baseline: dict[str, Times], variant: dict[str, Times], metric: str) -> dict[str, Any] | None:
    """Median over requests of baseline / variant, each request beside itself: above 1 the variant is faster."""
    shared = [name for name in baseline if metric in baseline[name] and metric in variant.get(name, {})]
    ratios = [baseline[name][metric] / variant[name][metric] for name in shared]
    return median_of(ratios).as_dict() if ratios else None


def median_of(values: Sequence[float]) -> Estimate:
    """Median with its interval; `low` and `high` are None where the values are too few for one."""
    middle = float(median(values))
    interval = stats.quantile_test(np.asarray(values, float), q=middle, p=0.5).confidence_interval(CONFIDENCE)
    if not (np.isfinite(interval.low) and np.isfinite(interval.high)):
        return Estimate(len(values), middle, None, None)
    return Estimate(len(values), middle, float(interval.low), float(interval.high))
