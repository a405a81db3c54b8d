"""Teacher-forced agreement and KL against slow, plain computations."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr

from bench import fidelity
from bench.accuracy import ItemResult, ask, read_log
from bench.fidelity import answer_logits, compare, measure, summarise
from bench.vision import shared_vision
from quantize.rtn import round_to_nearest
from shipvlm.runtime.checkpoint import load, prepare
from shipvlm.runtime.generate import generate
from shipvlm.runtime.sampling import Sampling
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


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 6), scale=st.sampled_from([0.01, 1.0, 30.0]))
def test_kl_and_agreement_equal_scipys(seed, tokens, scale):
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(2, tokens, 50)).astype(np.float32) * scale
    found = compare(torch.from_numpy(left), torch.from_numpy(right))
    p, q = (np.exp(log_softmax(x.astype(np.float64), -1)) for x in (left, right))
    assert found.compared == tokens
    assert found.agreed == (left.argmax(-1) == right.argmax(-1)).sum()
    assert found.kl == pytest.approx(rel_entr(p, q).sum(), rel=1e-6, abs=1e-9)


def test_a_model_agrees_with_itself():
    logits = torch.randn(5, 40)
    assert compare(logits, logits) == fidelity.Agreement(5, 5, 0.0)


def test_forced_logits_are_those_of_one_plain_forward_each(checkpoint):
    requests = [ask(record) for record in records(5)]
    answers = [[7, 8, 9], [20], [30, 31], [5, 6, 7, 8], [40, 41]]
    with shared_vision([checkpoint.model]):
        found = answer_logits(checkpoint, prepare(checkpoint, requests), answers)
    for request, answer, logits in zip(requests, answers, found, strict=True):
        inputs = prepare(checkpoint, [request])
        prompt = inputs["input_ids"].shape[1]
        words = torch.tensor([answer])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], words], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(words)], 1)
        with torch.inference_mode():
            plain = checkpoint.model(**inputs).logits[0, prompt - 1 : -1]
        torch.testing.assert_close(logits, plain, rtol=0, atol=2e-5)


def test_forced_on_its_own_greedy_answer_a_model_says_that_answer(checkpoint):
    requests = [ask(record) for record in records(4)]
    answers = [answer.token_ids for answer in generate(checkpoint, requests, Sampling(6))]
    logits = answer_logits(checkpoint, prepare(checkpoint, requests), answers)
    assert [each.argmax(-1).tolist() for each in logits] == answers


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
    real = fidelity.answer
    monkeypatch.setattr(fidelity, "answer", lambda c, *rest: answered.append(c) or real(c, *rest))
    again = measure(models, data, tmp_path, runs, batch_size=3, max_new_tokens=4)
    assert answered == [coarse]  # the baseline's answers are known
    for name, items in whole.items():
        assert [untimed(item) for item in again[name]] == [untimed(item) for item in items]


def test_the_summary_is_over_tokens_with_items_as_the_unit(checkpoint, coarse, tmp_path):
    data = records(32)
    items = measure(
        {"base": checkpoint, "coarse": coarse}, data, tmp_path, dict.fromkeys(("base", "coarse"), ""), 16, 4
    )
    found = summarise(items["coarse"])
    tokens = sum(item.compared for item in items["coarse"])
    assert found["top1_agreement"]["value"] == pytest.approx(sum(i.agreed for i in items["coarse"]) / tokens)
    assert found["kl"]["value"] == pytest.approx(sum(i.kl for i in items["coarse"]) / tokens)
    assert found["kl"]["low"] < found["kl"]["value"] < found["kl"]["high"]
    assert summarise(items["base"])["top1_agreement"]["value"] == 1
