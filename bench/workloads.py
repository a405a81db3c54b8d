"""What a timed request is: named cases, as data. And how records become requests.

A case fixes the size of the picture, the length of the prompt and of the answer, and how many items one request asks.
The pictures and words are those of the data, brought to that size and length, so that every variant of every model
does work of the same shape.
"""

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict

from bench.salt import salted
from calib_data.records import Record, picture
from shipvlm.runtime.inputs import Request

FILLER = " Look at the whole picture before you answer."  # what makes a prompt longer


class Case(BaseModel):
    """Pictures of `width` x `height` pixels (multiples of 32: no processor resizes them), prompts of `prompt_tokens`
    without template and picture, answers of `answer_tokens`, `batch` items a request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    width: int
    height: int
    prompt_tokens: int
    answer_tokens: int
    batch: int = 1


CASES = {
    case.name: case
    for case in (
        Case(name="vqa-small", width=256, height=256, prompt_tokens=16, answer_tokens=16),
        Case(name="caption", width=640, height=480, prompt_tokens=16, answer_tokens=128),
        Case(name="document", width=1664, height=2240, prompt_tokens=64, answer_tokens=128),
        Case(name="batch8", width=256, height=256, prompt_tokens=16, answer_tokens=16, batch=8),
    )
}
ONE_AT_A_TIME = [case.name for case in CASES.values() if case.batch == 1]


def requests(case: Case, records: Sequence[Record], tokenizer: Any, salt: str) -> list[Request]:
    """The requests of one batch of `case`, one for each of `records`, their pictures salted with `salt`."""
    return [
        Request(
            lengthened(record.prompt, case.prompt_tokens, tokenizer),
            (salted(_resized(picture(record), case), f"{salt}/{place}"),),
        )
        for place, record in enumerate(records)
    ]


def lengthened(prompt: str, tokens: int, tokenizer: Any) -> str:
    """`prompt` cut, or continued with FILLER, to `tokens` tokens; one or two more where text and tokens do not meet."""
    ids = tokenizer(prompt)["input_ids"]
    while len(ids) < tokens:
        prompt += FILLER
        ids = tokenizer(prompt)["input_ids"]
    return tokenizer.decode(ids[:tokens])


def ask(record: Record) -> Request:
    """The record's picture and prompt, as they are."""
    return Request(record.prompt, (picture(record),))


def batches(records: Sequence[Record], batch_size: int) -> list[list[Record]]:
    """Records in batches of pictures of similar size, so that little of a batch is padding."""
    ordered = sorted(records, key=lambda record: (_pixels(record), len(record.prompt), record.id))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def _resized(image: Image.Image, case: Case) -> Image.Image:
    return image.resize((case.width, case.height), Image.Resampling.BICUBIC)


def _pixels(record: Record) -> int:
    with Image.open(io.BytesIO(record.image)) as image:
        return image.width * image.height
