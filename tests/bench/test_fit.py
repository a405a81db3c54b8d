"""What fits: planted limits, real allocations that fail, real engines; and the command."""

import json
import math
import re
import resource
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench import fit, fit_tries, smaller_card
from bench.fit import MOST_ROWS, doubled, largest, markdown
from bench.fit_tries import FitJob, Tried, Try, batch_of, lacks_memory, measure
from bench.job import Packed
from bench.observations import Memory
from bench.variants import Variant
from bench.workloads import CASES
from convert.export import export_graphs
from shipvlm.errors import ExecutionError, InputError, SetupError
from shipvlm.runtime.model import open_model
from tests.bench.made_records import records
from tests.shipvlm.commands import run

SMALL = CASES["vqa-small"]
PLENTY = 2**40
TO_64 = [1, 2, 4, 8, 16, 32, 64]


@pytest.fixture(scope="session")
def graphs(tiny_checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fit") / "fp32"
    export_graphs(tiny_checkpoint, folder, "fp32")
    return folder


@pytest.fixture
def unguarded(monkeypatch) -> list[tuple[int, int]]:
    """The limits that this process, which is that of all tests, is not given."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append((kind, limits[0])))
    return asked


def measure_fit(*given, **named):
    """The last of what it gives."""
    *_, last = fit.measure_fit(*given, **named)
    return last


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


def up_to(limit: int, calls: list[list[int]]):
    """An engine into which `limit` rows fit."""

    def tries(asked: Sequence[Try]) -> Iterator[Tried]:
        calls.append([each.rows for each in asked])
        for each in asked:
            yield Tried(**dict(each), fits=each.rows <= limit, peak=each.rows)
            if each.rows > limit:
                return

    return tries


@given(least=st.integers(1, 300), span=st.integers(0, 5000), limit=st.integers(0, 6000))
def test_where_a_limit_holds_alone_it_is_found_within_an_eighth(least, span, limit):
    most, calls = least + span, []
    found = largest(up_to(limit, calls), lambda n: Try(rows=n, tokens=1), least, most, "model")
    assert all(len(each) == 1 for each in calls[1:])
    if limit >= most:
        assert (found["fits"]["rows"], found["fails"], found["limit"]) == (most, None, "model")
        return
    assert found["limit"] == "memory"
    fails = found["fails"]["rows"]
    if limit < least:
        assert (found["fits"], fails) == (None, least)
        return
    fits = found["fits"]["rows"]
    assert fits <= limit < fails
    assert fails - fits <= fits / 8 + 1


@pytest.mark.parametrize(
    ("together", "alone", "most", "fits", "fails", "calls"),
    [
        # What was tried before is kept: alone more fits.
        (lambda n, kept: n + kept, lambda n: n, 1000, 96, 104, [TO_64, [32], [64], [128], [96], [112], [104]]),
        (lambda n, kept: n + kept, lambda n: n, 90, 90, None, [TO_64, [32], [64], [90]]),
        # What was tried before is used again: alone less fits.
        (lambda n, kept: n // 2, lambda n: n, 128, 96, 104, [[*TO_64, 128], [128], [64], [96], [112], [104]]),
        (lambda n, kept: n, lambda n: 101, 2, None, 1, [[1, 2], [2], [1]]),
    ],
)  # fmt: skip
def test_what_is_told_was_tried_in_a_process_of_its_own(together, alone, most, fits, fails, calls):
    seen: list[list[int]] = []

    def tries(asked: Sequence[Try]) -> Iterator[Tried]:
        kept = 0
        seen.append([])
        for each in asked:
            seen[-1].append(each.rows)
            peak = together(each.rows, kept) if len(asked) > 1 else alone(each.rows)
            yield Tried(**dict(each), fits=peak <= 100, peak=peak)
            kept += each.rows
            if peak > 100:
                return

    found = largest(tries, lambda n: Try(rows=n, tokens=1), 1, most, "tried")
    assert seen == calls
    assert [each and each["rows"] for each in (found["fits"], found["fails"])] == [fits, fails]
    assert found["limit"] == ("memory" if fails else "tried")


@given(least=st.integers(1, 10_000), span=st.integers(0, 10**6))
def test_sizes_double_and_end_at_the_most(least, span):
    sizes = doubled(least, least + span)
    assert (sizes[0], sizes[-1]) == (least, least + span)
    assert all(after == 2 * before for before, after in pairwise(sizes[:-1]))
    assert len(sizes) == 1 or sizes[-2] < sizes[-1] <= 2 * sizes[-2]


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
    assert lacks_memory(caught.value, "cpu")
    assert not lacks_memory(caught.value, "cuda")  # the host is not the GPU


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "cuda"),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size);", "cuda"),
        ("Failed to allocate memory for requested buffer of size 1073741824", "cpu cuda"),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", "cuda"),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "cuda"),
        ("CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate(handle)", "cuda"),
        ("Non-zero status code returned while running MatMul node. Status Message: std::bad_alloc", "cpu"),
        ("transformers cannot load it: unable to mmap 9 bytes from file: Cannot allocate memory (12)", "cpu"),
        ("can't start new thread", "cpu"),
        ("a picture of 9 patches takes 9 GB for the scores, and 1 GB of memory are available: give a smaller", "cpu"),
        ("CUDA failure 700: an illegal memory access was encountered", ""),
        ("Invalid rank for input: input_ids", ""),
    ],
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(text, devices):
    assert [name for name in ("cpu", "cuda") if lacks_memory(RuntimeError(text), name)] == devices.split()


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


@pytest.mark.parametrize("name", ["tiny_checkpoint", "graphs"])
def test_tries_end_at_the_first_that_takes_more_than_there_is(request, name, unguarded, monkeypatch):
    folder = request.getfixturevalue(name)
    peaks = iter([100, 200, 301, 400])
    monkeypatch.setattr(fit_tries.memory, "peak", lambda found: next(peaks))
    monkeypatch.setattr(fit_tries, "available_memory", lambda: 12345)
    found = list(measure(job(folder, (1, 100), (2, 100), (4, 100), (8, 100), memory=300)))
    assert [(each.rows, each.fits, each.peak) for each in found] == [(1, True, 100), (2, True, 200), (4, False, 301)]
    assert unguarded == [(resource.RLIMIT_DATA, 12345)]


def test_tries_end_where_the_engine_gets_no_memory(graphs, unguarded, monkeypatch):
    def refused(*_):
        raise RuntimeError("Failed to allocate memory for requested buffer of size 7\nmore of it")

    monkeypatch.setattr(fit_tries, "_answer", refused)
    (found,) = measure(job(graphs, (1, 100), (2, 100)))
    assert not found.fits
    assert found.reason == "Failed to allocate memory for requested buffer of size 7"


def test_another_error_is_no_lack_of_memory(graphs, unguarded, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    monkeypatch.setattr(fit_tries, "_answer", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(measure(job(graphs, (1, 100))))


def said(monkeypatch, limit: int) -> list[FitJob]:
    """Has the engine's processes say that `limit` tokens fit in all; the jobs that they were given."""
    jobs: list[FitJob] = []

    def lines(module, asked, title):
        assert (module, title) == ("bench.fit_worker", "fit of v")
        jobs.append(FitJob.model_validate_json(asked.model_dump_json()))
        for each in asked.tries:
            taken = each.rows * each.tokens
            yield Tried(**dict(each), fits=taken <= limit, peak=taken).model_dump_json().encode()
            if taken > limit:
                return

    monkeypatch.setattr(fit.process, "lines", lines)
    return jobs


def test_a_result_says_what_fits_what_does_not_and_of_what(monkeypatch, graphs):
    jobs, told = said(monkeypatch, 2000), []
    found = measure_fit(Variant.of("v", graphs), records(1)[0], memory=10**9, command="shipvlm ...", say=told.append)
    tokens = found["tokens"]
    assert found["context"]["fits"]["tokens"] <= 2000 < found["context"]["fails"]["tokens"]
    assert found["batch"]["fits"]["rows"] * tokens <= 2000 < found["batch"]["fails"]["rows"] * tokens
    assert [each["limit"] for each in (found["context"], found["batch"])] == ["memory", "memory"]
    assert {(each.memory, each.device, each.engine) for each in jobs} == {(10**9, "cpu", "onnxruntime")}
    assert jobs[0].tries[0] == Try(rows=1, tokens=tokens)
    assert jobs[0].tries[-1].tokens == found["max_length"]
    assert jobs[-1].tries[0].rows > 1
    assert [len(each.tries) for each in jobs[1:]].count(1) == len(jobs) - 2
    assert told[0] == f"1 x {tokens} tokens: {tokens / 1e3:.3f} kB"
    text = " ".join(markdown(found).split())
    assert f"| longest request, tokens | {found['context']['fits']['tokens']:,} |" in text
    assert f"| requests of {tokens} tokens at once | {found['batch']['fits']['rows']} |" in text
    assert "v on cpu in 1.00 GB, each request with a picture of 256 x 256" in text
    assert found["calculated"] is None
    json.dumps(found, allow_nan=False)


def test_all_may_fit_and_nothing_may(monkeypatch, graphs):
    said(monkeypatch, PLENTY)
    found = measure_fit(Variant.of("v", graphs), records(1)[0], memory=10**9)
    assert (found["context"]["limit"], found["batch"]["limit"]) == ("model", "tried")
    assert found["batch"]["fits"]["rows"] == MOST_ROWS
    text = markdown(found)
    assert f"| {found['max_length']:,}, the model's most " in text
    assert "| 1,024, more was not tried " in text
    found = measure_fit(Variant.of("v", graphs), records(1)[0], memory=10**9, most_tokens=300)
    assert (found["context"]["limit"], found["context"]["fits"]["tokens"]) == ("tried", 300)
    said(monkeypatch, 0)
    found = measure_fit(Variant.of("v", graphs), records(1)[0], memory=10**9)
    assert found["context"]["fits"] is None
    assert "| longest request, tokens | none | - | " in " ".join(markdown(found).split())


def test_of_a_checkpoint_on_a_gpu_the_calculation_stands_beside(monkeypatch, tiny_checkpoint):
    said(monkeypatch, 2000)
    monkeypatch.setattr(fit.smaller_card, "only", lambda memory, device: nullcontext(memory // 2))
    found = measure_fit(Variant.of("v", tiny_checkpoint, "cuda"), records(1)[0], memory=2 * 10**9)
    assert found["taken"] == 10**9
    assert found["calculated"]["memory"] == 2 * 10**9
    assert found["calculated"]["context"] == found["tokens"]
    assert f"Calculated: {found['calculated']['largest_context']:,} tokens; " in markdown(found)


def test_a_case_must_be_there_and_be_read_by_the_model(graphs, monkeypatch):
    for case in ("video", "batch8"):
        with pytest.raises(InputError, match=f"case '{case}': give one of vqa-small, caption, document$"):
            measure_fit(Variant.of("v", graphs), records(1)[0], memory=1, case=case)
    for tokens in (20, 5000):
        with pytest.raises(
            InputError, match=rf"{tokens} tokens: give from \d+, of case vqa-small, to 2048, the model's"
        ):
            measure_fit(Variant.of("v", graphs), records(1)[0], memory=1, most_tokens=tokens)
    with pytest.raises(InputError, match="turns the integers of a quantized checkpoint into floats"):
        measure_fit(replace(Variant.of("v", graphs), timed=False), records(1)[0], memory=1)
    monkeypatch.setitem(CASES, "vqa-small", SMALL.model_copy(update={"answer_tokens": 5000}))
    with pytest.raises(InputError, match=r"case vqa-small takes \d+ tokens, and .* reads 2048"):
        measure_fit(Variant.of("v", graphs), records(1)[0], memory=1)


@pytest.mark.slow
def test_a_process_that_gets_too_little_says_so_and_one_that_gets_enough_fits(graphs):
    roomy = list(fit.process.lines("bench.fit_worker", job(graphs, (1, 100)), "fit of v"))
    taken = Tried.model_validate_json(roomy[0])
    assert taken.fits
    tight = job(graphs, (1, 100), (4096, 100), memory=taken.peak + 50 * 2**20)
    *_, last = [Tried.model_validate_json(line) for line in fit.process.lines("bench.fit_worker", tight, "fit of v")]
    assert (last.rows, last.fits) == (4096, False)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tiny_checkpoint", "graphs"])
def test_on_a_gpu_an_engine_meets_the_end_of_a_smaller_card(request, name):
    """2.5 GiB are enough to start with, and not for 1,024 pictures (1.6 GB) and their 2 M tokens."""
    asked = job(request.getfixturevalue(name), (1, 100), (2, 200), (1024, 2000)).model_copy(update={"device": "cuda"})
    with smaller_card.only(5 * 2**29, "cuda"):
        found = [Tried.model_validate_json(line) for line in fit.process.lines("bench.fit_worker", asked, "fit of v")]
    assert [each.fits for each in found] == [True, True, False]
    assert found[-1].reason


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "say into how much it is to fit, such as 4GB"),
        (["--memory", "24"], "give a size such as 24GB or 16GiB, or one of t4"),
        (["--memory", "9000GB"], r"more than the .* GB that are free here cannot be tried"),
        (["--memory", "0GB"], "give a size such as 24GB"),
        (["--device", "tpu"], "'tpu' is not one of 'cpu', 'cuda'"),
        (["--memory", "1GB", "--case", "video"], "give one of vqa-small"),
    ],
)
def test_the_command_refuses_what_cannot_be_tried(graphs, capsys, options, said):
    code, _, err = run(capsys, "bench", "fit", str(graphs), *options)
    assert code == 2
    assert re.search(said, err)


