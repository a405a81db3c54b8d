"""Known failures, with their pictures: chosen by rule, not by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.accuracy import ItemResult
from calib_data.records import Record, picture

FAILURES = {"vqa": 2, "caption": 1, "consistency": 1, "ocr": 2}


def save_failures(items: Sequence[ItemResult], records: Sequence[Record], folder: Path) -> list[dict[str, Any]]:
    """The lowest scored items of each task (by id where equal, each from another source while there are several).

    Writes their pictures to `folder` as JPEG, in place of those of an earlier run, and returns one entry a picture:
    task, source, picture (path from the folder above), prompt, answer, references, value.
    """
    by_id = {record.id: record for record in records}
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jpg"):
        old.unlink()
    found = []
    for task, count in FAILURES.items():
        for number, item in enumerate(_worst([item for item in items if item.task == task], count), start=1):
            record = by_id[item.id]
            name = f"{task}-{number}.jpg"
            picture(record).save(folder / name, quality=85)
            found.append(
                {
                    "task": task,
                    "source": item.source,
                    "picture": f"{folder.name}/{name}",
                    "prompt": record.prompt,
                    "answer": item.answer,
                    "references": list(record.answers),
                    "value": item.value,
                }
            )
    return found


def _worst(items: Sequence[ItemResult], count: int) -> list[ItemResult]:
    failed = sorted((item for item in items if item.value < 1), key=lambda item: (item.value, item.id))
    first_of_source = {item.source: item for item in reversed(failed)}
    chosen = sorted(first_of_source.values(), key=lambda item: (item.value, item.id))
    chosen += [item for item in failed if item not in chosen]
    return chosen[:count]
