"""How many requests a second one engine answers, and at how many its answers come too late.

A closed loop: c clients, each of whom asks again as soon as it has its answer, and one engine that answers all that
wait as one batch. So every batch has c rows, all its clients wait for the whole of it, and the next begins when it
ends. There is no server here: nothing is queued, and no row joins a batch that runs (continuous batching), which is
what serves more requests at the same latency. What a level says is what the engine gives, not what a server would.

The engine is a fresh process (bench.sweep_worker). The latency is the time of a batch: from its decoded pictures and
words to the text of its answers. It is the same for all its requests, so a percentile counts batches, not requests.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bench import process
from bench.environment import LIBRARIES, RUNTIMES, libraries, machine, run_key
from bench.job import Packed
from bench.salt import refuse_repeated
from bench.sweep_levels import Level, SweepJob
from bench.timing import PERCENTILES, percentile
from bench.variants import Variant
from bench.workloads import CASES
from calib_data.records import Record
from shipvlm.errors import InputError
from shipvlm.stages import Progress

SLO = 0.5  # seconds: 95 of 100 answers come within them
BATCHES = PERCENTILES["p95"][1]  # as few as p95 can be told from
WARMUP = 3


def measure_sweep(
    variant: Variant,
    records: Sequence[Record],
    *,
    levels: Sequence[int] = (1, 2, 4, 8),
    case: str = "vqa-small",
    slo_seconds: float = SLO,
    batches: int = BATCHES,
    warmup: int = WARMUP,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures `variant` at each of `levels` (clients) with `batches` batches of the case of bench.workloads.

    Returns `levels`, for each: clients, requests, requests_a_second (time between batches left out), p50, p95 and
    first_p50 (to the first token) in seconds, null where the batches are too few for it (bench.timing), whether it was
    warm and clean, reasons, conditions, and the seconds of each batch. `breaks`: at how many requests a second p95 goes
    over `slo_seconds`, interpolated between the two levels where it does, or null and the `reason`.
    Raises InputError for levels that do not rise, an unknown case and no records; what the engine's process raised;
    ExecutionError where two requests saw the same picture.
    """
    if not levels or list(levels) != sorted(set(levels)) or levels[0] < 1:
        raise InputError(f"levels {list(levels)}: give rising numbers of clients, such as 1 2 4 8")
    if case not in CASES:
        raise InputError(f"no case {case!r}: one of {', '.join(CASES)}")
    if not records:
        raise InputError("a sweep needs at least one record")
    where, used = machine(), libraries([*LIBRARIES, *RUNTIMES])
    job = SweepJob(
        name=run_key(str(where), str(used), str(variant.folder), case),
        folder=variant.folder.resolve(),
        engine=variant.engine,
        device=variant.device,
        dtype=variant.dtype,
        threads=threads,
        case=CASES[case],
        levels=tuple(levels),
        batches=batches,
        warmup=warmup,
        records=tuple(Packed(**dict(record)) for record in records),
    )
    said: list[Level] = []
    for line in process.lines("bench.sweep_worker", job, f"sweep of {variant.name}"):
        said.append(Level.model_validate_json(line))
        if progress:
            progress(f"sweep of {variant.name}", len({level.clients for level in said}), len(levels))
    refuse_repeated(digest for level in said for digest in level.image_sha256)
    told = [_told(level) for level in {level.clients: level for level in said}.values()]  # the last attempt at each
    return {
        "schema_version": 1,
        "variant": variant.name,
        "engine": variant.engine,
        "device": variant.device,
        "dtype": said[-1].dtype,
        "threads": threads,
        "case": CASES[case].model_dump(),
        "slo_seconds": slo_seconds,
        "levels": told,
        "breaks": breaking(told, slo_seconds),
        "disturbed": [_told(level) for level in said if not level.clean],
        "machine": where,
        "libraries": used,
    }


def breaking(levels: Sequence[Mapping[str, Any]], slo_seconds: float) -> dict[str, Any]:
    """At how many requests a second p95 passes `slo_seconds`: linear between two levels, {"requests_a_second": ..,
    "reason": ..}, one of the two null."""
    for number, level in enumerate(levels):
        name = _clients(level["clients"])
        if level["p95"] is None:
            return _unsaid(f"p95 needs {BATCHES} batches at a level, {name} had {level['batches']}")
        if level["p95"] <= slo_seconds:
            continue
        if number == 0:
            return _unsaid(f"p95 is over {1000 * slo_seconds:.0f} ms with {name} already")
        before = levels[number - 1]
        for each in (before, level):
            if not each["clean"]:
                return _unsaid(f"AMBIGUOUS: {_clients(each['clients'])} were disturbed: {'; '.join(each['reasons'])}")
        share = (slo_seconds - before["p95"]) / (level["p95"] - before["p95"])
        rates = [each["requests_a_second"] for each in (before, level)]
        return {"requests_a_second": rates[0] + share * (rates[1] - rates[0]), "reason": None}
    most = _clients(levels[-1]["clients"])
    return _unsaid(f"p95 stays within {1000 * slo_seconds:.0f} ms up to {most}: give higher levels")


def markdown(result: Mapping[str, Any]) -> str:
    """The sweep as one table, and what it is of."""
    rows = [["clients", "requests/s", "p50, ms", "p95, ms", "first token p50, ms", ""], ["---"] * 6]
    for level in result["levels"]:
        times = [_milliseconds(level[name]) for name in ("p50", "p95", "first_p50")]
        notes = [] if level["clean"] else [f"disturbed: {'; '.join(level['reasons'])}"]
        notes += [] if level["warm"] else ["not stable after the warm-up"]
        rows.append([str(level["clients"]), f"{level['requests_a_second']:.3g}", *times, "; ".join(notes)])
    case, breaks = result["case"], result["breaks"]
    limit = f"p95 within {1000 * result['slo_seconds']:.0f} ms"
    found = (
        f"{limit} up to {breaks['requests_a_second']:.3g} requests/s."
        if breaks["reason"] is None
        else f"{limit}: the requests/s at which it ends cannot be said: {breaks['reason']}."
    )
    caption = (
        f"{result['variant']} on {result['engine']}, {result['dtype']}, {result['device']}; case {case['name']}: "
        f"pictures of {case['width']} x {case['height']}, prompts of {case['prompt_tokens']} tokens without picture, "
        f"answers of {case['answer_tokens']}. Closed loop: each client asks again when it is answered, and the engine "
        "answers all that wait as one batch. No server, no continuous batching."
    )
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", found, "", caption]) + "\n"


def _told(level: Level) -> dict[str, Any]:
    count = len(level.seconds)
    return {
        "clients": level.clients,
        "batches": count,
        "requests": count * level.clients,
        "requests_a_second": count * level.clients / sum(level.seconds),
        "p50": percentile(level.seconds, "p50"),
        "p95": percentile(level.seconds, "p95"),
        "first_p50": percentile(level.first, "p50"),
        "warm": level.warm,
        "clean": level.clean,
        "reasons": list(level.reasons),
        "conditions": level.conditions.model_dump(mode="json"),
        "seconds": list(level.seconds),
    }


def _unsaid(reason: str) -> dict[str, Any]:
    return {"requests_a_second": None, "reason": reason}


def _clients(count: int) -> str:
    return f"{count} client{'s' if count > 1 else ''}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f}"
