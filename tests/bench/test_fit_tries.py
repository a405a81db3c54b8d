"""One process that tries what fits: real allocations that fail, real engines, what is no lack of memory."""

import math
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import fit_tries, process, smaller_card
from bench.fit_tries import FitJob, Tried, Try, batch_of, lack_of_memory, measure
from bench.job import Packed
from bench.observations import Memory
from bench.variants import Variant
from bench.workloads import CASES
from shipvlm.errors import SetupError
from shipvlm.runtime.model import open_model
from tests.bench.made_records import records

SMALL = CASES["vqa-small"]
PLENTY = 2**40


@pytest.fixture
def unguarded(monkeypatch) -> list[tuple[int, int]]:
    """The limits that this process, which is that of all tests, is not given."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append((kind, limits[0])))
    return asked


def job(folder: Path, *tries: tuple[int, int], memory: int = PLENTY) -> FitJob:
    return FitJob(
        folder=folder,
        engine=Variant.of("v", folder).engine,
        device="cpu",
        dtype=None,
        memory=memory,
        case=SMALL,
        record=Packed(**dict(records(1)[0])),
        tries=tuple(Try(rows=rows, tokens=tokens) for rows, tokens in tries),
    )


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: np.empty(2**60, np.uint8),
        lambda: torch.empty(2**60, dtype=torch.uint8),
        lambda: bytearray(2**62),
    ],
)
def test_an_allocation_that_fails_is_a_lack_of_memory(allocate):
    with pytest.raises(Exception) as caught:  # each library has its own
        allocate()
    assert lack_of_memory(caught.value, "cpu")
    assert not lack_of_memory(caught.value, "cuda")  # the host is not the GPU


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "cuda"),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size);", "cuda"),
        ("Failed to allocate memory for requested buffer of size 1073741824", "cpu cuda"),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", "cuda"),
        ("CUBLAS failure 3: the resource allocation failed ; GPU=0 ; hostname=h ; expr=cublasCreate(&handle);", "cuda"),
        ("CUBLAS failure 1: the library was not initialized ; GPU=0", "cuda"),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "cuda"),
        ("CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate(handle)", "cuda"),
        ("Non-zero status code returned while running MatMul node. Status Message: std::bad_alloc", "cpu"),
        ("transformers cannot load it: unable to mmap 9 bytes from file: Cannot allocate memory (12)", "cpu"),
        ("can't start new thread", "cpu"),
        ("a picture of 9 patches takes 9 GB for the scores, and 1 GB of memory are available: give a smaller", "cpu"),
        ("cuDNN error: the library was not initialized", ""),
        ("CUDA failure 700: an illegal memory access was encountered", ""),
        ("Invalid rank for input: input_ids", ""),
    ],
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(text, devices):
    assert [name for name in ("cpu", "cuda") if lack_of_memory(RuntimeError(text), name)] == devices.split()


@pytest.mark.parametrize(
    ("place", "said", "device"),
    [
        ("/a/arena.cc:360 void* Get(size_t) ", "Failed to allocate memory for requested buffer of size 7", "cuda"),
        (
            "[ONNXRuntimeError] : 6 : cuda_call.cc:154 T Call(E, int) [with E = T] ",
            "CUBLAS failure 3: the resource allocation failed ; GPU=0",
            "cuda",
        ),
        ("first\n", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "cuda"),
        ("", "while running a node. std::bad_alloc", "cpu"),
        ("", "Cannot allocate memory (12)", "cpu"),
    ],
)
def test_what_an_engine_says_of_memory_is_told_without_where_in_its_code(place, said, device):
    assert lack_of_memory(RuntimeError(f"{place}{said}\nmore of it"), device) == said


def test_an_error_without_words_is_named():
    assert lack_of_memory(MemoryError(), "cpu") == "MemoryError"


@pytest.mark.parametrize("tokens", [100, 333])
def test_a_request_has_the_rows_tokens_and_picture_that_are_asked(tiny_checkpoint, tokens):
    model = open_model(tiny_checkpoint)
    asked = job(tiny_checkpoint)
    batch = batch_of(asked, model.processor, Try(rows=3, tokens=tokens))
    assert [len(ids) for ids in batch.input_ids] == [tokens - SMALL.answer_tokens] * 3
    ((grid,), *others) = batch.grids
    assert others == [(grid,)] * 2
    assert len(batch.pixel_values) == 3 * math.prod(grid)


def test_a_try_is_a_whole_request(tiny_checkpoint, monkeypatch):
    model = open_model(tiny_checkpoint)
    made = []
    prefill = type(model).prefill
    monkeypatch.setattr(type(model), "prefill", lambda *given: made.append(prefill(*given)) or made[-1])
    batch = batch_of(job(tiny_checkpoint), model.processor, Try(rows=3, tokens=100))
    fit_tries._answer(model, batch, SMALL.answer_tokens)
    [(logits, decoding)] = made
    np.testing.assert_allclose(logits, np.repeat(logits[:1], 3, 0), atol=1e-5)
    assert decoding.cache()[0][0].shape[2] == 99  # the last token is said, and not read any more


@pytest.mark.parametrize("name", ["tiny_checkpoint", "tiny_graphs"])
def test_tries_end_at_the_first_that_takes_more_than_there_is(request, name, unguarded, monkeypatch):
    folder = request.getfixturevalue(name)
    peaks = iter([100, 200, 301, 400])
    monkeypatch.setattr(fit_tries.memory, "peak", lambda found: next(peaks))
    monkeypatch.setattr(fit_tries, "available_memory", lambda: 12345)
    found = list(measure(job(folder, (1, 100), (2, 100), (4, 100), (8, 100), memory=300)))
    assert [(each.rows, each.fits, each.peak) for each in found] == [(1, True, 100), (2, True, 200), (4, False, 301)]
    assert unguarded == [(resource.RLIMIT_DATA, 12345)]


def test_tries_end_where_the_engine_gets_no_memory(tiny_graphs, unguarded, monkeypatch):
    def refused(*_):
        raise RuntimeError("Failed to allocate memory for requested buffer of size 7\nmore of it")

    monkeypatch.setattr(fit_tries, "_answer", refused)
    (found,) = measure(job(tiny_graphs, (1, 100), (2, 100)))
    assert not found.fits
    assert found.reason == "Failed to allocate memory for requested buffer of size 7"


def test_another_error_is_no_lack_of_memory(tiny_graphs, unguarded, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    monkeypatch.setattr(fit_tries, "_answer", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(measure(job(tiny_graphs, (1, 100))))


@pytest.mark.slow
def test_a_process_that_gets_too_little_says_so_and_one_that_gets_enough_fits(tiny_graphs):
    roomy = list(process.lines("bench.fit_worker", job(tiny_graphs, (1, 100)), "fit of v"))
    taken = Tried.model_validate_json(roomy[0])
    assert taken.fits
    tight = job(tiny_graphs, (1, 100), (4096, 100), memory=taken.peak + 50 * 2**20)
    *_, last = [Tried.model_validate_json(line) for line in process.lines("bench.fit_worker", tight, "fit of v")]
    assert (last.rows, last.fits) == (4096, False)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tiny_checkpoint", "tiny_graphs"])
def test_on_a_gpu_an_engine_meets_the_end_of_a_smaller_card(request, name):
    """2.5 GiB are enough to start with, and not for 1,024 pictures (1.6 GB) and their 2 M tokens."""
    asked = job(request.getfixturevalue(name), (1, 100), (2, 200), (1024, 2000)).model_copy(update={"device": "cuda"})
    with smaller_card.only(5 * 2**29, "cuda"):
        found = [Tried.model_validate_json(line) for line in process.lines("bench.fit_worker", asked, "fit of v")]
    assert [each.fits for each in found] == [True, True, False]
    assert found[-1].reason


def test_a_gpu_whose_driver_does_not_say_what_is_taken_cannot_be_tried(monkeypatch, tiny_graphs):
    class Blind:
        def memory(self):
            return Memory(rss=1, anon=1, file=1, peak_rss=1, peak_anon=1, peak_file=1)

    monkeypatch.setattr(fit_tries.memory, "Watch", lambda device: Blind())
    monkeypatch.setattr(fit_tries, "open_model", lambda *given, **named: open_model(tiny_graphs))
    with pytest.raises(SetupError, match="does not say how much memory of the GPU is taken"):
        list(measure(job(tiny_graphs, (1, 100)).model_copy(update={"device": "cuda"})))


@pytest.mark.parametrize(("hard", "given"), [(resource.RLIM_INFINITY, 12345), (99, 99), (10**9, 12345)])
def test_the_guard_keeps_within_a_limit_that_is_there(unguarded, monkeypatch, hard, given):
    monkeypatch.setattr(fit_tries, "available_memory", lambda: 12345)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (hard, hard))
    fit_tries._guard("cpu")
    assert unguarded == [(resource.RLIMIT_DATA, given)]
