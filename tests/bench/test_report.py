"""`shipvlm bench`: folders in, evidence out."""

import json
import shutil
import socket

import pytest

from bench import report as module
from bench.environment import checkpoint_digest, describe_weights
from bench.report import compare, percent, sample
from calib_data.scoring import Score, score
from quantize.checkpoint import quantize_checkpoint
from shipvlm.errors import InputError
from tests.bench.made_records import records

DATA = records(36)


@pytest.fixture(scope="module")
def folders(tiny_checkpoint, tmp_path_factory):
    other = tmp_path_factory.mktemp("w8") / "tiny-w8a16"
    quantize_checkpoint(tiny_checkpoint, "w8a16", other)
    return [tiny_checkpoint, other]


@pytest.fixture(autouse=True)
def made_data(monkeypatch):
    monkeypatch.setattr(module, "load_records", lambda name: DATA)
    monkeypatch.setattr(module, "MAX_NEW_TOKENS", 6)


@pytest.fixture(scope="module")
def compared(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_records", lambda name: DATA)
        patch.setattr(module, "MAX_NEW_TOKENS", 6)
        return compare(folders, None, out), out


def test_the_written_summary_is_derived_from_the_written_lines(compared):
    report, out = compared
    assert json.loads((out / "bench.json").read_text()) == report
    assert list(report["checkpoints"]) == ["qwen3_vl", "tiny-w8a16"]
    for name, entry in report["checkpoints"].items():
        lines = [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        assert {line["id"] for line in lines} == {record.id for record in DATA}
        by_id = {record.id: record for record in DATA}
        records_of = [by_id[line["id"]] for line in lines]
        values = [
            score(record.task, line["answer"], record.answers).value
            for record, line in zip(records_of, lines, strict=True)
        ]
        assert entry["score"]["all"]["value"] == pytest.approx(sum(values) / len(values))
        agreed, compared_tokens = (sum(line[field] for line in lines) for field in ("agreed", "compared"))
        assert entry["top1_agreement"]["value"] == pytest.approx(agreed / compared_tokens)


def test_the_baseline_differs_from_itself_by_nothing(compared):
    report, _ = compared
    baseline = report["checkpoints"][report["baseline"]]
    assert all(difference["value"] == 0 for difference in baseline["difference"].values())
    assert baseline["top1_agreement"]["value"] == 1
    assert baseline["kl"]["value"] == 0
    assert report["checkpoints"]["tiny-w8a16"]["kl"]["value"] > 0


def test_tasks_with_few_items_are_inconclusive_and_the_whole_is_not(compared):
    report, _ = compared
    entry = report["checkpoints"]["tiny-w8a16"]
    assert entry["score"]["ocr"]["low"] is None
    assert entry["score"]["all"]["low"] is not None


def test_the_table_says_what_was_computed_where(compared):
    report, out = compared
    text = (out / "bench.md").read_text()
    for word in ("tiny-w8a16", "INCONCLUSIVE", "float32", "noisy", report["machine"]["cpu"]):
        assert word in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_nothing_names_this_host_or_its_folders(compared):
    _, out = compared
    for path in out.iterdir():
        text = path.read_text()
        assert str(out.parent) not in text
        assert f'"{socket.gethostname()}"' not in text


def test_weights_are_counted_as_they_are_stored(compared, folders):
    report, _ = compared
    for folder in folders:
        weights = report["checkpoints"][folder.name]["weights"]
        assert weights["bytes"] == (folder / "model.safetensors").stat().st_size
    assert set(describe_weights(folders[0])["values"]) == {"F32"}
    assert "I32" in describe_weights(folders[1])["values"]


def test_a_second_run_asks_nothing_again(compared, folders, monkeypatch):
    report, out = compared
    monkeypatch.setattr("bench.fidelity.answer", lambda *_: pytest.fail("measured again"))
    again = compare(folders, 4, out)
    assert again["data"]["records"] == 16
    assert compare(folders, None, out)["checkpoints"] == report["checkpoints"]


def test_a_changed_scoring_rule_changes_the_numbers_of_a_finished_run(compared, folders, tmp_path, monkeypatch):
    out = shutil.copytree(compared[1], tmp_path / "report")
    monkeypatch.setattr("bench.fidelity.answer", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr("bench.accuracy.score", lambda *_: Score(0.125, "ok"))
    assert compare(folders, None, out)["checkpoints"]["qwen3_vl"]["score"]["all"]["value"] == 0.125


def test_one_folder_alone_is_only_scored(folders, tmp_path):
    report = compare(folders[:1], 2, tmp_path)
    assert list(report["checkpoints"]) == ["qwen3_vl"]
    assert report["data"]["task"] == {"caption": 2, "consistency": 2, "ocr": 2, "vqa": 2}


def test_refuses_what_cannot_be_compared(folders, tiny_checkpoint, tmp_path):
    twin = tmp_path / "qwen3_vl"
    shutil.copytree(tiny_checkpoint, twin)
    with pytest.raises(InputError, match="two folders are named"):
        compare([tiny_checkpoint, twin], None, tmp_path / "out")
    with pytest.raises(InputError, match="at least one"):
        compare([], None, tmp_path / "out")
    with pytest.raises(InputError):
        compare([tmp_path / "nothing"], None, tmp_path / "out")
    with pytest.raises(InputError, match="at least 1"):
        compare(folders, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sample_is_spread_evenly_over_each_task():
    chosen = sample(DATA, 3)
    assert [record.id for record in chosen if record.task == "vqa"] == ["made/0000", "made/0012", "made/0024"]
    assert len(chosen) == 12
    assert sample(DATA, None) == DATA
    assert len(sample(DATA, 10**6)) == len(DATA)
    with pytest.raises(InputError, match="no records"):
        sample([], 3)


def test_the_digest_sees_a_changed_weight_and_a_changed_template(tiny_checkpoint, tmp_path):
    before = checkpoint_digest(tiny_checkpoint)
    for name in ("model.safetensors", "chat_template.jinja", "preprocessor_config.json"):
        copy = tmp_path / name.replace(".", "-")
        shutil.copytree(tiny_checkpoint, copy)
        assert checkpoint_digest(copy) == before
        changed = bytearray((copy / name).read_bytes())
        changed[-1] ^= 1
        (copy / name).write_bytes(changed)
        assert checkpoint_digest(copy) != before


def test_the_digest_sees_a_processor_config(tiny_checkpoint, tmp_path):
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (copy / "processor_config.json").write_text("{}")
    first = checkpoint_digest(copy)
    (copy / "processor_config.json").write_text('{"image_processor": {}}')
    assert len({checkpoint_digest(tiny_checkpoint), first, checkpoint_digest(copy)}) == 3


def test_percent():
    assert percent({"n": 40, "value": 0.5, "low": 0.41, "high": 0.6}) == "50.0 [41.0, 60.0]"
    assert percent({"n": 40, "value": 0.02, "low": -0.01, "high": 0.05}, signed=True) == "+2.0 [-1.0, +5.0]"
    assert percent({"n": 4, "value": 0.5, "low": None, "high": None}) == "50.0 INCONCLUSIVE (n=4)"
