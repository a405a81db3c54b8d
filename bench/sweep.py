"""How many requests a second one engine answers, and at how many its answers come too late.

A closed loop: c clients, each of whom asks again as soon as it has its answer, and one engine that answers all that
wait as one batch. So every batch has c rows, all its clients wait for the whole of it, and the next begins when it
ends. There is no server here: nothing is queued, and no row joins a batch that runs (continuous batching), which is
what serves more requests at the same latency. What a level says is what the engine gives, not what a server would.

The engine is a fresh process (bench.sweep_worker), PROCESSES of them one after the other: the first takes the levels
up, the next down, so that a drift of the machine meets all alike. The latency is the time of a batch: from its decoded
pictures and words to the text of its answers. It is the same for all its requests, so a percentile counts batches, not
requests. bench.sweep_findings says what follows from that.
"""

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

from bench import process
from bench.environment import (
    LIBRARIES,
    RUNTIMES,
    describe_data,
    describe_weights,
    libraries,
    machine,
    model_digest,
    run_key,
    stack,
)
from bench.job import Packed
from bench.salt import refuse_repeated
from bench.sweep_findings import BATCHES, MIN_CLEAN, finding, of_levels
from bench.sweep_levels import ATTEMPTS, LINE, Level, Opened, SweepJob
from bench.variants import Variant
from bench.warmup import WINDOW
from bench.workloads import CASES, ONE_AT_A_TIME
from calib_data.records import Record
from shipvlm.errors import InputError
from shipvlm.stages import Progress, Say

SLO = 0.5  # seconds: 95 of 100 answers come within them
PROCESSES = 3
WARMUP = 3


def measure_sweep(
    variant: Variant,
    records: Sequence[Record],
    *,
    levels: Sequence[int] = (1, 2, 4, 8),
    case: str = "vqa-small",
    slo_seconds: float = SLO,
    batches: int = BATCHES,
    processes: int = PROCESSES,
    warmup: int = WARMUP,
    threads: int | None = None,
    data: str = "",
    command: str = "",
    progress: Progress | None = None,
    say: Say | None = None,
) -> Iterator[dict[str, Any]]:
    """Measures `variant` at each of `levels` (clients) with `batches` batches of the case of bench.workloads, in each
    of `processes`. Gives the result so far after each measurement; the last one is whole, and `missing` is empty.

    A result has `levels` (bench.sweep_findings.of_levels), `finding` (likewise), `missing` (process and clients), and
    what was measured on what: digests of the model and of the records (`data` is their name), `command`, machine,
    libraries. `say` is given how many requests it will be, and about how long they take.
    Raises InputError for levels that do not rise, an unknown case or one with a batch, fewer than two processes and no
    records; what the engine's process raised; ExecutionError where two requests saw the same picture.
    """
    if not levels or list(levels) != sorted(set(levels)) or levels[0] < 1:
        raise InputError(f"levels {list(levels)}: give rising numbers of clients, such as 1 2 4 8")
    if case not in ONE_AT_A_TIME:
        what = "asks many at once, and here the clients do" if case in CASES else "is none"
        raise InputError(f"case {case!r} {what}: give one of {', '.join(ONE_AT_A_TIME)}")
    if processes < MIN_CLEAN:
        raise InputError(f"{processes} process: whether another finds the same takes at least {MIN_CLEAN}")
    if not records:
        raise InputError("a sweep needs at least one record")
    where, used, digest = machine(), libraries([*LIBRARIES, *RUNTIMES]), model_digest(variant.folder)
    job = SweepJob(
        name=run_key(str(where), str(used), digest, case),
        process=0,
        **variant.opening,
        threads=threads,
        case=CASES[case],
        levels=tuple(levels),
        batches=batches,
        warmup=warmup,
        records=tuple(Packed(**dict(record)) for record in records),
    )
    result = {
        "schema_version": 2,
        "variant": variant.name,
        "engine": variant.engine,
        "device": variant.device,
        "digest": digest,
        "weights": describe_weights(variant.folder),
        "threads": threads,
        "case": CASES[case].model_dump(),
        "data": {"name": data, **describe_data(records)},
        "slo_seconds": slo_seconds,
        "asked": list(levels),
        "batches": batches,
        "processes": processes,
        "command": command,
        "machine": where,
        "libraries": stack(),
    }
    said: list[Level] = []
    for level in _measured(job, processes, variant.name, say or (lambda _: None)):
        said.append(level)
        refuse_repeated(digest for each in said for digest in each.image_sha256)
        if progress and (level.clean or level.attempt == ATTEMPTS - 1):
            done = len({(each.process, each.clients) for each in said})
            progress(f"sweep of {variant.name}", done, len(levels) * processes)
        found = of_levels(said, slo_seconds)
        yield {
            **result,
            "dtype": level.dtype,
            "levels": found,
            "finding": finding(found, slo_seconds),
            "missing": _missing(levels, processes, said),
        }


def _measured(job: SweepJob, processes: int, name: str, say: Say) -> Iterator[Level]:
    """The levels as they are measured, up in one process and down in the next."""
    requests = processes * job.batches * sum(job.levels)
    say(f"{processes} processes, in each {job.batches} batches at {len(job.levels)} levels: {requests} requests")
    for number in range(processes):
        started = monotonic()
        turn = job.levels[:: 1 if number % 2 == 0 else -1]
        asked = job.model_copy(update={"process": number, "levels": turn})
        for text in process.lines("bench.sweep_worker", asked, f"sweep of {name}"):
            line = LINE.validate_json(text)
            if isinstance(line, Level):
                yield line
            elif number == 0:
                seconds = processes * (monotonic() - started + _work(job, line))
                say(f"about {_time(seconds)}, up to {_time(2 * seconds)} where other programs disturb it")


def _work(job: SweepJob, opened: Opened) -> float:
    """About how many seconds one process works, as if twice the clients took twice as long."""
    batches = job.batches + max(job.warmup, 2 * WINDOW)
    return batches * opened.seconds * sum(job.levels) / opened.clients


def _missing(levels: Sequence[int], processes: int, said: Sequence[Level]) -> list[dict[str, int]]:
    there = {(level.process, level.clients) for level in said}
    return [
        {"process": number, "clients": clients}
        for number in range(processes)
        for clients in levels
        if (number, clients) not in there
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
