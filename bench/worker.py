"""One fresh process that measures one variant: `python -m bench.worker JOB.json`, one JSON line an answer on stdout.

Whatever a library prints goes to stderr. The process ends when its stdin closes, so that a parent which is killed
leaves nothing behind that goes on measuring.
"""

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import shipvlm.runtime.checkpoint
import shipvlm.runtime.graphs  # noqa: F401  (both: what a library takes to import is no part of a variant's load)
from bench.accuracy import ask, batches
from bench.memory import Vram, peak_rss, rss
from bench.observations import Answered, Job, Loaded, Stages, identity
from calib_data.records import Record
from shipvlm.errors import ShipvlmError
from shipvlm.runtime.generate import Answer, generate
from shipvlm.runtime.model import Model, open_model
from shipvlm.runtime.probe import forced_logits
from shipvlm.runtime.sampling import Sampling

INTERNAL_ERROR = 4  # python's own 1 stands for a gate


def measure(job: Job) -> Iterator[Loaded | Answered]:
    """Opens the variant of `job` and measures what is missing, a line at a time."""
    vram = Vram(job.device)
    before = rss()
    start = perf_counter()
    model = open_model(job.folder, device=job.device, threads=job.threads)
    seconds = perf_counter() - start
    yield Loaded(run=job.run, phase=job.phase, block=job.block, seconds=seconds, rss_before=before, rss_after=rss())
    yield from (_times if job.phase == "timing" else _answers)(model, job, vram)


def _times(model: Model, job: Job, vram: Vram) -> Iterator[Answered]:
    """One request at a time, answers of one length: every variant does the same work."""
    settings = Sampling(max_new_tokens=job.max_new_tokens, ignore_end=True)
    for index in range(job.warmup):
        generate(model, [ask(job.records[index % len(job.records)])], settings, batch_size=1)
    for repeat in range(job.repeats):
        for record in job.records:
            if (record.id, repeat) not in job.done:
                request = ask(record)
                start = perf_counter()
                [answer] = generate(model, [request], settings, batch_size=1)
                yield _line(job, record, answer, perf_counter() - start, vram, repeat)


def _answers(model: Model, job: Job, vram: Vram) -> Iterator[Answered]:
    """Answers that end by themselves, in batches of pictures of similar size."""
    settings = Sampling(max_new_tokens=job.max_new_tokens)
    for batch in batches(job.records, job.batch_size):
        missing = {record.id for record in batch if (record.id, 0) not in job.done}
        if not missing:
            continue
        # The whole batch again: what an answer was computed beside does not depend on when the run was cut off. Whose
        # lines are in `done` was asked beside the same records: they are part of the run key.
        requests = [ask(record) for record in batch]
        start = perf_counter()
        answers = generate(model, requests, settings, batch_size=len(batch))
        wall = (perf_counter() - start) / len(batch)
        for record, answer in zip(batch, answers, strict=True):
            if record.id in missing:
                yield _line(job, record, answer, wall, vram, 0, **_agreement(model, job, record))


def _agreement(model: Model, job: Job, record: Record) -> dict[str, int]:
    """Teacher-forced: how many of the tokens of the baseline's answer are this model's most likely ones there."""
    if record.id not in job.forced:
        return {}
    forced = job.forced[record.id]
    ends = sorted(model.end_ids)
    wanted = [{token} for token in forced.token_ids] + ([set(ends)] if forced.ended else [])
    best = forced_logits(model, ask(record), [*forced.token_ids, ends[0]][: len(wanted)]).argmax(-1).tolist()
    return {"compared": len(wanted), "agreed": sum(found in ids for found, ids in zip(best, wanted, strict=True))}


def _line(job: Job, record: Record, answer: Answer, wall: float, vram: Vram, repeat: int, **agreement: Any) -> Answered:
    return Answered(
        run=job.run,
        phase=job.phase,
        block=job.block,
        repeat=repeat,
        **identity(record),
        output=answer.text,
        token_ids=tuple(answer.token_ids),
        finish=answer.finish,
        wall=wall,
        stages=Stages(**vars(answer.seconds)),
        peak_rss=peak_rss(),
        peak_vram=vram.peak(),
        **agreement,
    )


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # also for what is not Python
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        job = Job.model_validate_json(Path(sys.argv[1]).read_bytes())
        for line in measure(job):
            print(line.model_dump_json(exclude_none=True), file=out, flush=True)
    except ShipvlmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(INTERNAL_ERROR)


def _end_with_stdin() -> None:
    while os.read(0, 1):  # sys.stdin holds a lock that the end of the process would wait for
        pass
    os._exit(INTERNAL_ERROR)


if __name__ == "__main__":
    main()
