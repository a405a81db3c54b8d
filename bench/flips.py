"""The answers that lost most against the baseline, with their pictures, for a person to look at."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from bench.accuracy import ItemResult
from bench.intervals import EQUAL
from bench.observations import short
from bench.plan import Item
from calib_data.records import Record, picture

THUMBNAIL = 240  # pixels of the longer side
SHOWN = 4  # of each variant


def worst(
    variants: Mapping[str, Sequence[ItemResult]],
    baseline: Sequence[ItemResult],
    asked: Sequence[Item],
    records: Sequence[Record],
) -> list[dict[str, Any]]:
    """The items that lost most, at most SHOWN a variant, by id where equal. `asked` says what was asked. An item whose
    picture is not among `records`, or is another one there, is shown without."""
    items, pictures = {item.id: item for item in asked}, {record.id: record for record in records}
    before = {item.id: item for item in baseline}
    found = []
    for name, answers in variants.items():
        lost = [item for item in answers if item.value < before[item.id].value - EQUAL]
        for item in sorted(lost, key=lambda item: (item.value - before[item.id].value, item.id))[:SHOWN]:
            record, old = pictures.get(item.id), before[item.id]
            seen = record is not None and short(record.image) == item.image_sha256
            found.append(
                {
                    "variant": name,
                    "id": item.id,
                    "task": item.task,
                    "source": item.source,
                    "prompt": items[item.id].prompt,
                    "references": list(items[item.id].references),
                    "picture": thumbnail(record) if record and seen else None,
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
