"""Small drawn records, so that the harness has something real to measure."""

import io
import random

from PIL import Image, ImageDraw

from calib_data.records import Record, Task

TASKS: tuple[Task, ...] = ("vqa", "caption", "consistency", "ocr")
PROMPTS = {"vqa": "what is left", "caption": "what is the total", "consistency": "is the circle red", "ocr": "total"}


def records(count: int, seed: int = 0, task: Task | None = None) -> list[Record]:
    """`count` records of pictures of several sizes; the tasks in turn, or all of one."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        kind = task or TASKS[number % len(TASKS)]
        image = Image.new("RGB", (rng.choice((64, 96, 128)), rng.choice((64, 96))), (rng.randrange(256),) * 3)
        draw = ImageDraw.Draw(image)
        for _ in range(3):
            x, y, colour = rng.randrange(40), rng.randrange(40), tuple(rng.randrange(256) for _ in range(3))
            draw.rectangle((x, y, x + rng.randrange(8, 24), y + rng.randrange(8, 24)), fill=colour)
        encoded = io.BytesIO()
        image.save(encoded, "PNG")
        made.append(
            Record(
                id=f"made/{number:04d}",
                task=kind,
                image=encoded.getvalue(),
                prompt=PROMPTS[kind],
                answers=(rng.choice(("yes", "no")),) if kind == "consistency" else ("red square",),
                source=f"made/{kind}",
                licence="CC0-1.0",
            )
        )
    return made
