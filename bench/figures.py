"""Where the marks of the report's two figures lie, in the units of an SVG's viewBox. The page draws them.

Colours are named by the place of a variant (0 is the baseline) and by stage; the page's style says what they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from bench import timing
from bench.table import number, percent

WIDTH, HEIGHT = 440, 320
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 26, 48  # margins for the labels of the axes
LINE = 15  # height of a line of text
BAR, GAP = 26, 38


def scatter(report: Mapping[str, Any]) -> dict[str, Any]:
    """Score over end-to-end latency, a point a variant, error bars where there is an interval."""
    entries = report["variants"]
    x = [_range(entry["latency"]["e2e"], 1e3) for entry in entries.values()]
    y = [_range(entry["score"]["all"], 100) for entry in entries.values()]
    x_scale, x_ticks = _axis(x, LEFT, WIDTH - RIGHT)
    y_scale, y_ticks = _axis(y, HEIGHT - BOTTOM, TOP)
    points = []
    for place, (name, (x_low, x_value, x_high), (y_low, y_value, y_high)) in enumerate(zip(entries, x, y, strict=True)):
        points.append(
            {
                "name": name,
                "place": place,
                "x": x_scale(x_value),
                "y": y_scale(y_value),
                "x_bar": (x_scale(x_low), x_scale(x_high)),
                "y_bar": (y_scale(y_low), y_scale(y_high)),
                "title": f"{name}: {number(x_value)} ms, score {percent(entries[name]['score']['all'])}",
            }
        )
    _place_labels(points)
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "x_ticks": x_ticks,
        "y_ticks": y_ticks,
        "points": points,
    }


def bars(report: Mapping[str, Any]) -> dict[str, Any]:
    """Where the time of one request goes: a bar a variant, a part a stage, milliseconds written where they fit."""
    entries = report["variants"]
    longest = max(sum(max(0.0, seconds) for seconds in entry["stages"].values()) for entry in entries.values())
    scale = (WIDTH - 60) / longest
    rows = []
    for index, (name, entry) in enumerate(entries.items()):
        left, parts = 0.0, []
        for stage in timing.STAGES:
            width = max(0.0, entry["stages"][stage]) * scale
            text = number(1e3 * entry["stages"][stage])
            parts.append({"stage": stage, "x": left, "width": width, "text": text, "fits": width > 8 * len(text) + 6})
            left += width
        total = sum(entry["stages"].values())
        top = index * (BAR + GAP) + LINE + 6
        rows.append({"name": name, "y": top, "parts": parts, "end": left, "total": number(1e3 * total)})
    return {"width": WIDTH, "height": len(entries) * (BAR + GAP), "bar": BAR, "rows": rows, "stages": timing.STAGES}


def _range(estimate: Mapping[str, Any], unit: float) -> tuple[float, float, float]:
    value = estimate["value"]
    low, high = (value if estimate[side] is None else estimate[side] for side in ("low", "high"))
    return low * unit, value * unit, high * unit


def _axis(ranges: Sequence[tuple[float, float, float]], start: float, end: float) -> tuple[Any, list[dict[str, Any]]]:
    """A scale from values to places, and its ticks."""
    low, high = min(low for low, _, _ in ranges), max(high for _, _, high in ranges)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = max(0.0, low - room), high + room

    def place(value: float) -> float:
        return round(start + (value - low) / (high - low) * (end - start), 1)

    ticks = [tick for tick in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high]
    return place, [{"at": place(tick), "text": f"{tick:g}"} for tick in ticks]


def _place_labels(points: list[dict[str, Any]]) -> None:
    """A label above each point, on the side with room; higher where it would lie on another one."""
    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda point: -point["y"]):
        width = 8 * len(point["name"])
        right = point["x"] + 10 + width < WIDTH - RIGHT
        point["anchor"] = "start" if right else "end"
        point["label_x"] = point["x"] + (10 if right else -10)
        left = point["label_x"] if right else point["label_x"] - width
        y = point["y"] - 9
        while any(abs(y - other) < LINE and left < end and start < left + width for start, end, other in taken):
            y -= LINE
        point["label_y"] = y
        taken.append((left, left + width, y))
