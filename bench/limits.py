"""What this machine allows at best, counted and said before anything is measured: `limits.json`, by workload."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import capacity, counts, machine_rates, roofline, work
from bench.plan import Plan
from bench.variants import NULL, Variant
from bench.workloads import Case, requests
from calib_data.records import Record
from shipvlm.families.qwen3_vl.processor import load_processor
from shipvlm.runtime.inputs import encode

LIMITS = "limits.json"
CARDS = ("t4", "rtx4090", "a100-80")  # of 16, 24 and 80 GB
Say = Callable[[str], None]


def write_limits(
    out: Path, plan: Plan, variants: Sequence[Variant], timed: Sequence[Record], threads: int | None, say: Say
) -> None:
    """Write `measure_limits` of the cases of `plan` to `out`, and say the best that is possible."""
    found = measure_limits(plan.cases, variants, timed, threads)
    (out / LIMITS).write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    for line in lines(found):
        say(line)


def settled(out: Path) -> bool:
    """Whether `out` has limits, and nothing disturbed the measuring of their rates."""
    path = out / LIMITS
    return path.is_file() and not any(each["rates"]["reasons"] for each in json.loads(path.read_bytes()).values())


def measure_limits(
    cases: Sequence[Case], variants: Sequence[Variant], timed: Sequence[Record], threads: int | None
) -> dict[str, Any]:
    """By case: count the work for the variants (but the null, which is the baseline), ask a fresh process for the rates
    of this machine, and say what follows; and for each variant `capacity`: what would fit on some cards. A quantized
    checkpoint counts as a server would run it.

    Raises `InputError` for graphs with operators that nobody counts, and as `bench.machine_rates.measure_rates`.
    """
    chosen = [variant for variant in variants if variant.name != NULL and (variant.timed or not variant.dtype)]
    processor = load_processor(chosen[0].folder)
    works, by_case = {}, {}
    for case in cases:
        records = [timed[place % len(timed)] for place in range(case.batch)]
        asked = encode(processor, requests(case, records, processor.tokenizer, "limits"))
        works[case.name] = work.work_of(asked, case.answer_tokens)
        by_case[case.name] = {each.name: _count(each, works[case.name]) for each in chosen}
    kinds = [kind for found in by_case.values() for kind in roofline.kinds(found)]
    rates = machine_rates.measure_rates(chosen[0].device, kinds, threads)
    found = {name: roofline.limits(counted, works[name], rates) for name, counted in by_case.items()}
    needed = {each.name: capacity.needs(each.folder, each.loaded_dtype, each.engine) for each in chosen}
    for name, limit in found.items():
        context = works[name].prompt_tokens + works[name].answer_tokens
        for variant, entry in limit["variants"].items():
            entry["capacity"] = [
                capacity.capacity(needed[variant], card, context=context, patches=works[name].patches) for card in CARDS
            ]
    return found


def lines(found: Mapping[str, Any]) -> list[str]:
    """What `measure_limits` found, for a terminal."""
    return [
        said
        for name, limits in found.items()
        for said in (f"{name}:", *(f"  {line}" for line in roofline.lines(limits)))
    ]


def _count(variant: Variant, asked: work.Work) -> dict[str, Any]:
    return dict(counts.count(variant.folder, asked, variant.loaded_dtype, variant.engine))
