"""How much a variant changed the baseline's answers, item by item: differences, ratios and rates with exact bounds.

A change is what some items lose and what others gain, and each of the two is a rate of rare events. Student's t and
the bootstrap hold neither where few items change: at 160 items, with a true loss of 2 points, t lets 17 % of the
variants pass a margin of 2 points that should let 5 %. So each rate has the exact bounds of C. J. Clopper and
E. S. Pearson (Biometrika 26, 1934), of which zero events in n give the rule of three, and MOVER puts them together
(G. Y. Zou and A. Donner, Statistics in Medicine 27, 2008; R. G. Newcombe, ibid. 17, 1998):

    low = change - sqrt((gain - gain_low)^2 + (loss_high - loss)^2 - 2 r (gain - gain_low)(loss_high - loss))

with r the correlation of gain and loss over pictures. Losses smaller than 1 are counted in units of their typical size
(sum of squares over sum), to which one whole loss is added that was not seen: the second moment is that of the data,
and nothing seen means at most a few whole losses. The unit is the picture: items that share one are not independent
(E. Miller, arXiv 2411.00640), so their changes are added up first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bench.intervals import CONFIDENCE, MIN_ITEMS, Estimate, checked, totals

TWO_SIDED = (1 - CONFIDENCE) / 2
ONE_SIDED = 1 - CONFIDENCE


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean change with its two-sided interval, `lower` and `upper` each a one-sided 95 % bound. `pictures`: number
    of units. `deviation`: standard deviation an item, as if the items were independent with the same error."""

    lower: float | None
    upper: float | None
    pictures: int
    deviation: float


def difference(baseline: Sequence[float], variant: Sequence[float], pictures: Sequence[str]) -> Difference:
    """Mean of variant - baseline over the same items in the same order; scores or rates in [0, 1].

    `pictures` names the picture of each item. Bounds are None under MIN_ITEMS pictures.
    Raises ValueError when the lengths differ or a score lies outside [0, 1].
    """
    left, right = _paired(baseline, variant, pictures)
    changes = _by_picture(right - left, pictures)
    n, value = len(left), float((right - left).mean())
    deviation = float(changes.std(ddof=1) * np.sqrt(n / len(changes))) if len(changes) > 1 else 0.0
    if len(changes) < MIN_ITEMS:
        return Difference(n, value, None, None, None, None, len(changes), deviation)
    (low, high), (lower, upper) = (bounds(changes, tail) for tail in (TWO_SIDED, ONE_SIDED))
    inside = (max(-1.0, low), min(1.0, high), max(-1.0, lower), min(1.0, upper))
    return Difference(n, value, *inside, len(changes), deviation)


def ratio(
    baseline: Sequence[float], variant: Sequence[float], pictures: Sequence[str], whole: float | None = None
) -> Estimate | None:
    """sum(variant) / sum(baseline) over the same items, with the interval of the mean residual variant - ratio *
    baseline; None where the baseline has nothing.

    `whole` is the size of one change that may have gone unseen: the baseline's mean unless said. Raises ValueError when
    the lengths differ or a value is negative.
    """
    left, right = _paired(baseline, variant, pictures, np.inf)
    if not left.any():
        return None
    value, mean = float(right.sum() / left.sum()), float(left.mean())
    residuals = _by_picture(right - value * left, pictures)
    if len(residuals) < MIN_ITEMS:
        return Estimate(len(left), value, None, None)
    low, high = bounds(residuals, TWO_SIDED, whole or mean)
    return Estimate(len(left), value, max(0.0, value + low / mean), value + high / mean)


def rate(events: Sequence[bool], pictures: Sequence[str]) -> Estimate:
    """Share of items with the event, with its exact interval; None under MIN_ITEMS pictures."""
    flags, _ = _paired([float(event) for event in events], [0.0] * len(events), pictures)
    values = _by_picture(flags, pictures)
    if len(values) < MIN_ITEMS:
        return Estimate(len(flags), float(flags.mean()), None, None)
    low, high = _rate(values, TWO_SIDED, 1.0)
    return Estimate(len(flags), float(flags.mean()), low, min(1.0, high))


def bounds(changes: np.ndarray, tail: float, whole: float = 1.0) -> tuple[float, float]:
    """Lower and upper bound of the mean of `changes`, each wrong with probability `tail`."""
    loss, gain = np.maximum(-changes, 0), np.maximum(changes, 0)
    lost, gained = float(loss.mean()), float(gain.mean())
    loss_low, loss_high = _rate(loss, tail, whole)
    gain_low, gain_high = _rate(gain, tail, whole)
    spread = float(loss.std() * gain.std())
    together = -lost * gained / spread if spread > 0 else 0.0  # no unit both gains and loses
    low = gained - lost - _far(gained - gain_low, loss_high - lost, together)
    high = gained - lost + _far(gain_high - gained, lost - loss_low, together)
    return low, high


def _rate(values: np.ndarray, tail: float, whole: float) -> tuple[float, float]:
    """Bounds of the mean of values >= 0: events of their typical size, `whole` that of one not seen."""
    n, total = len(values), float(values.sum())
    size = float((values**2).sum() + whole**2) / (total + whole)
    count = min(total / size, n)
    low = size * float(stats.beta.ppf(tail, count, n - count + 1)) if count > 0 else 0.0
    high = size * float(stats.beta.ppf(1 - tail, count + 1, n - count)) if count < n else size
    return low, high


def _far(left: float, right: float, correlation: float) -> float:
    return float(np.sqrt(left**2 + right**2 - 2 * correlation * left * right))


def _paired(
    baseline: Sequence[float], variant: Sequence[float], pictures: Sequence[str], highest: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    left, right = checked(baseline, 0.0, highest), checked(variant, 0.0, highest)
    if not len(left) == len(right) == len(pictures):
        raise ValueError(f"not paired: {len(left)} baseline, {len(right)} variant, {len(pictures)} pictures")
    return left, right


def _by_picture(values: np.ndarray, pictures: Sequence[str]) -> np.ndarray:
    """Totals of each picture over the mean number of items of one: their mean is that of the items."""
    summed = totals(values, pictures)
    return summed * len(summed) / len(values)
