"""Leaves as little of a GPU as a smaller card has, so that an engine meets the end of that."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench import nvml
from bench.process import ENVIRONMENT
from shipvlm.errors import SetupError

CONTEXT = 2**30  # bytes: more than CUDA takes of a GPU for a process that holds memory and runs nothing


@contextmanager
def only(memory: int, device: str) -> Iterator[int]:
    """Takes all that is free of `device` but `memory` bytes, and gives how many that is. None of a CPU, nor of a GPU of
    which about as much is free: this process itself needs some, for CUDA.

    Raises SetupError where there is no driver, or torch cannot take anything of the GPU.
    """
    free = nvml.device().free() if device == "cuda" else None
    if free is None or memory > free - CONTEXT:
        yield 0
        return
    os.environ |= ENVIRONMENT  # the GPU that is first here is to be the engine's
    if not torch.cuda.is_available():
        raise SetupError("less of the GPU than is free cannot be tried without a CUDA build of torch; install one")
    left, _ = torch.cuda.mem_get_info()
    held = [torch.empty(left - memory, dtype=torch.uint8, device="cuda")]
    try:
        yield held[0].nbytes
    finally:
        held.clear()
        torch.cuda.empty_cache()
