"""Tries in this process what fits into memory: the engine side of bench.fit."""

import re
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench import memory
from bench.job import Packed
from bench.measure import import_engine
from bench.observations import Frozen
from bench.workloads import Case, requests
from shipvlm.errors import SetupError
from shipvlm.families.qwen3_vl.processor import PictureProcessor
from shipvlm.memory import available_memory
from shipvlm.runtime.inputs import Batch, encode
from shipvlm.runtime.model import Device, Dtype, Engine, Model, open_model

# How the engines say that an allocation on the GPU failed (CUDA, torch, ONNX Runtime, cuBLAS, cuDNN 8 and 9) ...
ON_DEVICE = (
    "out of memory",
    "failed to allocate memory for requested buffer",
    "alloc_failed",
    "device_allocation_failed",
    "resource allocation failed",
    "cublas_status_not_initialized",
    "cublas failure 1: the library was not initialized",
)
# ... and on the host (also threads, mapped files, C++, NumPy, and what shipvlm.runtime.graphs refuses before it).
ON_HOST = (
    "allocate memory",
    "unable to allocate",
    "failed to allocate",
    "bad_alloc",
    "host_allocation_failed",
    "start new thread",
    "pthread_create failed",
    "gb of memory are available",
)


class Try(Frozen):
    """`rows` requests at once, each with the picture of the case and of `tokens`, the answer's among them."""

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
    """Raises as `open_model` and `encode`, and what the engine raises for another reason than memory; SetupError where
    the driver does not say what this process takes of the GPU."""
    watch = memory.Watch(job.device)
    import_engine(job.engine)
    _guard(job.device)
    model: Model | None = None
    for each in job.tries:
        reason = ""
        try:
            model = model or open_model(job.folder, device=job.device, dtype=job.dtype, engine=job.engine)
            _answer(model, batch_of(job, model.processor, each), job.case.answer_tokens)
        except Exception as error:
            reason = lack_of_memory(error, job.device)
            if not reason:
                raise
        seen = watch.memory()
        if job.device == "cuda" and seen.process is None and seen.device is None:
            raise SetupError("the driver does not say how much memory of the GPU is taken, so nothing can be tried")
        peak = memory.peak(seen)
        fits = not reason and peak <= job.memory
        yield Tried(**dict(each), fits=fits, peak=peak, reason=reason)
        if not fits:
            return


def _guard(device: Device) -> None:
    """On a CPU the engine gets no more than the machine has left. It cannot be bound closer: what is reserved and never
    used counts there too."""
    available = available_memory()
    if device == "cpu" and available is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (available if hard < 0 else min(available, hard), hard))


def lack_of_memory(error: Exception, device: Device) -> str:
    """What `error` says of the memory of `device` that ended, without the place in C++ that ONNX Runtime puts before
    it; "" where it says nothing of that. The memory of the host beside a GPU is another matter."""
    for line in str(error).splitlines():
        starts = [line.lower().find(words) for words in (ON_DEVICE if device == "cuda" else ON_HOST)]
        if found := [start for start in starts if start >= 0]:
            place = re.match(r".*[)\]] ", line[: min(found)])
            return line[place.end() if place else 0 :].strip()
    return type(error).__name__ if device == "cpu" and isinstance(error, MemoryError) else ""


def batch_of(job: FitJob, processor: PictureProcessor, asked: Try) -> Batch:
    """The same request in all rows, its prompt continued to `asked.tokens` less the answer's."""
    one = encode(processor, requests(job.case, [job.record], processor.tokenizer, ""))
    ids = one.input_ids[0]
    ids = np.concatenate([ids, np.full(asked.tokens - job.case.answer_tokens - len(ids), ids[-1])])
    return Batch((ids,) * asked.rows, one.grids * asked.rows, np.tile(one.pixel_values, (asked.rows, 1)))


def _answer(model: Model, batch: Batch, tokens: int) -> None:
    """As shipvlm.runtime.generate does it."""
    features = model.vision(batch)
    logits, decoding = model.prefill(batch, features, tokens)
    del features
    for _ in range(tokens - 1):
        logits = decoding.step(logits.argmax(-1))
