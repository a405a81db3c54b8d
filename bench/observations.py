"""What a worker is asked to measure, and the lines it says: one an answer. Everything in a report is derived from them.

Where the clock runs: from a decoded picture and its words to the decoded text of the answer.
"""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bench import lines
from calib_data.records import Record

Phase = Literal["timing", "accuracy"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Packed(Record):
    """A record as JSON, its picture in base64."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Forced(Frozen):
    """Token ids of an answer, and whether an end token came after them."""

    token_ids: tuple[int, ...]
    ended: bool


class Job(Frozen):
    """What one fresh process measures of one variant.

    timing: `records` are asked one at a time, `warmup` of them unmeasured first, then in `repeats` rounds;
    every answer has `max_new_tokens` tokens. accuracy: `records` are asked `batch_size` at a time, once. Those in
    `done` (id, repeat) have their line already. `forced` are the baseline's answers by id, to which the variant is
    held token by token.
    """

    run: str
    variant: str
    folder: Path
    device: Literal["cpu", "cuda"]
    phase: Phase
    block: int
    threads: int | None
    max_new_tokens: int
    batch_size: int = 1
    warmup: int = 0
    repeats: int = 1
    records: tuple[Packed, ...]
    done: frozenset[tuple[str, int]] = frozenset()
    forced: dict[str, Forced] = {}


class Loaded(Frozen):
    """A process that has opened its variant: wall seconds, the libraries' imports left out; resident bytes of the
    process before and after."""

    kind: Literal["loaded"] = "loaded"
    run: str
    phase: Phase
    block: int
    seconds: float
    rss_before: int
    rss_after: int


class Stages(Frozen):
    """Wall seconds of the parts of one answer, without gaps (shipvlm.runtime.generate.StageSeconds)."""

    preprocess: float
    vision: float
    prefill: float
    decode: tuple[float, ...]


class Answered(Frozen):
    """One answer of one variant.

    `wall`: seconds from request to text, for accuracy this answer's share of its batch. `stages`: of its whole batch.
    `peak_rss`: most resident bytes of the process until now; `peak_vram`: most device memory taken since before the
    model was loaded, seen after each answer. `compared`, `agreed`: tokens of the baseline's answer, its end token
    among them, and how many of them are this variant's most likely token there.
    """

    kind: Literal["answered"] = "answered"
    run: str
    phase: Phase
    block: int
    repeat: int
    id: str
    prompt_sha256: str
    image_sha256: str
    output: str
    token_ids: tuple[int, ...]
    finish: str
    wall: float
    stages: Stages
    peak_rss: int
    peak_vram: int | None = None
    compared: int | None = None
    agreed: int | None = None


Line = Annotated[Loaded | Answered, Field(discriminator="kind")]
LINE: TypeAdapter[Loaded | Answered] = TypeAdapter(Line)


def read(path: Path, run: str) -> list[Loaded | Answered]:
    """The lines of `run` in a file of observations. Raises InputError naming the line that cannot be read."""
    found = []
    for number, fields in lines.read(path, run):
        try:
            found.append(LINE.validate_python(fields))
        except ValidationError as error:
            raise lines.unreadable(path, number, error) from error
    return found


def append(path: Path, line: Loaded | Answered) -> None:
    """Adds one line to a file of observations."""
    lines.append(path, [line.model_dump_json(exclude_none=True)])


def identity(record: Record) -> dict[str, Any]:
    """What was asked: the record's id, and digests of its words and of its encoded picture."""
    return {
        "id": record.id,
        "prompt_sha256": sha256(record.prompt.encode()).hexdigest()[:16],
        "image_sha256": sha256(record.image).hexdigest()[:16],
    }