def test_the_command_prints_a_table_or_json(monkeypatch, graphs, capsys):
    def lines(module, asked, title):
        yield from (Tried(**dict(each), fits=True, peak=10**8).model_dump_json().encode() for each in asked.tries)

    monkeypatch.setattr(fit.process, "lines", lines)
    code, out, _ = run(capsys, "bench", "fit", str(graphs), "--memory", "1GiB")
    assert code == 0
    assert "| requests of" in out
    code, out, _ = run(capsys, "bench", "fit", str(graphs), "--memory", "1GiB", "--json")
    found = json.loads(out)
    assert (found["memory"], found["context"]["limit"]) == (2**30, "model")
    assert found["command"].endswith("--device cpu --memory 1GiB --case vqa-small --data evaluation")


def test_what_was_found_before_a_process_died_is_printed(monkeypatch, graphs, capsys):
    def lines(module, asked, title):
        for each in asked.tries:
            if each.rows > 4:
                raise ExecutionError("fit of v: its process was killed by signal 9")
            yield Tried(**dict(each), fits=True, peak=10**8).model_dump_json().encode()

    monkeypatch.setattr(fit.process, "lines", lines)
    code, out, err = run(capsys, "bench", "fit", str(graphs), "--memory", "1GiB")
    assert (code, "signal 9" in err) == (4, True)
    assert "| longest request, tokens |" in out
    assert "at once" not in out


