"""Numbers of a report as words: how many digits, which unit, and what is said where there is none."""

from collections.abc import Mapping
from typing import Any

INCONCLUSIVE = "INCONCLUSIVE"
NONE = "-"
Estimate = Mapping[str, Any]  # bench.intervals.Estimate as data: value, low, high, n


def percent(estimate: Estimate | None, signed: bool = False, few: str = INCONCLUSIVE) -> str:
    """A share in percent with its interval: `81.3 [77.2, 84.8]`; a dash where there is none. `few` is said, with the
    number of items, where they are too few for an interval."""
    return with_interval(estimate, lambda value: points(value, signed), few)


def milliseconds(estimate: Estimate | None) -> str:
    """Seconds as milliseconds with their interval: `41.2 [40.1, 43.0]`; a dash where nothing was measured."""
    return with_interval(estimate, lambda value: number(1e3 * value))


def ratio(estimate: Estimate | None) -> str:
    """A ratio with its interval: `1.93x [1.88, 2.01]`; a dash where nothing was measured."""
    return with_interval(estimate, lambda value: f"{value:.2f}", unit="x")


def judged(compared: Estimate | None) -> str:
    """A comparison of times, its word first: `FASTER 1.93x [1.88, 2.01]`."""
    if compared is None:
        return NONE
    return f"{compared['word']} {ratio(compared)}" if compared["value"] is not None else compared["word"]


def points(share: float, signed: bool = False) -> str:
    """A share in percent, or a change of one in points: one place after the point."""
    return f"{100 * share + 0.0:{'+' if signed else ''}.1f}"


def number(value: float) -> str:
    """Three digits that count, but never fewer than the whole number: `0.412`, `4.12`, `41.2`, `412`, `4123`."""
    places = next((places for places, limit in ((3, 0.9995), (2, 9.995), (1, 99.95)) if abs(value) < limit), 0)
    return f"{value:.{places}f}"


def megabytes(size: float | None) -> str:
    """Bytes in units of 1e6."""
    return NONE if size is None else number(size / 1e6)


def size(count: float | None) -> str:
    """Bytes with their unit: `26.6 MB`, `16.3 GB`."""
    if count is None:
        return NONE
    for unit, most in (("kB", 1e6), ("MB", 1e9), ("GB", 1e15)):
        if abs(count) < most:
            return f"{number(1e3 * count / most) if unit != 'GB' else number(count / 1e9)} {unit}"
    return f"{count:.3g} bytes"


def times(value: float | None) -> str:
    """A ratio without an interval: `0.55x`."""
    return NONE if value is None else f"{value:.2f}x"


def small(value: float | None) -> str:
    """A number that may be far below 1: `3.1e-06`, `0.0021`."""
    return NONE if value is None else f"{value:.2g}"


def with_interval(estimate: Estimate | None, words: Any, few: str = "", unit: str = "") -> str:
    """`value [low, high]`; where there is no interval, `few` and of how many."""
    if estimate is None or estimate["value"] is None:
        return NONE
    value = f"{words(estimate['value'])}{unit}"
    if estimate["low"] is None:
        return f"{value} {few} (n={estimate['n']})" if few else value
    return f"{value} [{words(estimate['low'])}, {words(estimate['high'])}]"
