"""Measures the levels of a sweep in this process: the engine side of bench.sweep."""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from bench import conditions, nvml
from bench.job import Packed
from bench.observations import Conditions, Frozen
from bench.salt import digests
from bench.warmup import enough, stable
from bench.workloads import Case, requests
from shipvlm.runtime.generate import generate
from shipvlm.runtime.inputs import encode
from shipvlm.runtime.model import Device, Dtype, Engine, Model, open_model
from shipvlm.runtime.sampling import Sampling

ATTEMPTS = 2  # at a level that was disturbed


class SweepJob(Frozen):
    """One process of a sweep: each of `levels`, a number of clients, is measured in this order with `batches` batches
    of `case` after a warm-up of at least `warmup`. `name` salts the pictures, beside `process`."""

    name: str
    process: int
    folder: Path
    engine: Engine
    device: Device
    dtype: Dtype | None
    threads: int | None
    case: Case
    levels: tuple[int, ...]
    batches: int
    warmup: int
    records: tuple[Packed, ...]


class Opened(Frozen):
    """The engine is ready. `seconds`: of one batch of `clients`, with all that is done around it."""

    kind: Literal["opened"] = "opened"
    clients: int
    seconds: float


class Level(Frozen):
    """One attempt at a level in one process: for each batch `seconds` from request to the text of its answers, `first`
    to their first tokens. `image_sha256` is of what the model read of each picture. Clean, or `reasons` say what
    disturbed it."""

    kind: Literal["level"] = "level"
    process: int
    clients: int
    attempt: int
    dtype: str
    warm: bool
    seconds: tuple[float, ...]
    first: tuple[float, ...]
    image_sha256: tuple[str, ...]
    clean: bool
    reasons: tuple[str, ...] = ()
    conditions: Conditions


LINE: TypeAdapter[Opened | Level] = TypeAdapter(Annotated[Opened | Level, Field(discriminator="kind")])


def measure(job: SweepJob) -> Iterator[Opened | Level]:
    """Opens the model and measures the levels, one that was disturbed once more. Raises as `open_model`, `generate`."""
    if job.device == "cuda":
        nvml.device()  # looks who is there before this process is
    model = open_model(job.folder, device=job.device, dtype=job.dtype, threads=job.threads, engine=job.engine)
    yield _opened(model, job)
    for clients in job.levels:
        for attempt in range(ATTEMPTS):
            level = _level(model, job, clients, attempt)
            yield level
            if level.clean:
                break


def _opened(model: Model, job: SweepJob) -> Opened:
    clients, watch = min(job.levels), conditions.Watch(job.device)
    _batch(model, job, clients, "open/0")
    start = perf_counter()
    _batch(model, job, clients, "open/1", watch)
    return Opened(clients=clients, seconds=perf_counter() - start)


def _level(model: Model, job: SweepJob, clients: int, attempt: int) -> Level:
    watch, seconds = conditions.Watch(job.device), list[float]()
    while not enough(seconds, job.warmup):
        seconds.append(_batch(model, job, clients, f"{attempt}/warm/{len(seconds)}")[0])
    found = []
    for number in range(job.batches):
        found.append(_batch(model, job, clients, f"{attempt}/{number}", watch))
        watch.look()
    seen = watch.conditions()
    reasons = conditions.disturbed(seen)
    return Level(
        process=job.process,
        clients=clients,
        attempt=attempt,
        dtype=model.dtype,
        warm=stable(seconds),
        seconds=tuple(each[0] for each in found),
        first=tuple(each[1] for each in found),
        image_sha256=tuple(digest for each in found for digest in each[2]),
        clean=not reasons,
        reasons=reasons,
        conditions=seen,
    )


def _batch(
    model: Model, job: SweepJob, clients: int, name: str, watch: conditions.Watch | None = None
) -> tuple[float, float, tuple[str, ...]]:
    """Seconds of one batch, to its first tokens too, and digests of its pictures."""
    start = sum(map(ord, name))  # another place among the records for another batch
    records = [job.records[(start + place) % len(job.records)] for place in range(clients)]
    asked = requests(job.case, records, model.processor.tokenizer, f"{job.name}/{job.process}/{clients}/{name}")
    settings = Sampling(max_new_tokens=job.case.answer_tokens, ignore_end=True)
    if watch:
        watch.go()
    begin = perf_counter()
    answers = generate(model, asked, settings, batch_size=clients)
    seconds = perf_counter() - begin
    if watch is None:
        return seconds, 0.0, ()
    watch.pause()
    stages = answers[0].seconds
    first = stages.preprocess + stages.vision + stages.prefill
    return seconds, first, digests(encode(model.processor, asked))  # once more: what the model read
