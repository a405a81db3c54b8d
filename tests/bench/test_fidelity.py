"""Teacher-forced agreement, KL and delta-p against slow, plain computations."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from bench import fidelity
from bench.fidelity import Forced, forced, hold, read, reference, save
from bench.workloads import ask
from shipvlm.runtime.checkpoint import load
from shipvlm.runtime.generate import generate
from shipvlm.runtime.probe import forced_logits
from shipvlm.runtime.sampling import Sampling
from tests.bench.made_records import records

ENDS = [3, 7]


def pair(seed: int, tokens: int, scale: float, vocabulary: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    left = rng.normal(size=(tokens, vocabulary)).astype(np.float32) * scale
    return left, left + rng.normal(size=left.shape).astype(np.float32) * scale / 3


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0.01, 1.0, 30.0]), st.booleans())
def test_all_three_equal_scipys(seed, tokens, scale, ended):
    left, right = pair(seed, tokens + ended, scale)
    answer = Forced(tuple(range(10, 10 + tokens)), ended)
    found = hold(reference(left, answer, ENDS), right, answer, ENDS)
    p, q = softmax(left.astype(float), -1), softmax(right.astype(float), -1)
    assert (found.kept, found.whole) == (50, True)
    assert found.kl == pytest.approx(rel_entr(p, q).sum(-1), rel=1e-3, abs=3e-6)
    wanted = [[token] for token in answer.token_ids] + [ENDS] * ended
    assert found.delta_p == pytest.approx(
        [q[row, ids].sum() - p[row, ids].sum() for row, ids in enumerate(wanted)], rel=1e-3, abs=1e-6
    )
    best = zip(left.argmax(-1), right.argmax(-1), strict=True)
    assert found.same == tuple(bool(a == b or {int(a), int(b)} <= set(ENDS)) for a, b in best)


@pytest.mark.parametrize("scale", [0.1, 2.0, 10.0])
def test_what_is_kept_of_a_large_vocabulary_bounds_kl_from_below(monkeypatch, scale):
    left, right = pair(1, 30, scale, 2000)
    answer = Forced(tuple(range(30)), False)
    truth = rel_entr(softmax(left.astype(float), -1), softmax(right.astype(float), -1)).sum(-1)
    bounds = []
    for kept in (1, 16, 256, 1024):
        monkeypatch.setattr(fidelity, "KEPT", kept)
        found = hold(reference(left, answer, ENDS), right, answer, ENDS)
        assert (found.kept, found.whole) == (kept, False)
        bounds.append(np.array(found.kl))
        assert (bounds[-1] <= truth * 1.0001 + 1e-6).all()
    assert all((more >= less * 0.9999 - 1e-6).all() for less, more in pairwise(bounds))
    whole = hold(reference(left, answer, ENDS, whole=True), right, answer, ENDS)
    assert whole.kl == pytest.approx(truth, rel=1e-3, abs=1e-5)


def test_the_same_logits_are_no_distance_apart_at_all():
    for vocabulary in (50, 5000):
        left, _ = pair(0, 8, 3.0, vocabulary)
        answer = Forced(tuple(range(7)), True)
        found = hold(reference(left, answer, ENDS), left.copy(), answer, ENDS)
        assert set(found.kl) == set(found.delta_p) == {0.0}
        assert all(found.same)


def test_a_model_that_finds_the_token_impossible_is_infinitely_far_and_says_so_in_delta_p():
    left = np.zeros((1, 10), np.float32)
    right = left.copy()
    right[0, 4] = -200
    found = hold(reference(left, Forced((4,), False), ENDS), right, Forced((4,), False), ENDS)
    p = softmax(left[0].astype(float))
    assert found.delta_p == pytest.approx([-0.1])
    assert found.kl[0] == pytest.approx(
        (p * (log_softmax(left[0]) - log_softmax(right[0].astype(float)))).sum(), rel=1e-5
    )


def test_references_are_found_again_by_their_run_and_damage_is_none(tmp_path):
    left, _ = pair(0, 3, 1.0)
    made = {
        f"odd/id {name}\0": reference(left[: 1 + name], Forced((1,) * (1 + name), False), ENDS) for name in range(3)
    }
    made = {name.rstrip("\0"): each for name, each in made.items()}
    path = tmp_path / "references.npz"
    assert read(path, "r") is None
    save(path, "r", made)
    found = read(path, "r")
    assert found is not None
    assert list(found) == list(made)
    for name, each in made.items():
        for field in fidelity.FIELDS:
            np.testing.assert_array_equal(getattr(found[name], field), getattr(each, field))
    assert read(path, "other") is None
    path.write_bytes(path.read_bytes()[:-40])
    assert read(path, "r") is None
    assert [each.name for each in tmp_path.iterdir()] == ["references.npz"]


def test_a_batch_is_forced_as_each_request_alone(tiny_checkpoint):
    model = load(tiny_checkpoint)
    requests = [ask(record) for record in records(5)]
    answers = [
        Forced((7, 8, 9), True),
        Forced((20,), False),
        Forced((), True),
        Forced((5, 6, 7, 8), True),
        Forced((4,), True),
    ]
    found = forced(model, requests, answers)
    assert [len(each) for each in found] == [4, 1, 1, 5, 2]
    for request, answer, logits in zip(requests, answers, found, strict=True):
        alone = forced_logits(model, request, [*answer.token_ids, 0][: len(logits)])
        np.testing.assert_allclose(logits, alone, rtol=0, atol=2e-5)


def test_forced_on_its_own_greedy_answer_a_model_says_that_answer(tiny_checkpoint):
    model = load(tiny_checkpoint)
    requests = [ask(record) for record in records(4)]
    said = generate(model, requests, Sampling(6))
    answers = [Forced(tuple(answer.token_ids), answer.finish == "end") for answer in said]
    for answer, logits in zip(answers, forced(model, requests, answers), strict=True):
        assert logits.argmax(-1).tolist()[: len(answer.token_ids)] == list(answer.token_ids)
        if answer.ended:
            assert logits[-1].argmax() in model.end_ids