def test_a_process_that_got_no_memory_may_end_as_it_likes(monkeypatch, graphs):
    def lines(module, asked, title):
        for each in asked.tries:
            fits = each.rows * each.tokens <= 500
            yield Tried(**dict(each), fits=fits, peak=1).model_dump_json().encode()
            if not fits:
                raise ExecutionError("fit of v: its process was killed by signal 6")

    monkeypatch.setattr(fit.process, "lines", lines)
    assert measure_fit(Variant.of("v", graphs), records(1)[0], memory=10**9)["batch"]["limit"] == "memory"


def test_a_gpu_whose_driver_does_not_say_what_is_taken_cannot_be_tried(monkeypatch, graphs):
    class Blind:
        def memory(self):
            return Memory(rss=1, anon=1, file=1, peak_rss=1, peak_anon=1, peak_file=1)

    monkeypatch.setattr(fit_tries.memory, "Watch", lambda device: Blind())
    monkeypatch.setattr(fit_tries, "open_model", lambda *given, **named: open_model(graphs))
    with pytest.raises(SetupError, match="does not say how much memory of the GPU is taken"):
        list(measure(job(graphs, (1, 100)).model_copy(update={"device": "cuda"})))


@pytest.mark.parametrize(("hard", "given"), [(resource.RLIM_INFINITY, 12345), (99, 99), (10**9, 12345)])
def test_the_guard_keeps_within_a_limit_that_is_there(unguarded, monkeypatch, hard, given):
    monkeypatch.setattr(fit_tries, "available_memory", lambda: 12345)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (hard, hard))
    fit_tries._guard("cpu")
    assert unguarded == [(resource.RLIMIT_DATA, given)]
