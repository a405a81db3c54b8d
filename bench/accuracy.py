"""Task scores of a checkpoint, item by item: each answer is scored alone, so that two checkpoints can be paired.

What was measured is one JSON line an item: the answer, not its score, which is made whenever the line is read. Every
table is computed from those lines. A killed run continues from the lines it has written.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench import intervals, lines
from bench.observations import short
from bench.workloads import ask, batches
from calib_data.records import Record
from calib_data.scoring import score
from shipvlm.runtime.generate import generate
from shipvlm.runtime.inputs import Request
from shipvlm.runtime.model import Model
from shipvlm.runtime.sampling import Sampling

# The fields of an item that follow from its answer and its record.
SCORE = {"value", "parsed", "similarity", "prompt_sha256", "image_sha256"}
BATCH_SIZE = 16
MAX_NEW_TOKENS = 64


class ItemResult(BaseModel):
    """One answer of one model. `seconds` is its share of its batch's wall time, the picture's preparation included.

    `compared`, `agreed` and `kl` are set where the model was also held against a baseline (bench.fidelity): answer
    tokens, how many of them have the same most likely token, and the sum of KL(baseline || model) over them in nats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    id: str
    task: str
    source: str
    prompt_sha256: str
    image_sha256: str
    answer: str
    value: float
    parsed: Literal["ok", "empty", "unparsable"]
    similarity: float | None = None
    token_ids: tuple[int, ...]
    seconds: float
    compared: int | None = None
    agreed: int | None = None
    kl: float | None = None


def evaluate(
    checkpoint: Model,
    records: Sequence[Record],
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    log: Path | None = None,
    run: str = "",
    max_new_tokens: int = MAX_NEW_TOKENS,
    request: Callable[[Record], Request] | None = None,
) -> list[ItemResult]:
    """Greedy answers of `checkpoint` to `records`, scored; in the order of `records`.

    With `log`, finished items are appended to that file and found again there by a later call with the same `run`
    (whatever identifies model, data and settings). `records` decide who shares a batch, which can change the last bits
    of logits: with their digest in `run`, only answers from the same batches are found. `request` replaces the usual
    picture and prompt of a record.
    """
    done = read_log(log, run, records) if log else {}
    task = progress.add_task(log.stem if log else "evaluate", total=len(records)) if progress else None
    for batch in batches(records, batch_size):
        missing = [record for record in batch if record.id not in done]
        if missing:
            # The whole batch again: what an answer was computed beside does not depend on when the run was cut off.
            made = {item.id: item for item in answer(checkpoint, batch, run, max_new_tokens, request)}
            new = [made[record.id] for record in missing]
            done.update((item.id, item) for item in new)
            if log:
                append_log(log, new)
        if progress and task is not None:
            progress.advance(task, len(batch))
    return [done[record.id] for record in records]


def answer(
    checkpoint: Model,
    batch: Sequence[Record],
    run: str = "",
    max_new_tokens: int = MAX_NEW_TOKENS,
    request: Callable[[Record], Request] | None = None,
) -> list[ItemResult]:
    """One batch: generated, scored, timed."""
    start = time.perf_counter()
    requests = [(request or ask)(record) for record in batch]
    answers = generate(checkpoint, requests, Sampling(max_new_tokens), batch_size=len(batch))
    seconds = (time.perf_counter() - start) / len(batch)
    results = []
    for record, found in zip(batch, answers, strict=True):
        results.append(
            ItemResult(
                run=run,
                id=record.id,
                task=record.task,
                source=record.source,
                answer=found.text,
                token_ids=tuple(found.token_ids),
                seconds=seconds,
                **_derived(record, found.text),
            )
        )
    return results


def read_log(path: Path, run: str, records: Sequence[Record]) -> dict[str, ItemResult]:
    """The finished items of `run` among `records`, by id, their answers scored as scores are made today.

    Lines of other runs are left out whatever their form, and so is a last line that was cut off.
    Raises InputError naming the line that cannot be read.
    """
    by_id = {record.id: record for record in records}
    items = {}
    for number, fields in lines.read(path, {run}):
        try:
            if record := by_id.get(fields["id"]):
                kept = {name: value for name, value in fields.items() if name not in SCORE}
                items[record.id] = ItemResult.model_validate(kept | _derived(record, kept["answer"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # another form
            raise lines.unreadable(path, number, error) from error
    return items


def append_log(path: Path, items: Iterable[ItemResult]) -> None:
    """Appends one line an item, without its score; a line that an earlier process left half written goes first."""
    lines.append(path, (item.model_dump_json(exclude=SCORE, exclude_none=True) for item in items))


def summarise(items: Sequence[ItemResult], key: Callable[[ItemResult], str]) -> dict[str, dict[str, Any]]:
    """What each group that `key` names scored: n, mean `value` with 95 % `low` and `high` (null under 30 items), counts
    of empty and unparsable answers, mean tokens an answer; mean `similarity` where the score has one, else null."""
    groups: dict[str, list[ItemResult]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return {
        name: {
            **intervals.mean([item.value for item in group], [item.image_sha256 for item in group]).as_dict(),
            "empty": sum(item.parsed == "empty" for item in group),
            "unparsable": sum(item.parsed == "unparsable" for item in group),
            "mean_tokens": fmean(len(item.token_ids) for item in group),
            "similarity": fmean(near) if (near := [i.similarity for i in group if i.similarity is not None]) else None,
        }
        for name, group in sorted(groups.items())
    }


def progress_bar() -> Progress:
    """A terminal progress bar that counts items and estimates the time left."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )


def _derived(record: Record, answer: str) -> dict[str, Any]:
    """The fields of SCORE."""
    digests = {"prompt_sha256": short(record.prompt.encode()), "image_sha256": short(record.image)}
    return {**vars(score(record.task, answer, record.answers)), **digests}
