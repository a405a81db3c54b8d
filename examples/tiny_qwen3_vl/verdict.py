"""Can this model and this data show the loss of a coarse quantization? Answered from the measured rows alone."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from bench.intervals import Estimate, disjoint

# bits and group size, from mild to destructive: the last shows that the numbers can move at all
ROUNDED: dict[str, tuple[int, int | None]] = {
    "int8": (8, None),
    "int4-group128": (4, 128),
    "int4": (4, None),
    "int3": (3, None),
    "int2": (2, None),
}
MUST_DIFFER = (("int8", "int4"), ("int4", "int2"))


def verdict(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """For the task score and for top-1 agreement: does the order of `ROUNDED` hold, are the key intervals disjoint?

    `separates` is True when one of the two metrics has both, False when both lack something, and None when the items
    are too few for an interval.
    """
    values = {
        "score": {name: Estimate(**_estimate(rows[name]["score"]["all"])) for name in ROUNDED},
        "top1_agreement": {name: Estimate(**rows[name]["top1_agreement"]) for name in ROUNDED},
    }
    metrics: dict[str, Any] = {}
    for metric, row in values.items():
        means = [row[name].value for name in ROUNDED]
        apart = [disjoint(row[left], row[right]) for left, right in MUST_DIFFER]
        metrics[metric] = {
            "order_holds": all(milder > coarser for milder, coarser in pairwise(means)),
            "disjoint": {f"{left} / {right}": answer for (left, right), answer in zip(MUST_DIFFER, apart, strict=True)},
        }
    return {**metrics, "separates": _any([_both(entry) for entry in metrics.values()])}


def _estimate(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {field: entry[field] for field in ("n", "value", "low", "high")}


def _both(metric: Mapping[str, Any]) -> bool | None:
    answers = [metric["order_holds"], *metric["disjoint"].values()]
    return False if False in answers else None if None in answers else True


def _any(answers: list[bool | None]) -> bool | None:
    return True if True in answers else None if None in answers else False
