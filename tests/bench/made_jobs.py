"""A job for a worker, small."""

from pathlib import Path
from typing import Any

from bench.conditions import launched
from bench.job import Job, Packed
from bench.workloads import Case
from tests.bench.made_records import records

SMALL = Case(name="small", width=64, height=64, prompt_tokens=6, answer_tokens=3)
PAIR = Case(name="pair", width=96, height=64, prompt_tokens=9, answer_tokens=2, batch=2)


def job(folder: Path, count: int = 3, **fields: Any) -> Job:
    settings: dict[str, Any] = {
        "run": "r",
        "variant": "v",
        "phase": "accuracy",
        "block": 0,
        "folder": folder,
        "engine": "transformers",
        "device": "cpu",
        "started": launched(),
        "records": tuple(Packed(**dict(record)) for record in records(count)),
        "cases": (SMALL,),
        "warmup": 1,
        "batch_size": 2,
        "max_new_tokens": 4,
    }
    return Job(**settings | fields)
