"""What is asked of both engines: real records, and out of them the prompts that engines get wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from calib_data.records import Record, picture
from shipvlm.errors import InputError
from shipvlm.runtime.inputs import Request

AT_ONCE = 8  # further records in one batch


@dataclass(frozen=True)
class Case:
    """One batch, and what a report calls it."""

    name: str
    requests: tuple[Request, ...]


def make_cases(records: Sequence[Record], items: int) -> tuple[list[Case], list[Case]]:
    """The cases of every rung, and those for which only answers are compared.

    First `items` of the records, evenly spaced, each alone; two pictures of different sizes in one prompt; a prompt
    without a picture; and a batch of unequal lengths made of these. Second the other records in batches, those with
    the longest reference answers first: they give the most tokens for one picture.
    Raises `InputError` when there is no record, or a picture cannot be read.
    """
    if not records:
        raise InputError("parity needs at least one record, with a picture; give another data set")
    places = {place * len(records) // items for place in range(items)}
    chosen = [records[place] for place in sorted(places)]
    others = [record for place, record in enumerate(records) if place not in places]
    single = [_ask(record) for record in chosen]
    two = Request(single[0].prompt, _two_sizes([request.images[0] for request in single]))
    none = Request(single[0].prompt)
    cases = [
        *(Case(f"record {record.id}", (request,)) for record, request in zip(chosen, single, strict=True)),
        Case("two pictures", (two,)),
        Case("no picture", (none,)),
        Case("batch of unequal lengths", (two, none, single[0])),
    ]
    others.sort(key=lambda record: -len(record.answers[0]))
    return cases, [
        Case(f"answers from {start}", tuple(_ask(record) for record in others[start : start + AT_ONCE]))
        for start in range(0, len(others), AT_ONCE)
    ]


def _ask(record: Record) -> Request:
    return Request(record.prompt, (picture(record),))


def _two_sizes(images: Sequence[Image.Image]) -> tuple[Image.Image, Image.Image]:
    """The smallest and the largest picture; where all have one size, one of them and half of it."""
    ordered = sorted(images, key=lambda image: image.width * image.height)
    small, large = ordered[0], ordered[-1]
    if small.size == large.size:
        width, height = large.size
        small = large.resize((max(1, width // 2), height) if width > height else (width, max(1, height // 2)))
    return small, large
