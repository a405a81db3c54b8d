"""Is a variant faster than its baseline? Two runs' times, block by block, become a ratio and one word.

A block is what one fresh process measured; block i of all variants is one turn, measured one after the other. In a turn
each request stands beside itself, and the turn's value is the median over requests of log(baseline / variant). Turns
are the unit: what scatters from process to process and from minute to minute (memory layout, other work, heat) scatters
between them, and requests inside a block share it.

The interval is a percentile bootstrap over turns, its distances from the mean multiplied by
sqrt(n / (n - 1)) * t(n - 1) / z: with few units the plain one is too narrow by these two factors (T. Hesterberg, The
American Statistician 69, 2015, sections 4 and 5). At six turns the plain one and BCa cover 83 to 88 % of true ratios
instead of 95 %, this one 93 to 95 %.

FASTER and SLOWER need three things: an interval without 1, a ratio beyond MARGIN, and a ratio outside the interval of
the null, the baseline measured twice. The null shows what no interval over turns can see: what the place in the order
does. SAME needs the interval inside MARGIN. All else is AMBIGUOUS.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from statistics import median
from typing import Any, Literal

import numpy as np
from scipy import stats

from bench.intervals import CONFIDENCE, RESAMPLES, SEED, Estimate
from bench.power import blocks_needed

Block = Mapping[str, float]  # request id: seconds of one metric, the median over its repeats
Word = Literal["FASTER", "SLOWER", "SAME", "AMBIGUOUS"]
MARGIN = 0.02  # ratios from 1 / 1.02 to 1.02 are the same
MIN_BLOCKS = 5


@dataclass(frozen=True)
class Ratio:
    """baseline time / variant time: above 1 the variant is faster.

    `value` is None without a whole turn, `low` and `high` with fewer than MIN_BLOCKS. `blocks`: turns that count.
    `null`: the same of the baseline against itself, over n turns. `blocks_needed`: about how many turns would decide,
    where that can be said.
    """

    word: Word
    reason: str
    value: float | None
    low: float | None
    high: float | None
    blocks: int
    requests: int
    margin: float
    null: Estimate | None
    blocks_needed: int | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Logs:
    """Mean of the turns' log ratios with its interval."""

    turns: int
    requests: int
    mean: float | None
    low: float | None
    high: float | None
    deviation: float


def compare(baseline: Sequence[Block], variant: Sequence[Block], null: Sequence[Block] | None = None) -> Ratio:
    """The ratio of two variants' times, and what it is called.

    A block that is missing or was rejected is {}; its turn is left out, and so is one in which a request is missing.
    `null` are blocks of the baseline measured once more; without them a difference is never called one.
    Raises ValueError for a time that is not above 0.
    """
    found = _logs(baseline, variant)
    beside = _logs(baseline, null) if null is not None else None
    word, reason = _word(found, beside)
    return _ratio(found, word, reason, beside)


def _logs(baseline: Sequence[Block], variant: Sequence[Block]) -> _Logs:
    missing: Block = {}
    turns = [(left, right) for left, right in zip_longest(baseline, variant, fillvalue=missing) if left and right]
    requests = {name for turn in turns for block in turn for name in block}
    for seconds in (seconds for turn in turns for block in turn for seconds in block.values()):
        if not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"a time is above 0 seconds, not {seconds}")
    values = np.array(
        [
            median(math.log(left[name] / right[name]) for name in requests)
            for left, right in turns
            if left.keys() == right.keys() == requests
        ]
    )
    n = len(values)
    mean = float(values.mean()) if n else None
    if n < MIN_BLOCKS or mean is None:
        return _Logs(n, len(requests), mean, None, None, 0.0)
    plain = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    tail = (1 + CONFIDENCE) / 2
    wider = math.sqrt(n / (n - 1)) * float(stats.t.ppf(tail, n - 1) / stats.norm.ppf(tail))
    low, high = (mean + wider * (float(bound) - mean) for bound in plain)
    return _Logs(n, len(requests), mean, low, high, float(values.std(ddof=1)))


def _word(found: _Logs, null: _Logs | None) -> tuple[Word, str]:
    same = math.log1p(MARGIN)
    if found.low is None or found.high is None or found.mean is None:
        return "AMBIGUOUS", _too_few(found, "of both")
    if null is None:
        if -same < found.low and found.high < same:
            return "SAME", f"the interval lies within {MARGIN:.0%} of 1"
        return "AMBIGUOUS", "no further run of the baseline stands beside it"
    if null.low is None or null.high is None:
        return "AMBIGUOUS", _too_few(null, "of both runs of the baseline")
    drift = f"the baseline against itself: {math.exp(null.low):.3f} to {math.exp(null.high):.3f}"
    if -same < found.low and found.high < same:
        if null.low > same or null.high < -same:
            return "AMBIGUOUS", f"what is the same here cannot be said: {drift}"
        return "SAME", f"the interval lies within {MARGIN:.0%} of 1"
    if found.low <= 0 <= found.high:
        return "AMBIGUOUS", f"the interval holds 1 and is wider than {MARGIN:.0%}"
    if abs(found.mean) <= same:
        return "AMBIGUOUS", f"the interval does not hold 1, but the ratio is within {MARGIN:.0%} of it"
    if abs(found.mean) <= (null.high if found.mean > 0 else -null.low):
        return "AMBIGUOUS", f"no more than is seen without a change; {drift}"
    return "FASTER" if found.mean > 0 else "SLOWER", f"the interval does not hold 1; {drift}"


def _too_few(found: _Logs, whose: str) -> str:
    return f"{found.turns} whole blocks {whose}, at least {MIN_BLOCKS} are needed"


def _ratio(found: _Logs, word: Word, reason: str, null: _Logs | None) -> Ratio:
    needed = None
    if word == "AMBIGUOUS" and found.mean is not None and found.low is not None:
        same = math.log1p(MARGIN)
        distance = abs(found.mean) if abs(found.mean) > same else same - abs(found.mean)
        more = blocks_needed(distance, found.deviation, MIN_BLOCKS)
        needed = more if more and more > found.turns else None
    value, low, high = _times(found)
    return Ratio(word, reason, value, low, high, found.turns, found.requests, MARGIN, _estimate(null), needed)


def _estimate(logs: _Logs | None) -> Estimate | None:
    if logs is None:
        return None
    value, low, high = _times(logs)
    return None if value is None else Estimate(logs.turns, value, low, high)


def _times(logs: _Logs) -> tuple[float | None, float | None, float | None]:
    """Value and interval as ratios."""
    value, low, high = (None if log is None else math.exp(log) for log in (logs.mean, logs.low, logs.high))
    return value, low, high
