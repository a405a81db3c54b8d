"""Where the marks of the report's figures lie: an SVG's units for the map of all variants, percent for bars.

Colours are named by the place of a variant (0 is the baseline) and by stage; the page's style says what they are.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from matplotlib.ticker import LogLocator, MaxNLocator

from bench import timing
from bench.variants import NULL
from bench.words import number, percent, size, small

Report = Mapping[str, Any]
Range = tuple[float, float, float]  # low, value, high
Box = tuple[float, float, float, float]  # left, right, top, bottom
WIDTH, HEIGHT = 400, 300
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 30, 40  # margins for the labels of the axes
LINE, LETTER = 15, 7.2  # height of a line of text, width of a letter
LARGEST, SMALLEST = 15.0, 3.0  # radius of the largest mark, and the least that can be seen
WIDE = 4  # a range of times in which the largest is so many times the smallest gets a logarithmic axis
FITS = 13  # percent of a bar in which a number fits
NEAR = 0.05  # the share of its limit from which a bar says something
STAGES = {"vision": "vision", "prefill": "prefill", "decode": "decode step", "request": "request"}


def trade(report: Report, case: str) -> dict[str, Any] | None:
    """Score over end-to-end time, a mark a variant, its area the peak memory; bars where there is an interval. None
    where not both were measured."""
    shown = {
        name: (place, entry)
        for place, (name, entry) in enumerate(report["variants"].items())
        if case in entry["latency"] and not entry["only_disturbed"] and "score" in entry
        if name != NULL  # which is asked fewer items
    }
    if not shown:
        return None
    x = [_range(entry["latency"][case]["e2e"], 1e3) for _, entry in shown.values()]
    y = [_range(entry["score"]["all"], 100) for _, entry in shown.values()]
    x_scale, x_ticks = _axis(x, LEFT, WIDTH - RIGHT, max(v for _, v, _ in x) > WIDE * min(v for _, v, _ in x))
    y_scale, y_ticks = _axis(y, HEIGHT - BOTTOM, TOP, most=100.0)
    most = max(_peak(entry) for _, entry in shown.values())
    points = []
    for (name, (place, entry)), (x_low, x_value, x_high), (y_low, y_value, y_high) in zip(
        shown.items(), x, y, strict=True
    ):
        words = f"{name}: {number(x_value)} ms, score {percent(entry['score']['all'])} %, {size(_peak(entry))}"
        points.append(
            {
                "name": name,
                "place": place,
                "x": x_scale(x_value),
                "y": y_scale(y_value),
                "radius": _radius(_peak(entry), most),
                "x_bar": (x_scale(x_low), x_scale(x_high)),
                "y_bar": (y_scale(y_low), y_scale(y_high)),
                "title": words,
            }
        )
    _place_labels(points)
    points.sort(key=lambda point: -point["radius"])  # the small ones on top
    sizes = [most, most / 4] if most else []
    return {
        "without": _without(report, case, shown),
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "x_ticks": x_ticks,
        "y_ticks": y_ticks,
        "points": points,
        "sizes": [{"radius": _radius(each, most), "text": size(each)} for each in sizes],
    }


def stages(report: Report, case: str) -> dict[str, Any] | None:
    """Where the time of one request goes: a bar a variant, a part a stage, widths in percent of the longest. None where
    nothing was measured undisturbed."""
    shown = {
        name: entry["stages"][case]
        for name, entry in report["variants"].items()
        if case in entry["stages"] and not entry["only_disturbed"]
    }
    if not shown:
        return None
    longest = max(sum(max(0.0, value) for value in found.values()) for found in shown.values())
    rows = []
    for name, found in shown.items():
        parts = []
        for stage in timing.STAGES:
            width = round(100 * max(0.0, found[stage]) / longest, 2)
            parts.append({"stage": stage, "width": width, "text": number(1e3 * found[stage]), "fits": width > FITS})
        whole = report["variants"][name]["latency"][case]["e2e"]["value"]
        rows.append({"name": name, "parts": parts, "total": number(1e3 * whole)})
    return {"rows": rows, "stages": timing.STAGES}


def unbound(report: Report, case: str) -> str | None:
    """What is said instead of bars where no request comes near its limit; None where one does, or none is known."""
    counted = {name: entry["limits"][case] for name, entry in report["variants"].items() if case in entry["limits"]}
    found = {name: stages["request"] for name, stages in counted.items()}
    if not found or any(request["reached"] >= NEAR for request in found.values()):
        return None
    name, request = next(iter(found.items()))
    return (
        f"The limit binds nothing here: {name} takes {_ms(request['measured'])} for a request whose bytes and "
        f"operations need {_ms(request['at_best'])} on this machine."
    )


def roofline(report: Report, case: str) -> list[dict[str, Any]]:
    """How much of what the machine allows is reached: a group a variant, a bar a stage, widths in percent."""
    groups = []
    for name, entry in report["variants"].items():
        if case not in entry["limits"]:
            continue
        bars = [
            {
                "stage": STAGES[stage],
                "kind": stage,
                "width": round(min(100.0, 100 * found["reached"]), 2),
                "text": _share(found["reached"]),
                "measured": _ms(found["measured"]),
                "title": f"{_ms(found['at_best'])} at best, for {found['bound']}",
            }
            for stage, found in entry["limits"][case].items()
        ]
        possible = entry["limits"][case]["request"]["possible"] if name != report["baseline"] else None
        groups.append({"name": name, "bars": bars, "possible": possible})
    return groups


def _share(reached: float) -> str:
    return f"{100 * reached:.0f} %" if reached >= 0.01 else "< 1 %"


def _ms(seconds: float) -> str:
    return f"{(number if seconds >= 1e-5 else small)(1e3 * seconds)} ms"


def _without(report: Report, case: str, shown: Collection[str]) -> str:
    """Which variants have no mark on the map, and why."""
    why: dict[str, list[str]] = {}
    for name, entry in report["variants"].items():
        if name not in shown and name != NULL:
            timed, quiet = case in entry["latency"], not entry["only_disturbed"]
            reason = "not timed" if not timed else "answers not scored" if quiet else "every block disturbed"
            why.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in why.items())


def _peak(entry: Mapping[str, Any]) -> float:
    return float((entry["memory"] or {}).get("peak") or 0)


def _radius(peak: float, most: float) -> float:
    """The area of a mark stands for its memory."""
    return round(max(SMALLEST, LARGEST * math.sqrt(peak / most)), 1) if most else 6.0


def _range(estimate: Mapping[str, Any], unit: float) -> Range:
    value = estimate["value"]
    low, high = (value if estimate[side] is None else estimate[side] for side in ("low", "high"))
    return low * unit, value * unit, high * unit


def _axis(
    ranges: Sequence[Range], start: float, end: float, log: bool = False, most: float = math.inf
) -> tuple[Callable[[float], float], list[dict[str, Any]]]:
    """A scale from values to places, and its ticks. Nothing is above `most`."""
    low, high = min(low for low, _, _ in ranges), max(high for _, _, high in ranges)
    if log:
        low, high = low / 1.25, high * 1.25
        ticks = list(LogLocator(subs=(1, 2, 5)).tick_values(low, high))
    else:
        room = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = max(0.0, low - room), min(high + room, max(most, high))
        ticks = list(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    measure = math.log if log else float

    def place(value: float) -> float:
        share = (measure(value) - measure(low)) / ((measure(high) - measure(low)) or 1.0)
        return round(start + share * (end - start), 1)

    return place, [{"at": place(tick), "text": f"{tick:g}"} for tick in ticks if low <= tick <= high]


def _place_labels(points: list[dict[str, Any]]) -> None:
    """A label beside each mark, on the side with room; higher or lower where it would lie on another label or mark."""
    taken: list[Box] = []
    for point in sorted(points, key=lambda point: -point["y"]):
        width, away = LETTER * len(point["name"]), point["radius"] + 4
        right = point["x"] + away + width < WIDTH - 2
        point["anchor"] = "start" if right else "end"
        point["label_x"] = round(point["x"] + (away if right else -away), 1)
        left = point["label_x"] if right else point["label_x"] - width
        marks = [_box(other) for other in points if other is not point]
        places = sorted(range(LINE, HEIGHT, 2), key=lambda y: abs(y - (point["y"] - 6)))
        boxes = [(left, left + width, float(y - LINE), float(y)) for y in places]
        apart = [box for box in boxes if not _touch(box, taken)]
        box = next((box for box in apart if not _touch(box, marks)), apart[0])
        point["label_y"] = box[3]
        taken.append(box)


def _touch(box: Box, others: Sequence[Box]) -> bool:
    left, right, top, bottom = box
    return any(left < end and start < right and top < low and high < bottom for start, end, high, low in others)


def _box(point: Mapping[str, Any]) -> Box:
    x, y, reach = point["x"], point["y"], point["radius"]
    return x - reach, x + reach, y - reach, y + reach
