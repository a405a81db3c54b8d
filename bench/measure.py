"""Measures one block in this process: opens the variant, then times requests, or asks for answers."""

import math
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, cast

from bench import conditions, memory
from bench.job import Job
from bench.observations import Answered, Ended, Held, Line, Loaded, Said, Stages, Timed, Warmed, short
from bench.salt import digests
from bench.warmup import enough, stable
from bench.workloads import Case, ask, batches, requests
from calib_data.records import Record
from shipvlm.errors import ExecutionError
from shipvlm.runtime.generate import Answer, generate
from shipvlm.runtime.inputs import Batch, Request, encode
from shipvlm.runtime.model import Engine, Features, Model, open_model
from shipvlm.runtime.sampling import Sampling

TRIES = 5


def measure(job: Job) -> Iterator[Line]:
    """All lines of the block, as they are measured. Raises as `shipvlm.runtime.model.open_model` and `generate`."""
    import_engine(job.engine)
    imports = monotonic() - job.started.wall
    watch, dropped = memory.Watch(job.device), _drop(job.folder)
    before = watch.memory()
    start = perf_counter()
    model = open_model(job.folder, device=job.device, dtype=job.dtype, threads=job.threads, engine=job.engine)
    load = perf_counter() - start
    loaded: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "dtype": model.dtype,
        "imports": imports,
        "load": load,
        "dropped": dropped,
        "weights": model.weight_bytes,
        "before": before,
        "after": watch.memory(),
    }
    around = conditions.Watch(job.device)
    if job.phase == "timing":
        requester = _Requester(model, job)
        case = job.cases[0]
        first, *_ = requester.ask(case, "first")
        start_up = conditions.since(job.started)
        loaded |= {"first": first, "conditions": start_up, "reasons": conditions.disturbed(start_up)}
        yield Loaded(**_said(job), **loaded)
        for case in job.cases:
            yield from _time(requester, case, watch, around)
    else:
        yield Loaded(**_said(job), **loaded)
        around.go()
        yield from _answer(model, job, watch)
        around.pause()
    found = around.conditions()
    reasons = conditions.disturbed(found) if job.phase == "timing" else ()
    yield Ended(**_said(job), clean=not reasons, reasons=reasons, conditions=found, memory=watch.memory())


class _Requester:
    """Asks for timed requests: the pictures of no two are the same."""

    def __init__(self, model: Model, job: Job) -> None:
        self.model, self.job = model, job

    def ask(self, case: Case, name: str, item: int = 0) -> tuple[float, list[Request], list[Answer], Sequence[Record]]:
        """Seconds of one request of `case`, what was asked and answered, and the records that it was made of.

        `name` says which round of the block this is, `item` where in the round.
        """
        job, count = self.job, len(self.job.records)
        records = [job.records[(item * case.batch + place) % count] for place in range(case.batch)]
        salt = f"{job.run}/{job.variant}/{job.block}/{job.attempt}/{case.name}/{name}/{item}"
        asked = requests(case, records, self.model.processor.tokenizer, salt)
        settings = Sampling(max_new_tokens=case.answer_tokens, ignore_end=True)
        start = perf_counter()
        answers = generate(self.model, asked, settings, batch_size=case.batch)
        return perf_counter() - start, asked, answers, records


def _time(requester: _Requester, case: Case, watch: memory.Watch, around: conditions.Watch) -> Iterator[Line]:
    """One case: until it is warm, then the rounds."""
    job, seconds = requester.job, list[float]()
    while not enough(seconds, job.warmup):
        wall, *_ = requester.ask(case, "warm", len(seconds))
        seconds.append(wall)
    yield Warmed(**_said(job), case=case.name, seconds=tuple(seconds), stable=stable(seconds))
    for repeat in range(job.repeats):
        for item in range(job.items):
            around.go()
            wall, asked, answers, records = requester.ask(case, str(repeat), item)
            around.pause()
            around.look()
            watch.look()
            yield _timed(requester, case, repeat, wall, asked, answers, records)


