"""95 % intervals of task scores and of paired differences.

A score lies in [0, 1]. 0/1 scores get Wilson's interval (scipy.stats.binomtest); other means, differences and ratios
get a bias-corrected and accelerated bootstrap over items (scipy.stats.bootstrap, fixed seed). When all items are
equal a bootstrap has no width and would claim certainty: the bound is then Wilson's on the share of items that could
differ. Below `MIN_ITEMS` there is no interval at all: INCONCLUSIVE, never a guess.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
MIN_ITEMS = 30
RESAMPLES = 4999
SEED = 20261122
EQUAL = 1e-12  # scores closer than this are the same


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; `low` and `high` are None together, when the items are too few to say."""

    n: int
    value: float
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


def mean(scores: Sequence[float]) -> Estimate:
    """Mean of scores in [0, 1]. Raises ValueError when there is none or one lies outside."""
    values = _checked(scores, 0.0, 1.0)
    if _too_few(values):
        return Estimate(len(values), float(values.mean()), None, None)
    if set(np.unique(values)) <= {0.0, 1.0}:
        return _wilson(int(values.sum()), len(values))
    return _mean(values, 0.0, 1.0)


def paired_difference(baseline: Sequence[float], variant: Sequence[float]) -> Estimate:
    """Mean of variant - baseline over the same items, in the same order.

    Raises ValueError when the lengths differ or a score lies outside [0, 1].
    """
    left, right = _checked(baseline, 0.0, 1.0), _checked(variant, 0.0, 1.0)
    if len(left) != len(right):
        raise ValueError(f"not paired: {len(left)} baseline scores, {len(right)} variant scores")
    difference = right - left
    if _too_few(difference):
        return Estimate(len(difference), float(difference.mean()), None, None)
    return _mean(difference, -1.0, 1.0)


def recovery(baseline: Sequence[float], variant: Sequence[float]) -> Estimate | None:
    """sum(variant) / sum(baseline) over the same items: what is left of the baseline's score; None where it has none.

    Raises ValueError as `paired_difference` does.
    """
    difference = paired_difference(baseline, variant)
    left, right = np.asarray(baseline, float), np.asarray(variant, float)
    if not left.any():
        return None
    value = float(right.sum() / left.sum())
    if difference.low is None or difference.high is None:
        return Estimate(difference.n, value, None, None)
    if np.ptp(right - left) < EQUAL:  # no item differs from another: the bound is that of the difference
        return Estimate(difference.n, value, 1 + difference.low / left.mean(), 1 + difference.high / left.mean())
    return _bootstrap((right, left), lambda r, b, axis: r.sum(axis) / b.sum(axis), value)


def share(hits: Sequence[int], trials: Sequence[int]) -> Estimate:
    """sum(hits) / sum(trials) with items as the unit: tokens of one answer are not independent of each other.

    `n` is the number of items. Raises ValueError when an item has no trial or more hits than trials.
    """
    hit, trial = np.asarray(hits, float), np.asarray(trials, float)
    if len(hit) != len(trial) or len(hit) == 0 or (trial < 1).any() or (hit < 0).any() or (hit > trial).any():
        raise ValueError("every item needs at least one trial and between none and all of them hit")
    value = float(hit.sum() / trial.sum())
    if _too_few(hit):
        return Estimate(len(hit), value, None, None)
    if (hit == trial).all() or (hit == 0).all():
        return _constant(value, len(hit), 0.0, 1.0)
    return _bootstrap((hit, trial), lambda h, t, axis: h.sum(axis) / t.sum(axis), value)


def weighted_mean(sums: Sequence[float], counts: Sequence[int]) -> Estimate:
    """sum(sums) / sum(counts), items as the unit, for quantities without an upper bound (KL in nats a token)."""
    total, count = np.asarray(sums, float), np.asarray(counts, float)
    if len(total) != len(count) or len(total) == 0 or (count < 1).any():
        raise ValueError("every item needs a sum and a count of at least one")
    value = float(total.sum() / count.sum())
    if _too_few(total) or np.ptp(total / count) < EQUAL:
        return Estimate(len(total), value, None, None)
    return _bootstrap((total, count), lambda s, c, axis: s.sum(axis) / c.sum(axis), value)


def disjoint(left: Estimate, right: Estimate) -> bool | None:
    """Whether two intervals do not touch; None when either is missing."""
    if left.low is None or left.high is None or right.low is None or right.high is None:
        return None
    return left.high < right.low or right.high < left.low


def _checked(scores: Sequence[float], low: float, high: float) -> np.ndarray:
    values = np.asarray(scores, float)
    if values.ndim != 1 or len(values) == 0 or not ((values >= low) & (values <= high)).all():
        raise ValueError(f"expected a list of scores between {low:g} and {high:g}")
    return values


def _too_few(values: np.ndarray) -> bool:
    return len(values) < MIN_ITEMS


def _wilson(successes: int, n: int) -> Estimate:
    interval = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(n, successes / n, float(interval.low), float(interval.high))


def _mean(values: np.ndarray, low: float, high: float) -> Estimate:
    value = float(values.mean())
    if np.ptp(values) < EQUAL:
        return _constant(value, len(values), low, high)
    return _bootstrap((values,), np.mean, value)


def _constant(value: float, n: int, low: float, high: float) -> Estimate:
    could_differ = _wilson(0, n).high or 0.0
    return Estimate(n, value, value - could_differ * (value - low), value + could_differ * (high - value))


def _bootstrap(data: tuple[np.ndarray, ...], statistic: Callable[..., np.ndarray], value: float) -> Estimate:
    interval = stats.bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    if not (np.isfinite(interval.low) and np.isfinite(interval.high)):  # a resample in which the ratio does not exist
        return Estimate(len(data[0]), value, None, None)
    return Estimate(len(data[0]), value, float(interval.low), float(interval.high))
