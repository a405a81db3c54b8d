"""What a report says of one variant: its times, memory, blocks, answers and fidelity, from its lines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from statistics import median
from typing import Any

import numpy as np

from bench import intervals, observations, pairs, ratio, timing
from bench.accuracy import ItemResult
from bench.observations import Ended, Held, Line, Loaded, Phase, Timed, Warmed
from bench.plan import Plan
from bench.variants import NULL

Lines = Sequence[Line]
Counting = Mapping[str, Lines]  # by variant: the lines of the blocks that count
Blocks = list[dict[str, float]]
MEMORY = ("peak_rss", "peak_anon", "peak_file", "allocated", "reserved", "process", "device")


def counting(lines: Lines) -> list[Line]:
    """The lines of the blocks that count: whole and clean."""
    return list(chain.from_iterable(b.lines for b in observations.blocks(lines) if b.ended and b.ended.clean))


def timed(lines: Lines) -> list[Timed]:
    return [line for line in lines if isinstance(line, Timed)]


def times(name: str, made: Plan, lines: Lines, clean: Counting) -> dict[str, Any]:
    """By case: latency, seconds of the stages, requests a second, ratios to the baseline; and the cold start.

    Latencies are of clean blocks; where there is none, of the disturbed ones, and `only_disturbed` says so. A ratio is
    of clean blocks alone.
    """
    found: dict[str, Any] = {"latency": {}, "stages": {}, "requests_per_second": {}, "ratio": {}}
    whole = [line for block in observations.blocks(lines) for line in block.timed]
    found["only_disturbed"] = bool(whole) and not timed(clean[name])
    for case in made.cases:
        own = [line for line in timed(clean[name]) or whole if line.case == case.name]
        if not own:
            continue
        each = [timing.times(line) for line in own]
        found["latency"][case.name] = {metric: timing.summarise(own, metric) for metric in timing.METRICS}
        found["stages"][case.name] = {stage: median(one[stage] for one in each) for stage in timing.STAGES}
        found["requests_per_second"][case.name] = case.batch / median(line.wall for line in own)
        if name != made.baseline:
            metrics = [metric for metric in timing.METRICS if found["latency"][case.name][metric]]
            found["ratio"][case.name] = {metric: _ratio(name, made, clean, case.name, metric) for metric in metrics}
    return found | {"cold_start": _cold(name, made, clean)}


def _ratio(name: str, made: Plan, clean: Counting, case: str, metric: str) -> dict[str, Any]:
    def seconds(of: str) -> Blocks:
        return timing.blocks([line for line in timed(clean[of]) if line.case == case], metric)

    return _compared(name, made, {of: seconds(of) for of in (made.baseline, name, NULL)})


def _cold(name: str, made: Plan, clean: Counting) -> dict[str, Any] | None:
    """From the start of the program to the first answer. Starts that were disturbed do not count; where the system let
    go of the files of any variant, those whose files were still in memory do not either."""
    starts = {
        of: [line for line in lines if isinstance(line, Loaded) and line.first is not None and not line.reasons]
        for of, lines in clean.items()
    }
    dropped = any(line.dropped for lines in starts.values() for line in lines)
    counting = {of: [line for line in lines if line.dropped == dropped] for of, lines in starts.items()}
    own = counting[name]
    if not own:
        return None
    found = {of: timing.cold_start(counting[of]) for of in (made.baseline, name, NULL)}
    return {
        "seconds": timing.median_of([line.imports + line.load + (line.first or 0.0) for line in own]).as_dict(),
        "parts": {part: median(getattr(line, part) for line in own) for part in ("imports", "load", "first")},
        "slowest": max(line.imports + line.load + (line.first or 0.0) for line in own),
        "starts": len(own),
        "dropped": dropped,
        "ratio": _compared(name, made, found) if name != made.baseline else None,
    }


def _compared(name: str, made: Plan, found: Mapping[str, Blocks]) -> dict[str, Any]:
    """A variant beside the baseline; the baseline's null beside both, but for the null itself."""
    null = found[NULL] if name != NULL else None
    return ratio.compare(found[made.baseline], found[name], null).as_dict()


def memory(lines: Lines, device: str, phase: Phase) -> dict[str, Any] | None:
    """Bytes: the most over all blocks of `phase` of what was seen at their ends; None without one. `peak` is the one
    number that a gate judges: of the device where there is one, else of the process. `context`: what a process has of
    the device beside what torch reserved."""
    ended = [line.memory for line in lines if isinstance(line, Ended) and line.phase == phase]
    if not ended:
        return None
    most = {
        field: max(values) if (values := [v for each in ended if (v := getattr(each, field)) is not None]) else None
        for field in MEMORY
    }
    loaded = [line for line in lines if isinstance(line, Loaded) and line.phase == phase]
    weights = [line.weights for line in loaded if line.weights is not None]
    process, reserved = most["process"], most["reserved"]
    on_device = process if process is not None else most["device"]
    return {
        "peak": on_device if device == "cuda" else most["peak_rss"],
        "weights": max(weights) if weights else None,
        "context": None if process is None or reserved is None else process - reserved,
        "load_rss": round(median(line.after.rss - line.before.rss for line in loaded)) if loaded else None,
        **most,
    }


