"""A variant beside its baseline, item by item: differences of the scores, and the answers that lost most."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from bench import accuracy, intervals
from bench.accuracy import ItemResult
from bench.intervals import EQUAL
from bench.observations import Answered
from calib_data.records import Record, picture
from calib_data.scoring import score

THUMBNAIL = 240  # pixels of the longer side
SHOWN = 4  # flips of each variant


def grade(answers: Sequence[Answered], records: Sequence[Record]) -> list[ItemResult]:
    """The answers scored, in the order of `records`."""
    by_id = {answer.id: answer for answer in answers}
    return [
        ItemResult(
            run=answer.run,
            id=record.id,
            task=record.task,
            source=record.source,
            answer=answer.output,
            token_ids=answer.token_ids,
            seconds=answer.wall,
            compared=answer.compared,
            agreed=answer.agreed,
            **vars(score(record.task, answer.output, record.answers)),
        )
        for record in records
        for answer in [by_id[record.id]]
    ]


def scores(items: Sequence[ItemResult], baseline: Sequence[ItemResult]) -> dict[str, Any]:
    """`score` by task and over `all` items (accuracy.summarise), and the paired `difference` from the baseline.

    Raises ValueError when the two are not of the same items in the same order.
    """
    difference = {
        task: intervals.paired_difference(*_values(items, baseline, task)).as_dict()
        for task in [*sorted({item.task for item in items}), "all"]
    }
    return {
        "score": {**accuracy.summarise(items, lambda item: item.task), **accuracy.summarise(items, lambda _: "all")},
        "difference": difference,
    }


def changes(items: Sequence[ItemResult], baseline: Sequence[ItemResult]) -> dict[str, Any]:
    """`recovery` (share of the baseline's score that is left), `flips` (items that score worse, better, the same) and
    top-1 agreement with the baseline's answers, null where it was not measured."""
    left, right = _values(items, baseline, "all")
    kept = intervals.recovery(left, right)
    worse = sum(after < before - EQUAL for before, after in zip(left, right, strict=True))
    better = sum(after > before + EQUAL for before, after in zip(left, right, strict=True))
    held = [item for item in items if item.compared]
    agreement = (
        intervals.share([item.agreed or 0 for item in held], [item.compared or 0 for item in held]) if held else None
    )
    return {
        "recovery": kept.as_dict() if kept else None,
        "flips": {"worse": worse, "better": better, "same": len(items) - worse - better},
        "top1_agreement": agreement.as_dict() if agreement else None,
    }


def worst(
    variants: Mapping[str, Sequence[ItemResult]], baseline: Sequence[ItemResult], records: Sequence[Record]
) -> list[dict[str, Any]]:
    """The items that lost most against the baseline, at most SHOWN a variant, by id where equal."""
    by_id = {record.id: record for record in records}
    before = {item.id: item for item in baseline}
    found = []
    for name, items in variants.items():
        lost = [item for item in items if item.value < before[item.id].value - EQUAL]
        for item in sorted(lost, key=lambda item: (item.value - before[item.id].value, item.id))[:SHOWN]:
            record, old = by_id[item.id], before[item.id]
            found.append(
                {
                    "variant": name,
                    "id": item.id,
                    "task": item.task,
                    "source": item.source,
                    "prompt": record.prompt,
                    "references": list(record.answers),
                    "picture": thumbnail(record),
                    "baseline": {"answer": old.answer, "value": old.value},
                    "answered": {"answer": item.answer, "value": item.value},
                }
            )
    return found


def thumbnail(record: Record) -> str:
    """The record's picture, small, as a data URI."""
    image = picture(record)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def _values(items: Sequence[ItemResult], baseline: Sequence[ItemResult], task: str) -> tuple[list[float], list[float]]:
    if [item.id for item in items] != [item.id for item in baseline]:
        raise ValueError("not paired: the items differ")
    pairs = [pair for pair in zip(baseline, items, strict=True) if task in (pair[0].task, "all")]
    return [before.value for before, _ in pairs], [after.value for _, after in pairs]
