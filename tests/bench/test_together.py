"""Several checkpoints in one process, beside each other."""

import copy

import pytest

from bench import together
from bench.accuracy import ItemResult, read_log
from bench.together import measure, summarise
from quantize.rtn import round_to_nearest
from shipvlm.runtime.checkpoint import load
from tests.bench.made_records import records


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return load(tiny_checkpoint)


@pytest.fixture(scope="module")
def coarse(tiny_checkpoint):
    variant = load(tiny_checkpoint)
    round_to_nearest(variant.model, 3, None)
    return variant


def untimed(item: ItemResult) -> dict:
    return item.model_dump(exclude={"seconds"})


def test_measure_pairs_the_variants_with_the_baseline(checkpoint, coarse, tmp_path):
    data = records(8)
    models = {"base": checkpoint, "same": copy.copy(checkpoint), "coarse": coarse}
    runs = dict.fromkeys(models, "r")
    found = measure(models, data, tmp_path, runs, batch_size=3, max_new_tokens=6)
    assert [[item.id for item in items] for items in found.values()] == [[record.id for record in data]] * 3
    assert [item.answer for item in found["same"]] == [item.answer for item in found["base"]]
    for name in ("base", "same"):
        assert all(item.agreed == item.compared and item.kl == 0 for item in found[name])
    assert sum(item.kl for item in found["coarse"]) > 0.01
    assert all(item.compared == min(6, len(item.token_ids) + 1) for item in found["base"])
    assert [item.compared for item in found["coarse"]] == [item.compared for item in found["base"]]
    assert read_log(tmp_path / "coarse.jsonl", "r", data) == {item.id: item for item in found["coarse"]}


def test_measure_continues_where_it_was_cut_off(checkpoint, coarse, tmp_path, monkeypatch):
    data, models = records(6), {"base": checkpoint, "coarse": coarse}
    runs = {"base": "b", "coarse": "c"}
    whole = measure(models, data, tmp_path, runs, batch_size=3, max_new_tokens=4)
    log = tmp_path / "coarse.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:4]))

    answered = []
    real = together.answer
    monkeypatch.setattr(together, "answer", lambda c, *rest: answered.append(c) or real(c, *rest))
    again = measure(models, data, tmp_path, runs, batch_size=3, max_new_tokens=4)
    assert answered == [coarse]  # the baseline's answers are known
    for name, items in whole.items():
        assert [untimed(item) for item in again[name]] == [untimed(item) for item in items]


def test_the_summary_is_over_tokens_with_items_as_the_unit(checkpoint, coarse, tmp_path):
    data = records(32)
    items = measure(
        {"base": checkpoint, "coarse": coarse}, data, tmp_path, dict.fromkeys(("base", "coarse"), ""), 16, 4
    )
    found = summarise(items["coarse"], items["base"])
    tokens = sum(item.compared for item in items["coarse"])
    assert found["top1_agreement"]["value"] == pytest.approx(sum(i.agreed for i in items["coarse"]) / tokens)
    assert found["kl"]["value"] == pytest.approx(sum(i.kl for i in items["coarse"]) / tokens)
    assert found["kl"]["low"] < found["kl"]["value"] < found["kl"]["high"]
    assert summarise(items["base"], items["base"])["top1_agreement"]["value"] == 1
