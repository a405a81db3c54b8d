"""Tries in this process what fits into memory: the engine side of bench.fit."""

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench import memory
from bench.job import Packed
from bench.measure import import_engine
from bench.observations import Frozen
from bench.workloads import Case, requests
from shipvlm.families.qwen3_vl.processor import PictureProcessor
from shipvlm.memory import available_memory
from shipvlm.runtime.inputs import Batch, encode
from shipvlm.runtime.model import Device, Dtype, Engine, Model, open_model

NEW = 2  # tokens after the prompt: one that prefill gives, one of a decode step
# How the engines say that an allocation failed: CUDA, torch, ONNX Runtime, cuBLAS and cuDNN, C++, NumPy.
LACKS = (
    "out of memory",
    "can't allocate memory",
    "failed to allocate",
    "alloc_failed",
    "bad_alloc",
    "unable to allocate",
)


class Try(Frozen):
    """`rows` requests at once, each of `tokens` with its new ones and with the picture of the case."""

    rows: int
    tokens: int


class FitJob(Frozen):
    """`tries` are made one after the other, from small to large, until one does not fit into `memory` bytes: those that
    `bench.memory.peak` counts. Requests are made of `record` as `case` has them."""

    folder: Path
    engine: Engine
    device: Device
    dtype: Dtype | None
    memory: int
    case: Case
    record: Packed
    tries: tuple[Try, ...]


class Tried(Try):
    """Whether it fits; the most memory until then, in bytes; and what the engine said where it ended without memory."""

    fits: bool
    peak: int
    reason: str = ""


def measure(job: FitJob) -> Iterator[Tried]:
    """Raises as `open_model` and `encode`, and what the engine raises for another reason than memory."""
    watch = memory.Watch(job.device)
    import_engine(job.engine)
    if job.device == "cpu" and (available := available_memory()) is not None:
        # A guard for the machine. It cannot be closer: what is reserved and never used counts there too.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (available, hard))
    model: Model | None = None
    for each in job.tries:
        reason = ""
        try:
            model = model or open_model(job.folder, device=job.device, dtype=job.dtype, engine=job.engine)
            _answer(model, batch_of(job, model.processor, each))
        except Exception as error:
            if not lacks_memory(error):
                raise
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
        peak = memory.peak(watch.memory())
        fits = not reason and peak <= job.memory
        yield Tried(**dict(each), fits=fits, peak=peak, reason=reason)
        if not fits:
            return


def lacks_memory(error: Exception) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in LACKS)


def batch_of(job: FitJob, processor: PictureProcessor, asked: Try) -> Batch:
    """The same request in all rows, its prompt continued to `asked.tokens` less NEW."""
    one = encode(processor, requests(job.case, [job.record], processor.tokenizer, ""))
    ids = one.input_ids[0]
    ids = np.concatenate([ids, np.full(asked.tokens - NEW - len(ids), ids[-1])])
    return Batch((ids,) * asked.rows, one.grids * asked.rows, np.tile(one.pixel_values, (asked.rows, 1)))


def _answer(model: Model, batch: Batch) -> None:
    """As shipvlm.runtime.generate does it."""
    features = model.vision(batch)
    logits, decoding = model.prefill(batch, features, NEW)
    del features
    decoding.step(logits.argmax(-1))