def blocks(lines: Lines) -> dict[str, Any]:
    """How many blocks of times count, what disturbed those that do not, and the extremes of what was seen in those that
    do. `preprocess`: the least and the most of their medians, in seconds: the same work on the CPU each time, it tells
    of a clock that cannot be read. `throttled` is None where a driver does not tell. `boots`: the machines, or starts
    of one, on which anything was measured; "" where a line does not tell."""
    last = [each for each in observations.blocks(lines) if each.phase == "timing"]
    tried = [each for each in observations.attempts(lines) if each.phase == "timing"]
    counting = [each for each in last if each.ended and each.ended.clean]
    clean = [each.ended.conditions for each in counting if each.ended]
    gpus = [each.gpu for each in clean if each.gpu]
    prepared = [median(line.stages.preprocess for line in each.timed) for each in counting]
    ended = [line.conditions for line in lines if isinstance(line, Ended)]
    unknown = any(each.throttled is None for each in gpus)
    return {
        "measured": len(last),
        "clean": len(clean),
        "disturbed": [
            {"block": each.block, "attempt": each.attempt, "reasons": list(each.ended.reasons)}
            for each in tried
            if each.ended and not each.ended.clean
        ],
        "unstable": sum(not line.stable for each in last for line in each.lines if isinstance(line, Warmed)),
        "most": {name: _extreme(max, clean, name) for name in ("others", "steal", "waited", "celsius")}
        | {name: _extreme(max, gpus, name) for name in ("sm_mhz_max", "celsius_max", "watts_max")}
        | {"sm_mhz_min": _extreme(min, gpus, "sm_mhz_min")},
        "throttled": None if unknown else sorted({reason for each in gpus for reason in each.throttled or ()}),
        "preprocess": [min(prepared), max(prepared)] if prepared else None,
        "boots": sorted({each.boot or "" for each in ended}),
    }


def _extreme(which: Callable[..., Any], found: Sequence[Any], name: str) -> float | None:
    return which((value for each in found if (value := getattr(each, name)) is not None), default=None)


def answers(own: Sequence[ItemResult], baseline: Sequence[ItemResult], lines: Lines) -> dict[str, Any]:
    """Scores and what changed, item by item; fidelity where the variant was held to the baseline's answers."""
    found = pairs.scores(own, baseline) | pairs.changes(own, baseline)
    for difference in found["difference"].values():
        difference["word"] = word(difference)
    return found | _fidelity([line for line in lines if isinstance(line, Held)], own)


def word(difference: Mapping[str, Any]) -> str:
    """What the two-sided interval of a difference of scores says."""
    if difference["low"] is None:
        return "INCONCLUSIVE"
    return "LOWER" if difference["high"] < 0 else "HIGHER" if difference["low"] > 0 else "NO DIFFERENCE SEEN"


def _fidelity(held: Sequence[Held], items: Sequence[ItemResult]) -> dict[str, Any]:
    """KL and delta-p over the tokens of the baseline's answers; intervals over pictures."""
    pictures = {item.id: item.image_sha256 for item in items}
    held = [line for line in {line.id: line for line in held}.values() if line.id in pictures and line.kl]
    if not held:
        return {"kl": None, "delta_p": None}
    tokens = [len(line.kl) for line in held]
    whose = [pictures[line.id] for line in held]
    each = np.array([value for line in held for value in line.kl])
    moved = np.array([value for line in held for value in line.delta_p])
    return {
        "kl": {
            **asdict(intervals.weighted_mean([sum(line.kl) for line in held], tokens, whose)),
            "tokens": len(each),
            "median": float(np.median(each)),
            "p99": timing.percentile(each.tolist(), "p99"),
            "most": float(each.max()),
            "worst_item": max(held, key=lambda line: max(line.kl)).id,
            "whole": all(line.whole for line in held),
            "kept": min(line.kept for line in held),
        },
        "delta_p": {
            **asdict(intervals.weighted_mean([sum(line.delta_p) for line in held], tokens, whose)),
            "rms": float(np.sqrt((moved**2).mean())),
            "lowest": float(moved.min()),
        },
    }


def limits(name: str, entry: Mapping[str, Any], clean: Lines, possible: Mapping[str, Any] | None) -> dict[str, Any]:
    """By case and stage: seconds measured (decode: one step, as in TPOT), at best, the share of the best that is
    reached, and the most that can be gained on the baseline. Nothing where the best was not counted."""
    found: dict[str, Any] = {}
    for case, limit in (possible or {}).items():
        own = [line for line in timed(clean) if line.case == case]
        if name not in limit["variants"] or not own:
            continue
        counted = limit["variants"][name]
        stages, times = entry["stages"][case], entry["latency"][case]
        measured = {
            "vision": stages["vision"],
            "prefill": stages["prefill"],
            "decode": times["tpot"] and times["tpot"]["value"],
            "request": times["e2e"]["value"],
        }
        found[case] = {
            stage: {
                "measured": measured[stage],
                "at_best": best["seconds_at_best"],
                "reached": best["seconds_at_best"] / measured[stage],
                "bound": best["bound"],
                "possible": counted["most_possible"][stage],
            }
            for stage, best in counted["stages"].items()
            if measured[stage]
        }
    return found
