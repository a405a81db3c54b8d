"""When a variant is warm: the rule, as one function.

At least `least` requests, and at least six; then until the medians of the last three and of the three before them
differ by less than 5 %, at most twenty, or `least`. Where those are not enough, the block says that it did not become
stable.
"""

from collections.abc import Sequence
from statistics import median

WINDOW = 3
TOLERANCE = 0.05
MOST = 20


def stable(seconds: Sequence[float]) -> bool:
    """Whether the wall times of the warm-up requests so far, in their order, have stopped to change."""
    if len(seconds) < 2 * WINDOW:
        return False
    before, last = median(seconds[-2 * WINDOW : -WINDOW]), median(seconds[-WINDOW:])
    return abs(last - before) < TOLERANCE * before


def enough(seconds: Sequence[float], least: int) -> bool:
    """Whether the warm-up is over."""
    return len(seconds) >= max(MOST, least) or (len(seconds) >= least and stable(seconds))
