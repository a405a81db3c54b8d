"""Looks before a run: what would be measured, how long it takes, what so many items can decide. Measures no variant."""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from bench import plan
from bench.limits import measure_limits
from bench.power import smallest_margin
from bench.ratio import MIN_BLOCKS
from bench.variants import NULL, Variant, variants_of
from bench.warmup import MOST
from bench.workloads import CASES
from calib_data.records import Record
from shipvlm.recipe import BenchSection, GateSection

FLIPS = (0.0, 0.01, 0.03, 0.05)  # shares of items whose score changes, for which the margin is told
# Seconds to start a process, and how many times its least time a request takes: seen on two cores and on an H100.
START = {"onnxruntime": (2, 5), "transformers": (8, 20)}
OVER = (2, 10)


def check(
    given: Sequence[Variant], records: Sequence[Record], section: BenchSection, gates: GateSection
) -> dict[str, Any]:
    """What `bench.run.run` would measure of `given`. `problems` are what would stop it or leave a word open.

    Raises InputError as `bench.variants.variants_of` and `bench.plan.sample`, and as `measure_limits`.
    """
    variants = variants_of(given, section)
    scored = plan.sample(records, section.limit)
    timed = [variant for variant in variants if variant.timed] if "timing" in section.measure else []
    cases = plan.cases(section)
    spread = plan.spread(scored, section.latency_items * max(case.batch for case in cases))
    problems = _problems(variants, section, len(scored))
    stops = any(each["stops"] for each in problems)
    limits = None if stops else measure_limits(cases, variants, spread, section.threads)
    tasks = {task: sum(record.task == task for record in scored) for task in sorted({r.task for r in scored})}
    margins = [{"flips": flips, "margin": smallest_margin(len(scored), math.sqrt(flips))} for flips in FLIPS]
    return {
        "variants": [{"name": v.name, "engine": v.engine, "device": v.device, "timed": v in timed} for v in variants],
        "items": len(scored),
        "tasks": tasks,
        "cases": [case.name for case in cases] if timed else [],
        "blocks": section.blocks if timed else 0,
        "requests": section.latency_items * section.repeats,
        "processes": len(timed) * section.blocks + len(variants) * ("accuracy" in section.measure),
        "seconds": _seconds(variants, timed, section, len(scored), limits) if limits else None,
        "margins": margins,
        "gates": gates.model_dump(mode="json"),
        "limits": limits,
        "problems": problems,
    }


def _problems(variants: Sequence[Variant], section: BenchSection, items: int) -> list[dict[str, Any]]:
    """What is wrong, and whether it stops the run."""
    found: list[dict[str, Any]] = []
    for variant in variants:
        if variant.engine.startswith("bnb") and find_spec("bitsandbytes") is None:
            found.append(_problem(f"{variant.name} needs the package bitsandbytes: install the extra cuda"))
    if any(variant.device == "cuda" for variant in variants) and not _cuda():
        found.append(_problem("bench.device is cuda, and no CUDA device can be used here"))
    if "timing" in section.measure and section.blocks < MIN_BLOCKS:
        words = f"bench.blocks is {section.blocks}: with fewer than {MIN_BLOCKS} every time is AMBIGUOUS"
        found.append(_problem(words, stops=False))
    if "accuracy" in section.measure and smallest_margin(items, 0.0) is None:
        found.append(_problem(f"{items} items are too few for any interval: every score is INCONCLUSIVE", stops=False))
    return found


def _problem(message: str, stops: bool = True) -> dict[str, Any]:
    return {"message": message, "stops": stops}


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _seconds(
    variants: Sequence[Variant],
    timed: Sequence[Variant],
    section: BenchSection,
    items: int,
    limits: Mapping[str, Any],
) -> tuple[float, float]:
    """From the processes to start, and the least time of the requests that they answer: a range."""
    low = high = 0.0
    baseline = variants[0].name
    for variant in variants:
        start = START.get(variant.engine, START["transformers"])
        best = {case: _least(limit, variant.name, baseline) for case, limit in limits.items()}
        blocks = section.blocks if variant in timed else 0
        fewest, most = (warm + section.latency_items * section.repeats for warm in (section.warmup, MOST))
        low += blocks * (start[0] + fewest * OVER[0] * sum(best.values()))
        high += blocks * (start[1] + most * OVER[1] * sum(best.values()))
        if "accuracy" in section.measure:
            answer = min(best[case] / CASES[case].batch for case in best)
            low, high = low + start[0] + items * answer, high + start[1] + items * OVER[1] * answer
    return low, high


def _least(limit: Mapping[str, Any], name: str, baseline: str) -> float:
    known = limit["variants"]
    entry = known.get(name if name != NULL else baseline) or known[baseline]
    return float(entry["stages"]["request"]["seconds_at_best"])


def lines(found: Mapping[str, Any]) -> list[str]:
    """What `check` found, for a terminal."""
    from bench.limits import lines as possible

    names = ", ".join(
        f"{v['name']}{'' if v['timed'] or not found['blocks'] else ' (not timed)'}" for v in found["variants"]
    )
    said = [f"variants: {names}"]
    tasks = ", ".join(f"{count} {task}" for task, count in found["tasks"].items())
    said.append(f"answers: {found['items']} items a variant ({tasks})")
    if found["blocks"]:
        said.append(
            f"times: {', '.join(found['cases'])}; {found['blocks']} blocks of {found['requests']} requests a variant"
        )
    if found["seconds"]:
        low, high = (max(1, round(seconds / 60)) for seconds in found["seconds"])
        minutes = f"{low} to {high} minutes" if low < high else f"{low} minute{'s' if low > 1 else ''}"
        said.append(f"takes about {minutes} ({found['processes']} processes, one after the other; a rough guess)")
    said += [_margin(each, found["items"]) for each in found["margins"]]
    if score := found["gates"]["score"]:
        able = [each["flips"] for each in found["margins"] if each["margin"] and each["margin"] <= score]
        said.append(
            f"gates.score {score:g}: can be decided where at most {100 * max(able):g} % of the answers change"
            if able
            else f"gates.score {score:g}: cannot be decided with {found['items']} items: INCONCLUSIVE at best"
        )
    if found["limits"]:
        said += possible(found["limits"])
    said += [f"{'problem' if each['stops'] else 'note'}: {each['message']}" for each in found["problems"]]
    return said


def _margin(each: Mapping[str, Any], items: int) -> str:
    changed = (
        f"{100 * each['flips']:g} % of the answers change, as many either way" if each["flips"] else "no answer changes"
    )
    if each["margin"] is None:
        return f"  where {changed}: no margin can be decided"
    return f"  where {changed}: {items} items decide a margin of {100 * each['margin']:.1f} points or more"
