"""Two results beside each other: paired from raw lines, refused where the data differ, times only where they may be."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import plan, report
from bench.compare import compare
from bench.compare_markdown import markdown
from bench.workloads import CASES
from shipvlm.errors import InputError
from tests.bench.made_run import CASE, MB, accuracy_lines, made_plan, made_run, timing_lines, write_run

COUNT = 80


def result(folder, pace=0.5, drift=1.0, wrong=(), changed=None, data=None, lines=None, **fields):
    """A run of a baseline, and graphs `pace` times as slow, on a machine `drift` times as slow; `fields`: its plan."""
    made, _, records = made_run(COUNT)
    data = records if data is None else data
    described = {name: made.variants[name] for name in ("original", "onnx", "null")}
    seed = int(100 * pace)
    said = {
        "original": timing_lines("original", drift, seed=seed) + accuracy_lines("original", data),
        "onnx": timing_lines("onnx", pace * drift, seed=seed) + accuracy_lines("onnx", data, wrong),
        "null": timing_lines("null", drift, seed=seed) + accuracy_lines("null", data),
    }
    write_run(folder, made_plan({**described, **(changed or {})}, data, **fields), said | (lines or {}))
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    made = result(tmp_path_factory.mktemp("first") / "result")
    report.rebuild(made)
    return made


def test_answers_are_paired_item_by_item(first, tmp_path):
    found = compare(first, result(tmp_path / "b", wrong=range(0, 40)))
    assert (found["items"], found["left"]["variant"]) == (COUNT, "onnx")
    assert found["difference"]["all"]["value"] == pytest.approx(-0.5)
    assert found["difference"]["all"]["word"] == "LOWER"
    assert (found["flips"]["worse"]["count"], found["flips"]["better"]["count"]) == (40, 0)
    back = compare(tmp_path / "b", first)
    assert back["difference"]["all"]["word"] == "HIGHER"
    json.dumps(found, allow_nan=False)


def test_the_score_is_made_of_the_answer_and_not_read(first, tmp_path):
    other = result(tmp_path / "b", wrong=range(0, 40))
    path = plan.log(other, "onnx")
    path.write_text(path.read_text().replace('"score":0.0', '"score":1.0'))
    assert compare(first, other)["difference"]["all"]["value"] == pytest.approx(-0.5)


def test_on_one_machine_the_word_is_of_what_changed_beside_the_baseline(first, tmp_path):
    found = compare(first, result(tmp_path / "b", pace=0.4))["times"][CASE.name]
    assert found["tpot"]["ratio"]["word"] == "FASTER"
    assert found["tpot"]["ratio"]["value"] == pytest.approx(0.5 / 0.4, rel=0.03)
    assert found["tpot"]["left"]["value"] / found["tpot"]["right"]["value"] == pytest.approx(0.5 / 0.4, rel=0.03)


def test_a_machine_that_became_slower_is_not_a_variant_that_did(first, tmp_path):
    found = compare(first, result(tmp_path / "b", pace=0.49, drift=1.1))["times"][CASE.name]["e2e"]["ratio"]
    assert found["value"] == pytest.approx(1 / 1.08, rel=0.03)
    assert found["word"] == "AMBIGUOUS"
    assert np.log(found["null"]["value"]) == pytest.approx(np.log(1 / 1.1), abs=0.02)


def test_on_two_machines_times_only_stand_beside_each_other(first, tmp_path):
    machine = {**plan.read(first).machine, "cpu": "Another processor"}
    found = compare(first, result(tmp_path / "b", pace=0.1, machine=machine))
    compared = found["times"][CASE.name]["e2e"]
    assert (compared["ratio"]["word"], compared["ratio"]["value"]) == ("AMBIGUOUS", None)
    assert "cpu A processor and Another processor" in compared["ratio"]["reason"]
    assert compared["right"]["value"] < compared["left"]["value"]
    assert found["difference"]["all"]["word"] == "NO DIFFERENCE SEEN"
    text = markdown(found)
    assert "| AMBIGUOUS " in text
    assert "- machine: cpu A processor and Another processor" in text


def timed(folder, boot):
    lines = {
        name: timing_lines(name, pace, boot=boot) for name, pace in {"original": 1, "onnx": 0.1, "null": 1}.items()
    }
    return result(folder, lines=lines, phases=("timing",))


@pytest.mark.parametrize("boot", ["bbbbbbbbbbbb", None])
def test_two_machines_may_have_one_name(first, tmp_path, boot):
    """Rented hosts say no more of themselves than their processor's family: an artifact was once called FASTER than the
    same one on another such host."""
    found = compare(first, timed(tmp_path / "b", boot))
    assert found["times"][CASE.name]["e2e"]["ratio"]["word"] == "AMBIGUOUS"
    assert "machine: not known to be one, or not since its last start" in found["differs"]


def test_variants_of_one_run_were_measured_where_it_was(tmp_path):
    same = timed(tmp_path / "b", None)
    found = compare(same, same, "original", "onnx")
    assert found["times"][CASE.name]["e2e"]["ratio"]["word"] == "FASTER"
    assert found["differs"] == []


def test_another_baseline_or_library_makes_times_ambiguous(first, tmp_path):
    other = plan.read(first).variants["original"].model_copy(update={"digest": "1" * 64})
    found = compare(first, result(tmp_path / "b", changed={"original": other}, libraries={"torch": "2.13.1"}))
    assert "baseline: another digest" in found["differs"]
    assert "library: torch 2.13.0 and 2.13.1" in found["differs"]
    assert "library: onnxruntime 1.31.1 and nothing" in found["differs"]


def test_data_that_differ_are_refused_by_name(first, tmp_path):
    data = made_run(COUNT)[2]
    with pytest.raises(InputError, match=f"{COUNT - 79} items are in .*result alone, the first {data[-1].id}"):
        compare(first, result(tmp_path / "fewer", data=data[:-1]))
    other = [data[0].model_copy(update={"image": data[4].image}), *data[1:]]
    with pytest.raises(InputError, match=f"the picture of item {data[0].id} is not the same"):
        compare(first, result(tmp_path / "picture", data=other))
    other = [data[0].model_copy(update={"prompt": "what else"}), *data[1:]]
    with pytest.raises(InputError, match=f"the prompt of item {data[0].id}"):
        compare(first, result(tmp_path / "prompt", data=other))


def test_times_are_compared_whatever_the_data_where_one_has_nothing_else(first, tmp_path):
    data = made_run(COUNT)[2][:-1]
    lines = {"original": timing_lines("original"), "onnx": timing_lines("onnx"), "null": timing_lines("null")}
    timed = result(tmp_path / "timed", data=data, lines=lines, phases=("timing",))
    words = [compare(*pair)["times"][CASE.name]["e2e"]["ratio"]["word"] for pair in ((first, timed), (timed, first))]
    assert words == ["SLOWER", "FASTER"]
    found = compare(first, timed)
    assert found["items"] == 0
    assert "difference" not in found
    assert "No item was answered in both" in markdown(found)


def test_what_one_was_cut_off_before_is_said(first, tmp_path):
    data = made_run(COUNT)[2]
    part = timing_lines("onnx") + accuracy_lines("onnx", data[:50])[:-1]
    found = compare(first, result(tmp_path / "b", lines={"onnx": part}))
    assert (found["items"], found["planned"]) == (50, COUNT)
    text = " ".join(markdown(found).split())
    assert f"50 of {COUNT} items were answered in both" in text
    assert text.count("INCONCLUSIVE") == len(found["difference"]) - 1  # a word a task
    assert f"{tmp_path / 'b'} is not complete: 30 answers (onnx) are missing; the same command goes on there" in text


def test_a_run_that_was_cut_off_is_found_where_it_was_to_be(first, tmp_path):
    """Before its answers began, its times are there."""
    result(tmp_path / ".b.partial", lines={"onnx": timing_lines("onnx", 0.5, seed=50, blocks=5)})
    found = compare(first, tmp_path / "b")
    assert (found["items"], "score" in found) == (0, False)
    assert found["times"][CASE.name]["e2e"]["ratio"]["word"] == "SAME"
    text = markdown(found)
    assert f"No item was answered in both: {tmp_path / 'b'} has no answers of onnx" in text
    assert f"1 block of times and {COUNT} answers (onnx) are missing" in text
    with pytest.raises(InputError, match=r"nothing was measured in both .*c is not complete: 6 blocks of times and 80"):
        compare(first, result(tmp_path / "c", lines={"onnx": []}))


def test_variants_are_chosen_by_name(first):
    found = compare(first, first / "bench.json", "original", "onnx")
    assert (found["left"]["variant"], found["right"]["variant"]) == ("original", "onnx")
    assert found["times"][CASE.name]["e2e"]["ratio"]["word"] == "FASTER"
    with pytest.raises(InputError, match="no variant 'int8', it has original, onnx, null"):
        compare(first, first, "int8", None)


def test_what_was_typed_is_named_where_nothing_is(first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("nothere", "nothere/bench.json"):
        with pytest.raises(InputError, match=f"^{name}: holds no result"):
            compare(first, Path(name))


def with_settings(**settings):
    """The plan's settings, and its own fields where it has them."""
    made = made_plan(made_run(COUNT)[0].variants, made_run(COUNT)[2])
    fields = {"repeats": "repeats", "latency_items": "requests"}
    own = {fields[name]: value for name, value in settings.items() if name in fields}
    return {"settings": made.settings | settings, **own}