def _timed(
    requester: _Requester,
    case: Case,
    repeat: int,
    wall: float,
    asked: Sequence[Request],
    answers: Sequence[Answer],
    records: Sequence[Record],
) -> Timed:
    batch = encode(requester.model.processor, asked)  # once more: what the model read
    return Timed(
        **_said(requester.job),
        case=case.name,
        repeat=repeat,
        id="+".join(record.id for record in records),
        prompt_sha256=tuple(short(request.prompt.encode()) for request in asked),
        image_sha256=digests(batch),
        prompt_tokens=tuple(len(ids) for ids in batch.input_ids),
        patches=tuple(math.prod(grid) for grids in batch.grids for grid in grids),
        new_tokens=case.answer_tokens,
        wall=wall,
        stages=Stages(**vars(answers[0].seconds)),
        events=Stages(**vars(answers[0].events)) if answers[0].events else None,
    )


def _answer(model: Model, job: Job, watch: memory.Watch) -> Iterator[Line]:
    """Answers that end by themselves, in batches of pictures of similar size; the variant held to the baseline's."""
    from bench import fidelity
    from calib_data.scoring import score

    seen, settings = cast(Model, _Seen(model)), Sampling(max_new_tokens=job.max_new_tokens)
    known = {name: fidelity.Forced(each.token_ids, each.ended) for name, each in job.answers.items()}
    assert job.references, "accuracy needs a place for what the baseline says"
    references = {} if job.baseline else fidelity.read(job.references, job.reference_run)
    if references is None:
        raise ExecutionError(f"{job.references}: what the baseline said is gone; measure again")
    for batch in batches(job.records, job.batch_size):
        # The whole batch, also where some of it is done: what an answer was computed beside does not depend on when
        # the run was cut off. Whose lines are there was asked beside the same records: they are part of the run key.
        asked = [ask(record) for record in batch]
        missing = {record.id for record in batch if record.id not in job.done}
        if missing:
            start = perf_counter()
            answers = generate(seen, asked, settings, batch_size=len(batch))
            wall = (perf_counter() - start) / len(batch)
            for record, answer in zip(batch, answers, strict=True):
                if job.baseline:
                    known[record.id] = fidelity.Forced(tuple(answer.token_ids), answer.finish == "end")
                if record.id in missing:
                    graded = vars(score(record.task, answer.text, record.answers))
                    yield Answered(
                        **_said(job),
                        id=record.id,
                        task=record.task,
                        source=record.source,
                        prompt_sha256=short(record.prompt.encode()),
                        image_sha256=short(record.image),
                        output=answer.text,
                        token_ids=tuple(answer.token_ids),
                        finish=answer.finish,
                        wall=wall,
                        score=graded.pop("value"),
                        **graded,
                    )
        if missing or job.baseline:
            forced = [known[record.id] for record in batch]
            for record, said, logits in zip(batch, forced, fidelity.forced(seen, asked, forced), strict=True):
                if job.baseline:
                    references[record.id] = fidelity.reference(logits, said, model.end_ids)
                elif record.id in missing:
                    held = fidelity.hold(references[record.id], logits, said, model.end_ids)
                    yield Held(**_said(job), id=record.id, **vars(held))
        watch.look()
    if job.baseline:
        fidelity.save(job.references, job.reference_run, references)


class _Seen:
    """A model that keeps the features of the last batch of pictures: an answer and what is held to it read the same."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._last: tuple[bytes, Features] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def vision(self, batch: Batch) -> Features:
        key = blake2b(batch.pixel_values.tobytes() + repr(batch.grids).encode()).digest()
        if self._last is None or self._last[0] != key:
            self._last = None  # both at once may be too large
            self._last = key, self._model.vision(batch)
        return self._last[1]


def _said(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in Said.model_fields}


def import_engine(engine: Engine) -> None:
    """The engine's libraries: they are no part of a variant's load."""
    import_module(f"shipvlm.runtime.{'graphs' if engine == 'onnxruntime' else 'checkpoint'}")


def _drop(folder: Path) -> bool:
    """Ask the system to forget the files in `folder`; whether it did, so that a load reads them from the disk."""
    return all([_forget(path) for path in folder.iterdir() if path.is_file() and path.stat().st_size])


def _forget(path: Path) -> bool:
    """Whether the first byte of a file is not in memory any more. Where to look brings it back, it is asked again."""
    with path.open("rb") as file:
        for _ in range(TRIES):
            try:
                os.fdatasync(file.fileno())  # what was not written yet cannot be forgotten
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
            except OSError as error:
                return isinstance(error, BlockingIOError)
    return False
