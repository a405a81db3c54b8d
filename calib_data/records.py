"""One record: a picture, a prompt about it and the reference answers."""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shipvlm.errors import InputError

# What is asked, and so how an answer is scored (calib_data.scoring). From `choice` on: the rules of public sets.
Task = Literal["vqa", "caption", "consistency", "ocr", "choice", "document", "chart", "contains", "formula"]
TASKS: tuple[Task, ...] = get_args(Task)
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 50_000_000  # a larger picture is a mistake or a decompression bomb

Text = Annotated[str, StringConstraints(pattern=r"\S")]


class Record(BaseModel):
    """A picture and a question about it. No text may be blank; there is at least one reference answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Text
    task: Task
    image: bytes = Field(min_length=1, repr=False)  # encoded: one of IMAGE_FORMATS
    prompt: Text
    answers: tuple[Text, ...] = Field(min_length=1)
    source: Text
    licence: Text


def picture(record: Record) -> Image.Image:
    """The record's picture, decoded. Raises InputError as `decode` does."""
    return decode(record.image)


def decode(image: bytes) -> Image.Image:
    """An encoded picture as RGB, turned upright as its EXIF says, on white where it is transparent.

    Raises InputError when it is none of IMAGE_FORMATS, is truncated, or has more than MAX_PIXELS pixels.
    """
    try:
        opened = Image.open(io.BytesIO(image), formats=IMAGE_FORMATS)
    except UnidentifiedImageError as error:
        raise InputError(f"not a picture in {', '.join(IMAGE_FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"the picture cannot be opened: {error}") from error
    if opened.width * opened.height > MAX_PIXELS:  # before a pixel is decoded
        raise InputError(f"the picture is too large: {opened.width} x {opened.height}, at most {MAX_PIXELS:,} pixels")
    try:
        upright = ImageOps.exif_transpose(opened)
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        layer = upright.convert("RGBA")
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"the picture cannot be decoded: {error}") from error
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def digest(records: Sequence[Record]) -> str:
    """sha256 (hex) of what the records say, in their order; the file they came from does not matter."""
    total = hashlib.sha256()
    for record in records:
        fields = record.model_dump() | {"image": hashlib.sha256(record.image).hexdigest()}
        total.update(json.dumps(fields, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def write_parquet(records: Sequence[Record], path: Path) -> None:
    """Writes one Parquet file that `datasets.load_dataset("parquet", data_files=...)` opens, pictures inside.

    The file appears whole or not at all. Raises InputError when there is no record or two have the same id.
    """
    import pyarrow  # here, because `datasets` takes a second to import and readers of records do without
    import pyarrow.parquet
    from datasets import Features, List, Value
    from datasets import Image as ImageFeature

    if not records:
        raise InputError(f"{path}: there are no records to write")
    ids = [record.id for record in records]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise InputError(f"{path}: two records have the id {twice!r}")
    text = Value("string")
    features = Features(
        {
            "id": text,
            "task": text,
            "image": ImageFeature(),
            "prompt": text,
            "answers": List(text),
            "source": text,
            "licence": text,
        }
    )
    rows = [record.model_dump() | {"image": {"bytes": record.image, "path": None}} for record in records]
    table = pyarrow.Table.from_pylist(rows, schema=features.arrow_schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            pyarrow.parquet.write_table(table, file, compression="zstd")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
