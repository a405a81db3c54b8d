"""Scores item by item, and runs that were cut off."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import accuracy
from bench.accuracy import ItemResult, append_log, batches, evaluate, read_log, summarise
from calib_data.records import picture
from calib_data.scoring import score
from shipvlm.runtime.checkpoint import Request, generate, load
from tests.bench.made_records import records


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return load(tiny_checkpoint)


def item(name: str, value: float = 1.0, run: str = "r", task: str = "vqa", parsed: Any = "ok") -> ItemResult:
    return ItemResult(
        run=run, id=name, task=task, source="s", answer="a", value=value, parsed=parsed, token_ids=(1, 2), seconds=0.1
    )


def test_each_item_is_what_generate_and_score_say(checkpoint):
    data = records(7)
    found = evaluate(checkpoint, data, batch_size=3, max_new_tokens=6)
    assert [each.id for each in found] == [record.id for record in data]
    for each, record in zip(found, data, strict=True):
        [alone] = generate(checkpoint, [Request(record.prompt, (picture(record),))], 6)
        graded = score(record.task, alone.text, record.answers)
        assert (each.answer, list(each.token_ids)) == (alone.text, alone.token_ids)
        assert (each.value, each.parsed, each.similarity) == (graded.value, graded.parsed, graded.similarity)
        assert (each.task, each.source) == (record.task, record.source)


def test_a_run_that_was_cut_off_continues_and_ends_the_same(checkpoint, tmp_path, monkeypatch):
    data = records(8)
    whole = evaluate(checkpoint, data, 4, log=tmp_path / "whole.jsonl", run="x", max_new_tokens=4)
    log = tmp_path / "log.jsonl"
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[1] + lines[2][:25])

    asked = []
    monkeypatch.setattr(accuracy, "generate", lambda c, r, *a, **k: asked.extend(r) or generate(c, r, *a, **k))
    again = evaluate(checkpoint, data, 4, log=log, run="x", max_new_tokens=4)
    assert len(asked) == 8  # one item of the first batch was missing: both batches are computed whole
    assert [each.answer for each in again] == [each.answer for each in whole]
    assert len(log.read_text().splitlines()) == 8
    asked.clear()
    assert evaluate(checkpoint, data, 4, log=log, run="x", max_new_tokens=4) == again
    assert asked == []
    evaluate(checkpoint, data[:2], 4, log=log, run="another model", max_new_tokens=4)
    assert len(asked) == 2


def test_another_request_can_be_made_of_a_record(checkpoint):
    [record] = records(1)
    [found] = evaluate(checkpoint, [record], request=lambda r: Request(r.prompt), max_new_tokens=5)
    [alone] = generate(checkpoint, [Request(record.prompt)], 5)
    assert found.answer == alone.text


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 40), size=st.integers(1, 9))
def test_batches_hold_every_record_once_in_order_of_size(count, size):
    data = records(count)
    made = batches(data, size)
    flat = [record for batch in made for record in batch]
    assert sorted(record.id for record in flat) == sorted(record.id for record in data)
    areas = [image.width * image.height for image in map(picture, flat)]
    assert areas == sorted(areas)
    assert all(len(batch) == size for batch in made[:-1])


def test_the_log_is_one_json_line_an_item(tmp_path):
    log = tmp_path / "new" / "log.jsonl"
    append_log(log, [item("a"), item("b", run="other")])
    append_log(log, [item("c")])
    assert [json.loads(line)["id"] for line in log.read_text().splitlines()] == ["a", "b", "c"]
    assert list(read_log(log, "r")) == ["a", "c"]
    assert read_log(tmp_path / "none.jsonl", "r") == {}


def test_a_torn_line_is_closed_off_before_more_is_written(tmp_path):
    log = tmp_path / "log.jsonl"
    append_log(log, [item("a"), item("b")])
    log.write_text(log.read_text()[:-9])
    assert list(read_log(log, "r")) == ["a"]
    append_log(log, [item("c")])
    assert list(read_log(log, "r")) == ["a", "c"]


def test_the_summary_counts_what_is_empty_and_unparsable():
    items = [item(str(n), value=float(n % 2)) for n in range(40)]
    items += [item(f"e{n}", 0.0, task="ocr", parsed=("empty", "unparsable", "ok")[n % 3]) for n in range(9)]
    found = summarise(items, lambda each: each.task)
    assert list(found) == ["ocr", "vqa"]
    assert (found["vqa"]["n"], found["vqa"]["value"], found["vqa"]["similarity"]) == (40, 0.5, None)
    assert found["vqa"]["low"] < 0.5 < found["vqa"]["high"]
    assert (found["ocr"]["empty"], found["ocr"]["unparsable"], found["ocr"]["low"]) == (3, 3, None)
    assert found["ocr"]["mean_tokens"] == 2
