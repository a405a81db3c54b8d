"""Every filter against transformers' own, and what is drawn against the probabilities it is drawn from."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import softmax
from scipy.stats import chisquare
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from shipvlm.errors import ExecutionError, InputError
from shipvlm.runtime.sampling import Sampling, choose, penalise, warp

# Distinct values: which of two equal tokens transformers drops depends on its sort.
LOGITS = arrays.arrays(
    np.float32, st.integers(2, 60), elements=st.integers(-3000, 3000).map(lambda value: value / 128), unique=True
)


@given(logits=LOGITS, data=st.data())
def test_the_penalty_is_that_of_transformers(logits: np.ndarray, data: st.DataObject) -> None:
    seen = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=20))
    penalty = data.draw(st.floats(0.5, 3.0))
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([seen], dtype=torch.long), torch.tensor(logits)[None]
    )
    np.testing.assert_allclose(penalise(logits, seen, penalty), theirs[0].numpy(), rtol=1e-6)


@given(
    logits=LOGITS,
    temperature=st.floats(0.05, 5.0),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.01, 1.0),
)
def test_the_warpers_are_those_of_transformers(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float
) -> None:
    theirs = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        theirs.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        theirs.append(TopPLogitsWarper(top_p))
    wanted = theirs(torch.zeros(1, 0, dtype=torch.long), torch.tensor(logits)[None].double())[0].numpy()
    wanted = wanted - wanted.max()  # ours are below the highest
    found = warp(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    # In float64 here, so that which side of top_p a token is on does not hang on the last bit of a sum.
    edge = np.abs(_mass_above(logits / temperature, top_k) - top_p).min() < 1e-5
    if not edge:
        np.testing.assert_array_equal(np.isinf(found), np.isinf(wanted))
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def _mass_above(scores: np.ndarray, top_k: int) -> np.ndarray:
    """Sums of the probabilities of the most likely tokens among the top k."""
    ordered = np.sort(scores.astype(np.float64))[::-1][: top_k or None]
    return np.cumsum(softmax(ordered))


@given(seed=st.integers(0, 1000), top_k=st.sampled_from([1, 2, 20, 500, 2999, 3000]), ties=st.booleans())
def test_top_k_of_a_large_vocabulary_is_that_of_transformers(seed: int, top_k: int, ties: bool) -> None:
    logits = np.random.default_rng(seed).normal(size=3000).astype(np.float32)
    logits = logits.round(1) if ties else logits
    wanted = TopKLogitsWarper(top_k)(torch.zeros(1, 0, dtype=torch.long), torch.tensor(logits)[None])[0].numpy()
    found = warp(logits, Sampling(temperature=1, top_k=top_k))
    np.testing.assert_array_equal(found, wanted.astype(np.float64) - logits.max())


def test_equal_tokens_stay_or_go_together() -> None:
    logits = np.array([2, 2, 2, 0, 0], np.float32)
    assert np.isfinite(warp(logits, Sampling(temperature=1, top_p=0.4))).tolist() == [True] * 3 + [False] * 2
    assert np.isfinite(warp(logits, Sampling(temperature=1, top_k=1))).tolist() == [True] * 3 + [False] * 2


def test_draws_have_the_probabilities_of_the_scores() -> None:
    logits = np.array([1.0, -2.0, 0.5, 3.0, 2.5, -1.0], np.float32)
    settings = Sampling(temperature=1.3, top_k=5)
    rows, draw = 20_000, np.random.default_rng(0)
    tokens = choose(np.tile(logits, (rows, 1)), [[]] * rows, settings, [draw] * rows)
    counts = np.bincount(tokens, minlength=6)
    wanted = softmax(warp(logits, settings).astype(np.float64))
    assert counts[1] == 0
    assert chisquare(counts[wanted > 0], rows * wanted[wanted > 0]).pvalue > 0.001


@given(rows=st.integers(1, 4), seed=st.integers(0, 100))
def test_greedy_is_the_highest_logit_and_leaves_the_logits_alone(rows: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(rows, 50)).astype(np.float32)
    logits.flags.writeable = False
    draws = [np.random.default_rng(0)] * rows
    assert choose(logits, [[]] * rows, Sampling(), draws).tolist() == logits.argmax(-1).tolist()
    choose(logits, [[1, 2]] * rows, Sampling(temperature=1, top_k=3, top_p=0.5, repetition_penalty=1.2), draws)


@pytest.mark.filterwarnings("error")
@given(
    logits=LOGITS, temperature=st.sampled_from([5e-324, 1e-310, 1e-46, 1e-39, 1e-6]), top_p=st.sampled_from([0.5, 1])
)
def test_a_tiny_temperature_is_greedy(logits: np.ndarray, temperature: float, top_p: float) -> None:
    cold = Sampling(temperature=temperature, top_k=5, top_p=top_p)
    draws = [np.random.default_rng(seed) for seed in range(5)]
    assert set(choose(np.tile(logits, (5, 1)), [[]] * 5, cold, draws).tolist()) == {int(logits.argmax())}


@pytest.mark.filterwarnings("error")
def test_tokens_that_are_equally_likely_stay_so_when_it_is_cold() -> None:
    logits = np.tile(np.array([3, 1, 3], np.float32), (50, 1))
    draws = [np.random.default_rng(seed) for seed in range(50)]
    assert set(choose(logits, [[]] * 50, Sampling(temperature=1e-39), draws).tolist()) == {0, 2}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("worst", [np.nan, np.inf])
def test_a_row_that_is_not_a_number_is_refused(worst: float) -> None:
    logits = np.zeros((2, 5), np.float32)
    logits[1, 3] = worst
    for temperature in (0, 1):
        with pytest.raises(ExecutionError, match="NaN or infinite"):
            choose(logits, [[], []], Sampling(temperature=temperature), [np.random.default_rng(0)] * 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"stop": ("",)},
        {"stop": "word"},
    ],
    ids=str,
)
def test_refuses_values_out_of_range(wrong: dict) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(**wrong)
