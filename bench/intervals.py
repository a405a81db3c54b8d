"""95 % intervals of means and shares over items. Those of a change against a baseline are in bench.change.

A score lies in [0, 1]. 0/1 scores get Wilson's interval (scipy.stats.binomtest); other means and shares get a
bias-corrected and accelerated bootstrap (scipy.stats.bootstrap, fixed seed). When all items are equal a bootstrap has
no width and would claim certainty: the bound is then Wilson's on the share of items that could differ. A mean without
an upper bound has none then (R. R. Bahadur and L. J. Savage, Annals of Mathematical Statistics 27, 1956): what can be
said is how many units could differ. Items of one picture are not independent: where `pictures` names the picture of
each item, pictures are the unit. Below `MIN_ITEMS` units there is no interval at all: INCONCLUSIVE, never a guess.
"""

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Unbounded(Estimate):
    """A mean of what has no upper bound. `unseen`: where all units are equal, so that there is no interval, the largest
    share of others at which n equal ones are still seen with 5 % probability (about 3 / n); else None."""

    unseen: float | None = None


def mean(scores: Sequence[float], pictures: Sequence[str] | None = None) -> Estimate:
    """Mean of scores in [0, 1]. Raises ValueError when there is none or one lies outside."""
    values = checked(scores, 0.0, 1.0)
    value = float(values.mean())
    sums, counts = _units(values, pictures), _units(np.ones(len(values)), pictures)
    if len(sums) < MIN_ITEMS:
        return Estimate(len(values), value, None, None)
    if len(sums) == len(values) and set(np.unique(values)) <= {0.0, 1.0}:
        return _wilson(int(values.sum()), len(values))
    if np.ptp(sums / counts) < EQUAL:
        return _constant(value, len(values), len(sums))
    return _ratio(sums, counts, len(values))


def share(hits: Sequence[int], trials: Sequence[int], pictures: Sequence[str] | None = None) -> Estimate:
    """sum(hits) / sum(trials): tokens of one answer are not independent of each other, items or pictures are the unit.

    `n` is the number of items. Raises ValueError when an item has no trial or more hits than trials.
    """
    hit, trial = np.asarray(hits, float), np.asarray(trials, float)
    if len(hit) != len(trial) or len(hit) == 0 or (trial < 1).any() or (hit < 0).any() or (hit > trial).any():
        raise ValueError("every item needs at least one trial and between none and all of them hit")
    value = float(hit.sum() / trial.sum())
    sums, counts = _units(hit, pictures), _units(trial, pictures)
    if len(sums) < MIN_ITEMS:
        return Estimate(len(hit), value, None, None)
    if np.ptp(sums / counts) < EQUAL:
        return _constant(value, len(hit), len(sums))
    return _ratio(sums, counts, len(hit))


def weighted_mean(sums: Sequence[float], counts: Sequence[int], pictures: Sequence[str] | None = None) -> Unbounded:
    """sum(sums) / sum(counts), items or pictures as the unit, without an upper bound (KL in nats a token)."""
    total, count = np.asarray(sums, float), np.asarray(counts, float)
    if len(total) != len(count) or len(total) == 0 or (count < 1).any():
        raise ValueError("every item needs a sum and a count of at least one")
    units, weights = _units(total, pictures), _units(count, pictures)
    value = float(total.sum() / count.sum())
    if len(units) < MIN_ITEMS:
        return Unbounded(len(total), value, None, None)
    if np.ptp(units / weights) < EQUAL:
        return Unbounded(len(total), value, None, None, unseen=1 - (1 - CONFIDENCE) ** (1 / len(units)))
    found = _ratio(units, weights, len(total))
    return Unbounded(found.n, found.value, found.low, found.high)


def disjoint(left: Estimate, right: Estimate) -> bool | None:
    """Whether two intervals do not touch; None when either is missing."""
    if left.low is None or left.high is None or right.low is None or right.high is None:
        return None
    return left.high < right.low or right.high < left.low


def checked(scores: Sequence[float], low: float, high: float) -> np.ndarray:
    """The scores as float64. Raises ValueError when there is none or one is not between `low` and `high`."""
    values = np.asarray(scores, float)
    if values.ndim != 1 or len(values) == 0 or not (np.isfinite(values) & (values >= low) & (values <= high)).all():
        raise ValueError(f"expected a list of scores between {low:g} and {high:g}")
    return values


def totals(values: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """The sum of the values of each group, in the order of the groups' names."""
    if len(groups) != len(values):
        raise ValueError(f"not paired: {len(values)} values, {len(groups)} pictures")
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(place, weights=values)


def _units(values: np.ndarray, pictures: Sequence[str] | None) -> np.ndarray:
    return values if pictures is None else totals(values, pictures)


def _wilson(successes: int, n: int) -> Estimate:
    interval = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(n, successes / n, float(interval.low), float(interval.high))


def _constant(value: float, n: int, units: int) -> Estimate:
    could_differ = _wilson(0, units).high or 0.0
    return Estimate(n, value, value * (1 - could_differ), value + could_differ * (1 - value))


def _ratio(sums: np.ndarray, counts: np.ndarray, n: int) -> Estimate:
    """sum(sums) / sum(counts) with a bootstrap over units."""
    value = float(sums.sum() / counts.sum())
    interval = stats.bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis) / c.sum(axis),
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    if not (np.isfinite(interval.low) and np.isfinite(interval.high)):
        return Estimate(n, value, None, None)
    return Estimate(n, value, float(interval.low), float(interval.high))