def test_answers_of_other_lengths_are_refused(first, tmp_path):
    with pytest.raises(InputError, match=r"bench\.max_new_tokens is 64 in .* and 4 in .*: measure both with the same"):
        compare(first, result(tmp_path / "b", **with_settings(max_new_tokens=4)))


@pytest.mark.parametrize(("name", "value"), [("threads", 1), ("warmup", 2), ("repeats", 3), ("latency_items", 9)])
def test_times_taken_otherwise_are_ambiguous(first, tmp_path, name, value):
    found = compare(first, result(tmp_path / "b", pace=0.1, **with_settings(**{name: value})))
    before = plan.read(first).settings[name]
    assert found["differs"] == [f"setting: {name} {'nothing' if before is None else before} and {value}"]
    assert found["times"][CASE.name]["e2e"]["ratio"]["word"] == "AMBIGUOUS"
    assert found["difference"]["all"]["word"] == "NO DIFFERENCE SEEN"


def test_another_batch_of_answers_is_said(first, tmp_path):
    found = compare(first, result(tmp_path / "b", **with_settings(batch_size=4)))
    assert found["difference"]["all"]["word"] == "NO DIFFERENCE SEEN"
    assert found["differs"] == []
    assert "batch_size is 16 and 4: what an answer is computed beside may change it" in markdown(found)


