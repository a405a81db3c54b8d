"""The measures against scipy, and where they could mislead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import distance
from scipy.special import softmax
from scipy.stats import entropy

from convert import measures
from convert.measures import compare, compare_logits, joined, summary

floats = st.floats(-50, 50, width=32)
pairs = arrays(np.float32, (2, 5, 7), elements=floats)


@given(pairs)
def test_vectors_as_scipy_has_them(pair: np.ndarray) -> None:
    pair = pair + np.arange(1, 8, dtype=np.float32) * 60  # none is zero
    found = compare(*pair)
    for row, (left, right) in enumerate(zip(*pair.astype(np.float64), strict=True)):
        assert found["cosine"][row] == pytest.approx(1 - distance.cosine(left, right), abs=1e-12)
        assert found["error"][row] == pytest.approx(distance.euclidean(left, right) / np.linalg.norm(left), rel=1e-12)
        assert found["max_abs"][row] == distance.chebyshev(left, right)


@given(pairs)
def test_logits_as_scipy_has_them(pair: np.ndarray) -> None:
    found = compare_logits(*pair)
    p, q = softmax(pair.astype(np.float64), axis=-1)
    np.testing.assert_allclose(found["kl"], entropy(p, q, axis=-1), rtol=1e-6, atol=1e-9)
    assert np.array_equal(found["same"], pair[0].argmax(-1) == pair[1].argmax(-1))
    rows = np.arange(5)
    margin = np.log(p.max(-1)) - np.log(p[rows, pair[1].argmax(-1)])
    np.testing.assert_allclose(found["margin"], margin, rtol=1e-6, atol=1e-9)
    assert not found["margin"][found["same"]].any()


def test_rows_of_any_shape_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = np.random.default_rng(0).standard_normal((2, 3, 4, 5), np.float32)
    whole = compare_logits(left, right)
    monkeypatch.setattr(measures, "BLOCK", 8)  # one row at a time
    for name, rows in compare_logits(left, right).items():
        assert rows.shape == (12,)
        assert np.array_equal(rows, whole[name])


def test_a_wrong_length_is_an_error_though_the_cosine_is_1() -> None:
    left = np.array([[3.0, 4.0]], np.float32)
    found = compare(left, left * 1.5)
    assert found["cosine"] == pytest.approx(1)
    assert found["error"] == pytest.approx(0.5)


def test_zeros() -> None:
    zero, one = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert (compare(zero, zero)["cosine"], compare(zero, zero)["error"]) == (1, 0)
    assert (compare(one, zero)["cosine"], compare(one, zero)["error"]) == (0, 1)
    assert (compare(zero, one)["cosine"], compare(zero, one)["error"]) == (0, np.inf)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_not_hidden(wrong: float) -> None:
    left, right = np.ones((2, 2, 3), np.float32)
    right[1, 2] = wrong
    found = compare_logits(left, right)
    assert not found["cosine"].min() >= -1
    assert not found["error"].max() <= 1e9
    assert summary(found)["cosine"] is None


def test_summary_of_joined_rows() -> None:
    parts = [compare_logits(np.eye(3), np.eye(3)), compare_logits(np.eye(3), np.roll(np.eye(3), 1, 0))]
    found = summary(joined(parts))
    assert (found["rows"], found["cosine"], found["top1"], found["max_abs"]) == (6, 0, 0.5, 1)
    assert found["max_error"] == pytest.approx(2**0.5, rel=1e-5)
    assert found["rms_error"] == pytest.approx(1)
    assert found["kl_max"] == pytest.approx((np.e - 1) / (np.e + 2), rel=1e-5)
    assert found["kl_mean"] == pytest.approx((np.e - 1) / (np.e + 2) / 2, rel=1e-5)


def test_different_shapes_are_no_comparison() -> None:
    with pytest.raises(AssertionError):
        compare(np.zeros((2, 3)), np.zeros((1, 3)))
