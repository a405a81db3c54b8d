"""Intervals against closed forms, scipy's own numbers and coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench import intervals
from bench.intervals import MIN_ITEMS, Estimate, disjoint, mean, share, weighted_mean

UNIT = st.floats(0, 1)


def wilson(successes: int, n: int, z: float = stats.norm.ppf(0.975)) -> tuple[float, float]:
    """E. B. Wilson (1927), written out."""
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


@settings(max_examples=50, deadline=None)
@given(n=st.integers(MIN_ITEMS, 2000), part=UNIT)
def test_zero_one_scores_get_wilsons_interval(n, part):
    successes = round(part * n)
    found = mean([1.0] * successes + [0.0] * (n - successes))
    assert found.value == pytest.approx(successes / n)
    assert (found.low, found.high) == pytest.approx(wilson(successes, n), abs=1e-12)


def test_a_known_value():
    # 81 of 263: the worked example of R. G. Newcombe, Statistics in Medicine 17 (1998), method 3: 0.2553 to 0.3662.
    found = mean([1.0] * 81 + [0.0] * 182)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize("n", [1, MIN_ITEMS - 1])
def test_too_few_items_have_no_interval(n):
    for found in (mean([0.5] * n), mean([1.0] * n), share([1] * n, [2] * n), weighted_mean(range(n), [1] * n)):
        assert found.n == n
        assert found.low is None
        assert found.high is None


@settings(max_examples=25, deadline=None)
@given(scores=st.lists(UNIT, min_size=MIN_ITEMS, max_size=80))
def test_the_mean_lies_inside_and_the_interval_inside_the_scores(scores):
    found = mean(scores)
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 1


def test_equal_items_do_not_claim_certainty():
    same = mean([0.5] * 100)
    assert (same.low, same.high) == pytest.approx((0.5 - 0.5 * wilson(0, 100)[1], 0.5 + 0.5 * wilson(0, 100)[1]))
    assert share([3] * 100, [3] * 100).low == pytest.approx(wilson(100, 100)[0])
    assert share([3] * 100, [3] * 100).high == 1
    assert share([0] * 100, [3] * 100).high == pytest.approx(wilson(0, 100)[1])


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_equal_items_of_a_mean_without_an_upper_bound_say_how_many_may_be_others(value):
    found = weighted_mean([2 * value] * 160, [2] * 160)
    assert (found.value, found.low, found.high) == (pytest.approx(value), None, None)
    # So few of 160 pictures would be others in one of twenty samples, were they that share of all: the rule of three.
    assert stats.binom.pmf(0, 160, found.unseen) == pytest.approx(0.05)
    assert found.unseen == pytest.approx(3 / 160, rel=0.02)
    pairs = weighted_mean([value] * 160, [1] * 160, [str(item // 2) for item in range(160)])
    assert pairs.unseen == pytest.approx(3 / 80, rel=0.03)  # the picture is the unit
    assert weighted_mean([value] * 29, [1] * 29).unseen is None
    assert weighted_mean(range(40), [1] * 40).unseen is None


def test_bounded_means_cover_what_they_promise():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(60):
        found = mean(rng.beta(2, 5, 60))
        hits += found.low <= 2 / 7 <= found.high
    assert hits >= stats.binom.ppf(0.001, 60, 0.93)


def test_tokens_of_one_answer_count_as_one_item():
    # Fifty answers whose ten tokens are all right or all wrong carry the evidence of fifty items, not of 500.
    hits = [10, 0] * 25
    clustered, naive = share(hits, [10] * 50), mean([1.0, 0.0] * 250)
    assert clustered.value == naive.value == 0.5
    assert clustered.high - clustered.low > 2.5 * (naive.high - naive.low)


def test_a_ratio_weighs_items_by_their_tokens():
    counts = [1, 9] * 30
    sums = [1.0, 0.0] * 30
    assert weighted_mean(sums, counts).value == pytest.approx(0.1)
    assert share([1, 0] * 30, counts).value == pytest.approx(0.1)


def test_the_same_items_give_the_same_interval():
    scores = np.random.default_rng(3).random(50)
    assert mean(scores) == mean(scores)


@pytest.mark.parametrize("scores", [[], [1.2] * 40, [math.nan] * 40, [-0.1] * 40])
def test_refuses_what_is_no_score(scores):
    with pytest.raises(ValueError, match="scores between 0 and 1"):
        mean(scores)


def test_refuses_impossible_counts():
    with pytest.raises(ValueError, match="trial"):
        share([2] * 40, [1] * 40)
    with pytest.raises(ValueError, match="count"):
        weighted_mean([1.0] * 40, [0] * 40)


def test_disjoint():
    low, middle, high = (Estimate(100, v, v - 0.1, v + 0.1) for v in (0.1, 0.25, 0.4))
    assert disjoint(low, high) is True
    assert disjoint(high, low) is True
    assert disjoint(low, middle) is False
    assert disjoint(low, Estimate(3, 0.5, None, None)) is None
    assert intervals.CONFIDENCE == 0.95


def test_items_of_one_picture_count_once():
    scores, pictures = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0] * 40, [str(item // 3) for item in range(240)]
    alone, clustered = mean(scores), mean(scores, pictures)
    assert alone.value == clustered.value == 0.5
    # Three items that always agree are one: the interval is as wide as that of a third of the items.
    wanted = mean([1.0, 0.0] * 40)
    assert clustered.high - clustered.low == pytest.approx(wanted.high - wanted.low, rel=0.1)
    assert mean(scores, [str(item) for item in range(240)]) == alone
    assert mean(scores, [str(item % 10) for item in range(240)]).low is None  # ten pictures


def test_pictures_with_more_items_weigh_more():
    scores, pictures = [1.0, *[0.0] * 3] * 40, [f"{item // 4} {item % 4 == 0}" for item in range(160)]
    assert mean(scores, pictures).value == 0.25
    assert share([2, 0, 0, 0] * 40, [2] * 160, pictures).value == 0.25
    assert weighted_mean([2, 0, 0, 0] * 40, [2] * 160, pictures).value == 0.25


def test_refuses_pictures_of_other_items():
    with pytest.raises(ValueError, match="not paired"):
        mean([1.0] * 40, ["a"] * 41)
