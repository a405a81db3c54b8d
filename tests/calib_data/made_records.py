"""Records and encoded pictures made for the tests."""

import io
from typing import Any

from PIL import Image

from calib_data.records import Record


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def record(name: str = "a", **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "id": name,
        "task": "vqa",
        "image": encoded(Image.new("RGB", (4, 3), "red")),
        "prompt": "Which colour?",
        "answers": ("red", "scarlet"),
        "source": "made",
        "licence": "CC0-1.0",
    }
    return Record(**(fields | changes))
