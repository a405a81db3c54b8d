"""Scores item by item, and runs that were cut off."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import accuracy
from bench.accuracy import ItemResult, append_log, batches, evaluate, read_log, summarise
from calib_data.records import Record, picture
from calib_data.scoring import Score, score
from shipvlm.errors import InputError
from shipvlm.runtime.checkpoint import load
from shipvlm.runtime.generate import generate
from shipvlm.runtime.inputs import Request
from shipvlm.runtime.sampling import Sampling
from tests.bench.made_records import records


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return load(tiny_checkpoint)


def item(
    name: str, value: float = 1.0, run: str = "r", task: str = "vqa", parsed: Any = "ok", answer: str = "3"
) -> ItemResult:
    return ItemResult(
        run=run,
        id=name,
        task=task,
        source="s",
        prompt_sha256="p",
        image_sha256=name,
        answer=answer,
        value=value,
        parsed=parsed,
        token_ids=(1, 2),
        seconds=0.1,
    )


def test_each_item_is_what_generate_and_score_say(checkpoint):
    data = records(7)
    found = evaluate(checkpoint, data, batch_size=3, max_new_tokens=6)
    assert [each.id for each in found] == [record.id for record in data]
    for each, record in zip(found, data, strict=True):
        [alone] = generate(checkpoint, [Request(record.prompt, (picture(record),))], Sampling(6))
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
    assert read_log(log, "x", data) == {each.id: each for each in again}
    asked.clear()
    assert evaluate(checkpoint, data, 4, log=log, run="x", max_new_tokens=4) == again
    assert asked == []
    evaluate(checkpoint, data[:2], 4, log=log, run="another model", max_new_tokens=4)
    assert len(asked) == 2


def test_another_request_can_be_made_of_a_record(checkpoint):
    [record] = records(1)
    [found] = evaluate(checkpoint, [record], request=lambda r: Request(r.prompt), max_new_tokens=5)
    [alone] = generate(checkpoint, [Request(record.prompt)], Sampling(5))
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


def named(*names: str) -> list[Record]:
    """Records of these ids; the answer that scores is 3."""
    return [
        record.model_copy(update={"id": name, "answers": ("3",)})
        for name, record in zip(names, records(len(names), task="vqa"), strict=True)
    ]


def test_the_log_is_one_json_line_an_item(tmp_path):
    log = tmp_path / "new" / "log.jsonl"
    append_log(log, [item("a"), item("b", run="other")])
    append_log(log, [item("c"), item("d")])
    assert [json.loads(line)["id"] for line in log.read_text().splitlines()] == ["a", "b", "c", "d"]
    assert list(read_log(log, "r", named("a", "b", "c"))) == ["a", "c"]
    assert read_log(tmp_path / "none.jsonl", "r", named("a")) == {}


def test_the_log_keeps_answers_and_scores_are_made_when_it_is_read(tmp_path, monkeypatch):
    log = tmp_path / "log.jsonl"
    append_log(log, [item("a", value=0.25, answer="three"), item("b", answer=" "), item("c", answer="4")])
    assert not {"value", "parsed", "similarity"} & set(json.loads(log.read_text().splitlines()[0]))
    found = read_log(log, "r", named("a", "b", "c"))
    assert [(each.value, each.parsed) for each in found.values()] == [(1.0, "ok"), (0.0, "empty"), (0.0, "ok")]
    monkeypatch.setattr(accuracy, "score", lambda *_: Score(0.5, "unparsable", 0.75))
    again = read_log(log, "r", named("a"))["a"]
    assert (again.value, again.parsed, again.similarity) == (0.5, "unparsable", 0.75)


def test_a_line_with_an_old_score_is_scored_again(tmp_path):
    log = tmp_path / "log.jsonl"
    line = {"run": "r", "id": "a", "task": "vqa", "source": "s", "answer": "3", "value": 0.0, "parsed": "unparsable"}
    log.write_text(json.dumps(line | {"token_ids": [1], "seconds": 0.1, "compared": 2, "agreed": 1, "kl": 0.5}) + "\n")
    found = read_log(log, "r", named("a"))["a"]
    assert (found.value, found.parsed, found.similarity, found.kl) == (1.0, "ok", None, 0.5)


def test_lines_of_another_run_may_have_any_form(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"run": "old", "name": "a"}\n{}\n')
    append_log(log, [item("a")])
    assert list(read_log(log, "r", named("a"))) == ["a"]


@pytest.mark.parametrize("line", ['{"run": "r", "id": "b"}', '{"run": "r"}', "{", "[]", "\0\0", "\udcff"])
def test_an_unreadable_line_is_named(tmp_path, line):
    log = tmp_path / "log.jsonl"
    append_log(log, [item("a")])
    with log.open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(InputError, match=r"log\.jsonl, line 2: "):
        read_log(log, "r", named("a", "b"))


@settings(max_examples=20, deadline=None)
@given(text=st.text(min_size=1), data=st.data())
def test_a_torn_line_is_closed_off_before_more_is_written(text, data, tmp_path_factory):
    log = tmp_path_factory.mktemp("torn") / "log.jsonl"
    append_log(log, [item("a", answer=text), item("b", answer=text)])
    whole = log.read_bytes()
    first = whole.index(b"\n") + 1
    log.write_bytes(whole[: data.draw(st.integers(first, len(whole) - 1))])
    everything = named("a", "b", "c")
    assert list(read_log(log, "r", everything)) == ["a"]
    append_log(log, [item("c")])
    found = read_log(log, "r", everything)
    assert list(found) == ["a", "c"]
    assert found["a"].answer == text


def test_the_summary_counts_what_is_empty_and_unparsable():
    items = [item(str(n), value=float(n % 2)) for n in range(40)]
    items += [item(f"e{n}", 0.0, task="ocr", parsed=("empty", "unparsable", "ok")[n % 3]) for n in range(9)]
    found = summarise(items, lambda each: each.task)
    assert list(found) == ["ocr", "vqa"]
    assert (found["vqa"]["n"], found["vqa"]["value"], found["vqa"]["similarity"]) == (40, 0.5, None)
    assert found["vqa"]["low"] < 0.5 < found["vqa"]["high"]
    assert (found["ocr"]["empty"], found["ocr"]["unparsable"], found["ocr"]["low"]) == (3, 3, None)
    assert found["ocr"]["mean_tokens"] == 2
