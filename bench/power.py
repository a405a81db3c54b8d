"""How many items or turns it takes to decide, from how much they scatter: for a plan, and for an open verdict."""

import math
from bisect import bisect_left

import numpy as np
from scipy import stats

from bench.intervals import CONFIDENCE, MIN_ITEMS

POWER = 0.8  # share of the cases in which the stated number is to be enough
MOST_BLOCKS = 200


def items_needed(distance: float, deviation: float, one_sided: bool = True, power: float = POWER) -> int | None:
    """Items after which a mean change at `distance` from the margin is told from it, with probability `power`.

        n = ((z_confidence + z_power) deviation / distance)^2

    (E. Miller, arXiv 2411.00640, section 5), and what exact bounds of two rates need beyond it: the correction of
    J. L. Fleiss, B. Levin and M. C. Paik (Statistical Methods for Rates and Proportions, 2003, chapter 4). Never fewer
    than let no flip at all decide: (1 - distance)^n < 5 %. `deviation` is that of an item (change.Difference); for 0/1
    scores its square is the share of flips less the change squared. None where the distance is 0: no number decides.
    Raises ValueError for a negative deviation.
    """
    if deviation < 0:
        raise ValueError(f"a deviation is not negative: {deviation}")
    distance = abs(distance)
    if distance < 1e-9:
        return None
    tail = 1 - CONFIDENCE if one_sided else (1 - CONFIDENCE) / 2
    plain = ((stats.norm.ppf(1 - tail) + stats.norm.ppf(power)) * deviation / distance) ** 2
    corrected = (math.sqrt(plain) + math.sqrt(plain + 4 / distance)) ** 2 / 4
    unseen = math.log(tail) / math.log1p(-distance) if distance < 1 else 1.0
    return max(MIN_ITEMS, math.ceil(corrected), math.ceil(unseen))


def smallest_margin(items: int, deviation: float, power: float = POWER) -> float | None:
    """The smallest margin that a variant without any true change can be shown to hold with so many items, with
    probability `power`; None under MIN_ITEMS."""
    if items < MIN_ITEMS:
        return None
    steps = range(1, 1001)  # tenths of a point
    place = bisect_left(
        steps, True, key=lambda step: (items_needed(step / 1000, deviation, power=power) or math.inf) <= items
    )
    return steps[place] / 1000 if place < len(steps) else None


def blocks_needed(distance: float, deviation: float, fewest: int, power: float = POWER) -> int | None:
    """Turns after which the 95 % interval of a mean with this deviation a turn ends before `distance`, with probability
    `power`: the same formula with Student's t, solved for n. None above MOST_BLOCKS."""
    turns = np.arange(fewest, MOST_BLOCKS + 1)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, turns - 1) + stats.t.ppf(power, turns - 1)
    enough = turns[reach * deviation / np.sqrt(turns) <= abs(distance)]
    return int(enough[0]) if len(enough) else None
