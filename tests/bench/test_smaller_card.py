"""What is taken of a GPU so that an engine finds less: with a driver and an allocator made up, and with real ones."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import nvml, smaller_card
from bench.smaller_card import CONTEXT, only
from shipvlm.errors import SetupError

GIB = 2**30


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU of which 24 GiB are free, and half a GiB less once this process uses it; the sizes that are taken of it."""
    sizes: list[int] = []
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")

    def empty(size: int, **how: Any) -> SimpleNamespace:
        assert how == {"dtype": torch.uint8, "device": "cuda"}
        assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # or another GPU than the engine's may be taken
        sizes.append(size)
        return SimpleNamespace(nbytes=size)

    cuda = SimpleNamespace(
        is_available=lambda: True, mem_get_info=lambda: (24 * GIB - GIB // 2, 25 * GIB), empty_cache=sizes.clear
    )
    monkeypatch.setattr(nvml, "device", lambda: SimpleNamespace(free=lambda: 24 * GIB))
    monkeypatch.setattr(smaller_card, "torch", SimpleNamespace(cuda=cuda, empty=empty, uint8=torch.uint8))
    return sizes


def test_all_but_the_memory_is_taken_and_given_back(taken: list[int]) -> None:
    with only(10 * GIB, "cuda") as size:
        assert taken == [size] == [13 * GIB + GIB // 2]
    assert not taken
    with pytest.raises(KeyError), only(10 * GIB, "cuda"):
        raise KeyError
    assert not taken


def test_nothing_is_taken_of_a_cpu_or_where_about_as_much_is_free(taken: list[int]) -> None:
    with only(GIB, "cpu") as size:
        assert (size, taken) == (0, [])
    for memory in (24 * GIB, 24 * GIB - CONTEXT + 1):
        with only(memory, "cuda") as size:
            assert (size, taken) == (0, [])
    with only(24 * GIB - CONTEXT, "cuda") as size:
        assert size == CONTEXT - GIB // 2


def test_a_torch_without_cuda_is_a_setup_error(taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smaller_card.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SetupError, match="cannot be tried without a CUDA build of torch"), only(GIB, "cuda"):
        pass


@pytest.mark.gpu
def test_of_a_gpu_as_much_is_left_as_was_asked() -> None:
    with only(3 * GIB, "cuda") as size:
        assert size > 0
        left, _ = torch.cuda.mem_get_info()
        assert left == pytest.approx(3 * GIB, abs=64 * 2**20)
    assert torch.cuda.mem_get_info()[0] > left + size // 2
