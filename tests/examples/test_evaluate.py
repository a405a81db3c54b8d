"""The whole evaluation and the card, on the tiny random checkpoint and a few drawn records."""

import copy
import json
import re

import pytest
from PIL import Image

from bench.accuracy import ask, evaluate
from examples.tiny_qwen3_vl import evaluate as module
from examples.tiny_qwen3_vl import public_benchmark
from examples.tiny_qwen3_vl.card import FOLDER, render, write_card
from examples.tiny_qwen3_vl.failures import save_failures
from examples.tiny_qwen3_vl.verdict import ROUNDED
from shipvlm.errors import InputError
from shipvlm.runtime.checkpoint import load
from shipvlm.runtime.generate import generate
from shipvlm.runtime.sampling import Sampling
from tests.bench.made_records import records

SETS = {"calibration": records(8, seed=2), "evaluation": records(36), "heldout": records(8, seed=1)}
TRAINING = {
    "machine": "one made-up machine",
    "minutes": 12.34,
    "planned_minutes": 12.0,
    "steps": 5678,
    "pictures": 91011,
    "replayed": 22,
    "near_duplicates_rejected": 33,
    "easy_vqa_left_out": 44,
    "seed": 1,
    "torch": "2.0",
}
QUESTIONS = [("is there a red shape", "yes"), ("what colour is it", "red"), ("what is the total", "no")]


