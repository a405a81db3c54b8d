"""What fits, with engines that have planted limits; and the command."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import fit
from bench.fit import MOST_ROWS, doubled, largest, markdown
from bench.fit_tries import FitJob, Tried, Try
from bench.variants import Variant
from bench.workloads import CASES
from shipvlm.errors import ExecutionError, InputError
from tests.bench.made_records import records
from tests.shipvlm.commands import run

SMALL = CASES["vqa-small"]
PLENTY = 2**40
TO_64 = [1, 2, 4, 8, 16, 32, 64]


def measure_fit(*given, **named):
    """The last of what it gives."""
    *_, last = fit.measure_fit(*given, **named)
    return last


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


def test_a_result_says_what_fits_what_does_not_and_of_what(monkeypatch, tiny_graphs):
    jobs, told = said(monkeypatch, 2000), []
    found = measure_fit(
        Variant.of("v", tiny_graphs), records(1)[0], memory=10**9, command="shipvlm ...", say=told.append
    )
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


def test_all_may_fit_and_nothing_may(monkeypatch, tiny_graphs):
    said(monkeypatch, PLENTY)
    found = measure_fit(Variant.of("v", tiny_graphs), records(1)[0], memory=10**9)
    assert (found["context"]["limit"], found["batch"]["limit"]) == ("model", "tried")
    assert found["batch"]["fits"]["rows"] == MOST_ROWS
    text = markdown(found)
    assert f"| {found['max_length']:,}, the model's most " in text
    assert "| 1,024, more was not tried " in text
    found = measure_fit(Variant.of("v", tiny_graphs), records(1)[0], memory=10**9, most_tokens=300)
    assert (found["context"]["limit"], found["context"]["fits"]["tokens"]) == ("tried", 300)
    said(monkeypatch, 0)
    found = measure_fit(Variant.of("v", tiny_graphs), records(1)[0], memory=10**9)
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


def test_a_case_must_be_there_and_be_read_by_the_model(tiny_graphs, monkeypatch):
    for case in ("video", "batch8"):
        with pytest.raises(InputError, match=f"case '{case}': give one of vqa-small, caption, document$"):
            measure_fit(Variant.of("v", tiny_graphs), records(1)[0], memory=1, case=case)
    for tokens in (20, 5000):
        with pytest.raises(
            InputError, match=rf"{tokens} tokens: give from \d+, of case vqa-small, to 2048, the model's"
        ):
            measure_fit(Variant.of("v", tiny_graphs), records(1)[0], memory=1, most_tokens=tokens)
    with pytest.raises(InputError, match="turns the integers of a quantized checkpoint into floats"):
        measure_fit(replace(Variant.of("v", tiny_graphs), timed=False), records(1)[0], memory=1)
    monkeypatch.setitem(CASES, "vqa-small", SMALL.model_copy(update={"answer_tokens": 5000}))
    with pytest.raises(InputError, match=r"case vqa-small takes \d+ tokens, and .* reads 2048"):
        measure_fit(Variant.of("v", tiny_graphs), records(1)[0], memory=1)


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
def test_the_command_refuses_what_cannot_be_tried(tiny_graphs, capsys, options, said):
    code, _, err = run(capsys, "bench", "fit", str(tiny_graphs), *options)
    assert code == 2
    assert re.search(said, err)


def test_the_command_prints_a_table_or_json(monkeypatch, tiny_graphs, capsys):
    def lines(module, asked, title):
        yield from (Tried(**dict(each), fits=True, peak=10**8).model_dump_json().encode() for each in asked.tries)

    monkeypatch.setattr(fit.process, "lines", lines)
    code, out, _ = run(capsys, "bench", "fit", str(tiny_graphs), "--memory", "1GiB")
    assert code == 0
    assert "| requests of" in out
    code, out, _ = run(capsys, "bench", "fit", str(tiny_graphs), "--memory", "1GiB", "--json")
    found = json.loads(out)
    assert (found["memory"], found["context"]["limit"]) == (2**30, "model")
    assert found["command"].endswith("--device cpu --memory 1GiB --case vqa-small --data evaluation")


def test_what_was_found_before_a_process_died_is_printed(monkeypatch, tiny_graphs, capsys):
    def lines(module, asked, title):
        for each in asked.tries:
            if each.rows > 4:
                raise ExecutionError("fit of v: its process was killed by signal 9")
            yield Tried(**dict(each), fits=True, peak=10**8).model_dump_json().encode()

    monkeypatch.setattr(fit.process, "lines", lines)
    code, out, err = run(capsys, "bench", "fit", str(tiny_graphs), "--memory", "1GiB")
    assert (code, "signal 9" in err) == (4, True)
    assert "| longest request, tokens |" in out
    assert "at once" not in out


def test_a_process_that_got_no_memory_may_end_as_it_likes(monkeypatch, tiny_graphs):
    def lines(module, asked, title):
        for each in asked.tries:
            fits = each.rows * each.tokens <= 500
            yield Tried(**dict(each), fits=fits, peak=1).model_dump_json().encode()
            if not fits:
                raise ExecutionError("fit of v: its process was killed by signal 6")

    monkeypatch.setattr(fit.process, "lines", lines)
    assert measure_fit(Variant.of("v", tiny_graphs), records(1)[0], memory=10**9)["batch"]["limit"] == "memory"
