"""What a fresh process is asked to measure: one attempt at one block of one variant."""

from pathlib import Path

from pydantic import ConfigDict, Field

from bench.conditions import Taken
from bench.observations import Frozen, Phase
from bench.workloads import Case
from calib_data.records import Record
from shipvlm.runtime.model import Device, Dtype, Engine


class Packed(Record):
    """A record as JSON, its picture in base64."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Known(Frozen):
    """The baseline's answer to one item."""

    token_ids: tuple[int, ...]
    ended: bool


class Job(Frozen):
    """What one fresh process measures of one variant: one attempt at one block.

    timing: for each of `cases`, `warmup` requests and more until it is warm, then `items` requests in `repeats` rounds;
    their pictures and words are those of `records` in turn. accuracy: `records` are asked `batch_size` at a time, and
    the model is held to the baseline's answers in `references`, but for those in `done`, whose lines are there. The
    baseline itself, for which `answers` has what is done, writes `references`.
    `started`: what was taken of the machine when the process was started.
    """

    run: str
    variant: str
    phase: Phase
    block: int
    attempt: int = 0
    folder: Path
    engine: Engine
    device: Device
    dtype: Dtype | None = None
    threads: int | None = None
    started: Taken
    records: tuple[Packed, ...]
    cases: tuple[Case, ...] = ()
    items: int = 1
    repeats: int = 1
    warmup: int = 0
    batch_size: int = 1
    max_new_tokens: int = 1
    baseline: bool = False
    answers: dict[str, Known] = Field(default_factory=dict)
    done: frozenset[str] = frozenset()
    references: Path | None = None
    reference_run: str = ""