@pytest.fixture(scope="module")
def measured(tiny_checkpoint, tmp_path_factory):
    """The results of one run, its folder, and how often the model was asked in a second run."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_records", SETS.__getitem__)
        patch.setattr(module, "MAX_NEW_TOKENS", 12)
        # Widths of the random model that groups of 128 do not divide.
        patch.setitem(ROUNDED, "int4-group128", (4, 64))
        pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
        patch.setattr(public_benchmark, "public_test", lambda: [(*q, p) for q in QUESTIONS for p in pictures])

        def once() -> dict:
            return module.evaluate(tiny_checkpoint, folder / "results.json", folder / "build", ablation_items=8)

        results = once()
        patch.setattr("bench.together.answer", lambda *_: pytest.fail("asked again"))
        patch.setattr("bench.accuracy.generate", lambda *_: pytest.fail("asked again"))
        again = once()
    return results, again, folder


def test_every_part_is_measured(measured):
    results, _, folder = measured
    assert json.loads((folder / "results.json").read_text()) == measured[1]
    assert list(results["quantization"]["rows"]) == ["fp32", *ROUNDED]
    assert list(results["ablations"]) == ["fp32", "no-deepstack", "text-positions", "coarse-pictures"]
    assert results["ablations"]["fp32"]["score"]["all"]["n"] == 32
    assert results["evaluation"]["tasks"]["vqa (scenes)"]["n"] == 9
    assert results["heldout"]["tasks"]["ocr"]["n"] == 2
    assert {way: row["n"] for way, row in results["easy_vqa_test"].items()} == {
        "picture": 6,
        "question-only": 6,
        "blank-picture": 6,
    }
    assert results["data"]["calibration"]["records"] == 8


def test_coarser_weights_agree_less(measured):
    results, _, _ = measured
    agreement = [row["top1_agreement"]["value"] for row in results["quantization"]["rows"].values()]
    assert agreement[0] == 1
    assert agreement == sorted(agreement, reverse=True)
    assert results["quantization"]["verdict"]["top1_agreement"]["order_holds"] is True


def test_a_second_run_finds_everything_and_says_the_same(measured):
    results, again, _ = measured
    assert again == results


def test_the_rows_are_what_each_model_says_alone(measured, tiny_checkpoint):
    folder = measured[2]
    checkpoint = load(tiny_checkpoint)
    data = SETS["heldout"]
    lines = [json.loads(line) for line in (folder / "build/heldout/fp32.jsonl").read_text().splitlines()]
    alone = {
        r.id: answer.text
        for r, answer in zip(data, generate(checkpoint, [ask(r) for r in data], Sampling(12)), strict=True)
    }
    assert {line["id"]: line["answer"] for line in lines} == alone


def test_failures_are_the_lowest_scored_and_saved(tiny_checkpoint, tmp_path):
    data = records(16)
    items = evaluate(load(tiny_checkpoint), data, max_new_tokens=4)
    items = [item.model_copy(update={"value": 1.0 if item.task == "ocr" else 0.25}) for item in items]
    items[4] = items[4].model_copy(update={"value": 0.0})
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures" / "old.jpg").write_bytes(b"")
    found = save_failures(items, data, tmp_path / "failures")
    assert [entry["task"] for entry in found] == ["vqa", "vqa", "caption", "consistency"]
    assert found[0]["references"] == list(data[4].answers)
    assert sorted(path.name for path in (tmp_path / "failures").iterdir()) == sorted(
        entry["picture"].removeprefix("failures/") for entry in found
    )
    for entry in found:
        with Image.open(tmp_path / entry["picture"]) as image:
            assert image.format == "JPEG"


def test_the_card_says_what_was_measured(measured):
    results, _, _ = measured
    card = render(results, TRAINING)
    for word in ("one made-up machine", "12.3 minutes", "5,678 steps", "91,011 pictures", "INCONCLUSIVE", "CC0-1.0"):
        assert word in card
    for name in ("int4-group128", "no-deepstack", "question-only", "vqa (scenes)"):
        assert f"| {name} |" in card
    assert all(failure["picture"] in card for failure in results["failures"])


def test_the_code_in_the_card_runs_and_answers_as_we_do(measured, tiny_checkpoint, tmp_path, capsys):
    [code] = re.findall("```python\n(.*?)```", render(measured[0], TRAINING), re.DOTALL)
    [record] = records(1)
    path = tmp_path / "picture.png"
    path.write_bytes(record.image)
    code = code.replace("examples/tiny_qwen3_vl", str(tiny_checkpoint)).replace("picture.png", str(path))
    exec(code.replace("how many apples are there?", record.prompt), {})
    [answer] = generate(load(tiny_checkpoint), [ask(record)])
    assert capsys.readouterr().out.strip() == answer.text


def test_the_tables_of_the_card_are_whole(measured):
    card = render(measured[0], TRAINING)
    tables = [[line for line in block.splitlines() if line.startswith("|")] for block in card.split("\n\n")]
    tables = [table for table in tables if table]
    assert len(tables) == 9
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1, table
        assert set(table[1]) <= set("|-")
        assert len(table) > 2


def test_a_missing_number_is_an_error_and_not_a_gap(measured):
    results = copy.deepcopy(measured[0])
    del results["machine"]["cpu"]
    with pytest.raises(InputError, match="cpu"):
        render(results, TRAINING)
    with pytest.raises(InputError, match="steps"):
        render(measured[0], {key: value for key, value in TRAINING.items() if key != "steps"})


def test_a_card_is_written_from_files_and_only_from_a_whole_run(measured, tmp_path):
    for name, content in (("results.json", measured[0]), ("training.json", TRAINING)):
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "training_curve.csv").write_text("step,loss,lr\n1,5.5,0.1\n2,4.0,0.1\n3,3.0,0.1\n")
    write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == render(measured[0], TRAINING)
    with Image.open(tmp_path / "training_curve.png") as image:
        assert image.width > 300
    (tmp_path / "results.json").write_text(json.dumps({**measured[0], "limit": 3}))
    with pytest.raises(InputError, match="limited run"):
        write_card(tmp_path)
    (tmp_path / "training.json").unlink()
    with pytest.raises(InputError, match=r"training\.json is missing"):
        write_card(tmp_path)


def test_the_shipped_card_is_the_rendered_one():
    results, training = (json.loads((FOLDER / f"{name}.json").read_text()) for name in ("results", "training"))
    assert (FOLDER / "README.md").read_text() == render(results, training)
    for failure in results["failures"]:
        assert (FOLDER / failure["picture"]).is_file()
