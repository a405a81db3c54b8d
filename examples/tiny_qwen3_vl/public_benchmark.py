"""The public easy-VQA test, beside the same questions without a picture and with a blank one.

The task is shallow: much of it can be guessed from the question. The two guesses say how much.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from bench import intervals
from bench.accuracy import ask, evaluate, progress_bar
from bench.plan import sample
from bench.vision import shared_vision
from calib_data.records import Record, digest
from calib_data.scenes.easy_vqa import public_test
from shipvlm.runtime.checkpoint import Checkpoint
from shipvlm.runtime.inputs import Request

PICTURES = 1000  # of the public test: their features fit in memory
BATCH_SIZE = 64


def easy_vqa_test(
    checkpoint: Checkpoint, build: Path, run: Callable[..., str], limit: int | None = None
) -> dict[str, dict[str, Any]]:
    """Share of right answers with the picture, with the question only, and with a white picture in its place.

    `run` names a run by its parts (bench.environment.run_key). Raises SetupError when the package is not installed.
    """
    everything = public_records()
    data = digest(everything)
    records = sample(everything, limit)
    ways: dict[str, Callable[[Record], Request]] = {
        "picture": ask,
        "question-only": lambda record: Request(record.prompt),
        "blank-picture": lambda record: Request(record.prompt, (Image.new("RGB", (64, 64), "white"),)),
    }
    found = {}
    for name, request in ways.items():
        with progress_bar() as progress, shared_vision([checkpoint.model], keep=PICTURES):
            items = evaluate(
                checkpoint,
                records,
                BATCH_SIZE,
                progress,
                log=build / "easy_vqa_test" / f"{name}.jsonl",
                run=run(data, name),
                request=request,
            )
        found[name] = intervals.mean([item.value for item in items]).as_dict()
    return found


def public_records() -> list[Record]:
    """All questions of the public test as records of task vqa."""
    records = []
    for number, (question, answer, image) in enumerate(public_test()):
        encoded = io.BytesIO()
        image.save(encoded, "PNG")
        records.append(
            Record(
                id=f"easy-vqa-test/{number:05d}",
                task="vqa",
                image=encoded.getvalue(),
                prompt=question,
                answers=(answer,),
                source="easy-vqa",
                licence="MIT",
            )
        )
    return records
