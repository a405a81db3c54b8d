"""The least time that a machine needs for a stage, and so the most that a variant can gain on the baseline.

    seconds at best = max(bytes / bandwidth, sum over types of operations / rate)        the roofline model
    most possible   = baseline's seconds at best / variant's

Bytes and operations are counted (bench.counts), the rates measured (bench.machine_rates). The roofline is that of
Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.

`most_possible` is what the variant's bytes and operations allow. It is no limit for what another runtime gains by
wasting less: that one is the baseline's measured seconds over the variant's seconds at best.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.counts import STAGES
from bench.machine_rates import Kind, Rates
from bench.work import Count, Work

REQUEST = "request"  # all stages together: vision, prefill and each decode step of the answer
Counts = Mapping[str, Count]  # by stage


def kinds(counts: Mapping[str, Counts]) -> tuple[Kind, ...]:
    """The types of products whose rates `limits` needs; FP32 always, as anything can be computed in it."""
    found = {kind for stages in counts.values() for each in stages.values() for kind in each.operations}
    order: tuple[Kind, ...] = ("fp32", "fp16", "bf16", "int8")
    return tuple(kind for kind in order if kind in found or kind == "fp32")


def limits(counts: Mapping[str, Counts], work: Work, rates: Rates) -> dict[str, Any]:
    """Of each variant in `counts`, the first of them the baseline.

    `stages`, for each of vision, prefill and decode (one step) that `work` has, and for the request as a whole:
    `bytes`, `operations` (a number), `operations_by_type`, `seconds_at_best` of all rows of the batch together, and
    what bounds them (`bound`: memory or compute; of a request what bounds most of its time).
    `most_possible`, for each of them: the baseline's seconds at best over the variant's.
    Raises as `Rates.operations_of`.
    """
    baseline = next(iter(counts))
    stages = {name: _stages(each, work, rates) for name, each in counts.items()}
    return {
        "baseline": baseline,
        "work": asdict(work),
        "rates": rates.model_dump(mode="json"),
        "variants": {
            name: {
                "stages": found,
                "most_possible": {
                    stage: stages[baseline][stage]["seconds_at_best"] / entry["seconds_at_best"]
                    for stage, entry in found.items()
                },
            }
            for name, found in stages.items()
        },
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """What `limits` found, for a terminal: the rates, then a line for each variant."""
    rates, baseline = Rates.model_validate(found["rates"]), found["baseline"]
    largest = rates.bandwidth[-1]
    reached = [f"{largest.value / 1e9:.3g} GB/s from memory"]
    reached += [f"{rate.value / 1e12:.3g} T {kind} operations/s" for kind, rate in rates.operations.items()]
    said = [f"what {rates.name} allows ({', '.join(reached)}, measured):"]
    if rates.reasons:
        said.append(f"  AMBIGUOUS: {'; '.join(rates.reasons)}: the rates are too low, and what follows is unsure")
    for name, entry in found["variants"].items():
        best, possible = entry["stages"], entry["most_possible"]
        parts = [
            f"{stage} {_number(1000 * each['seconds_at_best'])} ms ({each['bound']}"
            + (f", {possible[stage]:.2f}x)" if name != baseline else ")")
            for stage, each in best.items()
            if stage != REQUEST
        ]
        whole = f"{_number(1000 * best[REQUEST]['seconds_at_best'])} ms at best: {', '.join(parts)}"
        gain = f"at most {possible[REQUEST]:.2f}x possible by bytes and operations, " if name != baseline else ""
        said.append(f"  {name}: {gain}{whole}")
    if len(found["variants"]) > 1:
        said.append(f"  x: against {baseline} at its own best; what a runtime gains by wasting less comes on top")
    return said


def _stages(counts: Counts, work: Work, rates: Rates) -> dict[str, dict[str, Any]]:
    found = {stage: _stage(counts[stage], rates) for stage in STAGES if stage in counts}
    runs = {stage: work.answer_tokens - 1 if stage == "decode" else 1 for stage in found}
    seconds = {stage: runs[stage] * entry["seconds_at_best"] for stage, entry in found.items()}
    memory = sum(seconds[stage] for stage, entry in found.items() if entry["bound"] == "memory")
    by_type: dict[str, int] = {}
    for stage, entry in found.items():
        for kind, number in entry["operations_by_type"].items():
            by_type[kind] = by_type.get(kind, 0) + runs[stage] * number
    found[REQUEST] = {
        "bytes": sum(runs[stage] * found[stage]["bytes"] for stage in runs),
        "operations": sum(by_type.values()),
        "operations_by_type": by_type,
        "seconds_at_best": sum(seconds.values()),
        "bound": "memory" if 2 * memory >= sum(seconds.values()) else "compute",
    }
    return found


def _stage(count: Count, rates: Rates) -> dict[str, Any]:
    reading = count.bytes / rates.bandwidth_of(count.bytes).value
    computing = sum(number / rates.operations_of(kind).value for kind, number in count.operations.items())
    return {
        "bytes": count.bytes,
        "operations": sum(count.operations.values()),
        "operations_by_type": dict(count.operations),
        "seconds_at_best": max(reading, computing),
        "bound": "memory" if reading >= computing else "compute",
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