def test_workloads_of_one_alone_are_said(first, tmp_path):
    caption = CASES["caption"]
    lines = {"onnx": timing_lines("onnx", case="caption") + accuracy_lines("onnx", made_run(COUNT)[2])}
    found = compare(first, result(tmp_path / "b", cases=(caption,), lines=lines))
    assert found["times"] == {}
    assert found["memory_phase"] == "accuracy"  # what was timed is not the same
    assert "Times of vqa-small, caption were not measured in both" in markdown(found)


def test_peak_memory_is_of_one_phase_in_both(first, tmp_path):
    found = compare(first, first)
    assert found["memory_phase"] == "timing"
    assert [found[side]["memory"]["peak"] for side in ("left", "right")] == [900 * MB] * 2
    only = result(tmp_path / "answers", phases=("accuracy",))
    found = compare(first, only)
    assert found["memory_phase"] == "accuracy"
    assert [found[side]["memory"]["peak"] for side in ("left", "right")] == [1200 * MB] * 2
    assert "peak memory while answers are scored" in markdown(found)


def test_peaks_of_other_work_do_not_stand_beside_each_other(tmp_path):
    plain = result(tmp_path / "a", phases=("accuracy",))
    found = compare(plain, result(tmp_path / "b", phases=("accuracy",), **with_settings(batch_size=4)))
    assert found["memory_phase"] is None
    assert (found["left"]["memory"], found["right"]["memory"]) == (None, None)
    assert "Peak memory is not compared: no phase was measured alike in both" in markdown(found)


def test_the_nulls_smaller_batches_are_no_less_memory(tmp_path):
    answers = result(tmp_path / "a", phases=("accuracy",))
    assert compare(answers, answers, "original", "null")["memory_phase"] is None
    assert compare(answers, answers, "original", "onnx")["memory_phase"] == "accuracy"


def test_other_engines_of_the_candidates_are_shown(first):
    assert "| engine " in markdown(compare(first, first, "original", "onnx"))
    assert "| engine " not in markdown(compare(first, first))
