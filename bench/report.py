"""From observations to the report: every number in it is made here, and nothing is measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import fidelity, pairs, timing
from bench.accuracy import ItemResult
from bench.environment import LIBRARIES, RUNTIMES, describe_data, libraries, machine
from bench.observations import Answered, Loaded
from calib_data.records import Record
from shipvlm.errors import InputError
from shipvlm.recipe import BenchSection

SCHEMA_VERSION = 2
INCONCLUSIVE = "INCONCLUSIVE"
NOTES = (
    "Intervals are 95 %. Scores: Wilson or a bootstrap over items, none under 30 items. Times: order statistics over "
    "requests, none under 6. Where there is none the word is INCONCLUSIVE; a percentile that too few requests "
    "support is left out.",
    "Differences and ratios are paired: each item beside the baseline's answer to the same item.",
    "Times are of one request alone (batch 1), every answer of the same length, the end token ignored: the medians "
    "over requests of the medians over repeats and processes. Time to first token: from the decoded picture and the "
    "words to the first token (preprocess, vision, prefill). Time per output token: what is left, over the further "
    "tokens.",
    "Each variant runs in fresh processes, in turns forwards and backwards. Load time is without the import of "
    "libraries; the files may lie in the system's cache.",
    "Memory is the most that the process had resident with one request, libraries and mapped weights included, and how "
    "much of it came after the libraries were imported.",
    "On a CPU a transformers checkpoint is computed in FP32, whatever type its weights are stored in; so is what a "
    "quantized variant does not compute in integers.",
    "Answers are greedy. Top-1 agreement: tokens of the baseline's answer that the variant, given all before, finds "
    "most likely too.",
)
Lines = Sequence[Loaded | Answered]


def build(
    variants: Mapping[str, Mapping[str, Any]],
    measured: Mapping[str, Lines],
    records: Sequence[Record],
    section: BenchSection,
    command: str,
) -> dict[str, Any]:
    """The report of `measured`, the lines of each variant; the first is the baseline.

    `variants` says what each is (runtime, device, digest, weights). `records` are those that were scored.
    """
    baseline, *others = measured
    answers = {
        name: [line for line in lines if isinstance(line, Answered) and line.phase == "accuracy"]
        for name, lines in measured.items()
    }
    items = {name: pairs.grade(found, records) for name, found in answers.items()}
    times = {name: timing.by_request(_timed(lines)) for name, lines in measured.items()}
    entries = {
        name: {
            **variants[name],
            **_latency(times[name]),
            "speedup": {
                metric: timing.speedup(times[baseline], times[name], metric) if name in others else None
                for metric in timing.METRICS
            },
            "load_seconds": timing.median_of([line.seconds for line in lines if isinstance(line, Loaded)]).as_dict(),
            "memory": _memory(lines),
            **pairs.scores(items[name], items[baseline]),
            **pairs.changes(items[name], items[baseline]),
        }
        for name, lines in measured.items()
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "baseline": baseline,
        "verdict": {name: verdict(entries[baseline], entries[name]) for name in others},
        "data": {
            "name": Path(section.data).name if Path(section.data).exists() else section.data,
            **describe_data(records),
        },
        "timed_requests": len(times[baseline]),
        "settings": section.model_dump(mode="json", exclude={"data"}),
        "command": command,
        "machine": machine(),
        "libraries": libraries([*LIBRARIES, *RUNTIMES]),
        "notes": list(NOTES),
        "variants": entries,
        "flips": pairs.worst({name: items[name] for name in others}, items[baseline], records),
    }


def verdict(baseline: Mapping[str, Any], variant: Mapping[str, Any]) -> dict[str, str]:
    """What the intervals say of a variant against its baseline, a word for each: `score` is better, worse, the same
    as far as can be told, or INCONCLUSIVE; `ttft`, `tpot` and `e2e` are faster, slower, ... ."""
    words = {"score": _word(variant["difference"]["all"], 0.0, "better", "worse")}
    for metric in timing.METRICS:
        words[metric] = _word(variant["speedup"][metric], 1.0, "faster", "slower")
    words["bytes"] = f"{variant['weights']['bytes'] / baseline['weights']['bytes']:.2f}"
    return words


def _word(estimate: Mapping[str, Any] | None, neutral: float, above: str, below: str) -> str:
    if estimate is None or estimate["low"] is None:
        return INCONCLUSIVE
    if estimate["low"] > neutral:
        return above
    return below if estimate["high"] < neutral else "no difference seen"


def _timed(lines: Lines) -> list[Answered]:
    return [line for line in lines if isinstance(line, Answered) and line.phase == "timing"]


def _latency(times: dict[str, timing.Times]) -> dict[str, Any]:
    return {
        "latency": {metric: timing.summarise(times, metric) for metric in timing.METRICS},
        "stages": {stage: median(each[stage] for each in times.values()) for stage in timing.STAGES},
    }


def _memory(lines: Lines) -> dict[str, Any]:
    """Bytes at most: resident with one request, what came of that with the model, resident with a batch; on a GPU what
    came of its memory with the model."""
    timed = _timed(lines)
    before = max(line.rss_before for line in lines if isinstance(line, Loaded) and line.phase == "timing")
    peak = max(line.peak_rss for line in timed)
    batched = [line.peak_rss for line in lines if isinstance(line, Answered) and line.phase == "accuracy"]
    vram = [line.peak_vram for line in timed if line.peak_vram is not None]
    return {
        "peak_rss": peak,
        "model_rss": peak - before,
        "peak_rss_batched": max(batched),
        "peak_vram": max(vram) if vram else None,
    }


def summarise(items: Sequence[ItemResult], baseline: Sequence[ItemResult]) -> dict[str, Any]:
    """Scores by task and over all items, paired differences from `baseline`, fidelity to it, seconds an answer.

    For items that were measured in one process (bench.fidelity).
    """
    return {
        **pairs.scores(items, baseline),
        **fidelity.summarise(items),
        "seconds_per_answer": median(item.seconds for item in items),
    }


def sample(records: Sequence[Record], limit: int | None) -> list[Record]:
    """`limit` records of each task, evenly spaced over the set so that every source is met; all when it is None."""
    if not records:
        raise InputError("the data set has no records")
    if limit is None:
        return list(records)
    if limit < 1:
        raise InputError(f"the limit is a number of records a task, at least 1, not {limit}")
    chosen: list[Record] = []
    for task in sorted({record.task for record in records}):
        group = [record for record in records if record.task == task]
        count = min(limit, len(group))
        chosen += [group[index * len(group) // count] for index in range(count)]
    return chosen
