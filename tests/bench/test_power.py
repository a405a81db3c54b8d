"""The power formula against statsmodels, and a planted loss that is found where it says."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.power import NormalIndPower, TTestPower

from bench.change import ONE_SIDED, TWO_SIDED, bounds
from bench.power import blocks_needed, items_needed, smallest_margin
from bench.ratio import MIN_BLOCKS


def flips(rng: np.random.Generator, shape: tuple[int, ...], worse: float, better: float) -> np.ndarray:
    drawn = rng.random(shape)
    return ((drawn >= worse) & (drawn < worse + better)).astype(float) - (drawn < worse)


@pytest.mark.parametrize(("one_sided", "side"), [(True, "larger"), (False, "two-sided")])
def test_the_number_is_that_of_a_test_of_the_mean(one_sided, side):
    for distance, deviation in ((0.02, 0.17), (0.01, 0.22), (0.05, 0.3)):
        found = items_needed(distance, deviation, one_sided)
        plain = NormalIndPower(ddof=0).solve_power(
            distance / deviation, alpha=0.05, power=0.8, ratio=0, alternative=side
        )
        assert plain < found < plain + 2.1 / distance  # two flips more
        assert TTestPower().power(distance / deviation, found, 0.05, alternative=side) > 0.8


@pytest.mark.parametrize("share", [0.03, 0.06, 0.1])
def test_a_planted_loss_of_two_points_is_found_at_that_number(share):
    n = items_needed(0.02, math.sqrt(share - 0.02**2), one_sided=False)
    drawn = flips(np.random.default_rng(round(100 * share)), (1000, n), share / 2 + 0.01, share / 2 - 0.01)
    found = np.mean([bounds(changes, TWO_SIDED)[1] < 0 for changes in drawn])
    assert 0.76 <= found <= 0.92
    half = drawn[:, : n // 2]
    assert np.mean([bounds(changes, TWO_SIDED)[1] < 0 for changes in half]) < 0.65


@pytest.mark.parametrize(("share", "margin"), [(0.02, 0.01), (0.03, 0.02), (0.05, 0.02), (0.1, 0.05), (0.01, 0.05)])
def test_a_variant_without_a_loss_passes_its_margin_at_that_number(share, margin):
    n = items_needed(margin, math.sqrt(share))
    drawn = flips(np.random.default_rng(7), (800, n), share / 2, share / 2)
    assert np.mean([bounds(changes, ONE_SIDED)[0] > -margin for changes in drawn]) >= 0.72


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
def test_without_a_flip_the_rule_of_three_decides(margin):
    n = items_needed(margin, 0.0)
    assert bounds(np.zeros(n), ONE_SIDED)[0] > -margin
    if n > 60:
        assert bounds(np.zeros(n - 1), ONE_SIDED)[0] <= -margin


def test_more_scatter_or_a_nearer_margin_needs_more():
    assert items_needed(0.02, 0.1) < items_needed(0.02, 0.2) < items_needed(0.01, 0.2)
    assert items_needed(0.02, 0.2, power=0.5) < items_needed(0.02, 0.2)
    assert items_needed(-0.02, 0.2) == items_needed(0.02, 0.2)
    assert items_needed(0.0, 0.2) is None
    assert items_needed(1.0, 0.0) == items_needed(0.5, 5e-156) == 30
    with pytest.raises(ValueError, match="negative"):
        items_needed(0.1, -1.0)


@settings(max_examples=30, deadline=None)
@given(items=st.integers(30, 5000), deviation=st.floats(0, 0.5))
def test_the_smallest_margin_is_the_one_that_so_many_items_decide(items, deviation):
    margin = smallest_margin(items, deviation)
    if margin is None:
        assert items_needed(1.0, deviation) > items
    else:
        assert items_needed(margin, deviation) <= items
        assert margin < 0.0015 or items_needed(margin - 0.001, deviation) > items


def test_too_few_items_decide_no_margin():
    assert smallest_margin(29, 0.1) is None


def test_blocks_are_those_of_students_test():
    for distance, deviation in ((0.05, 0.05), (0.1, 0.04), (0.03, 0.06)):
        n = blocks_needed(distance, deviation, MIN_BLOCKS)
        wanted = TTestPower().solve_power(distance / deviation, alpha=0.05, power=0.8, alternative="two-sided")
        assert n == pytest.approx(max(MIN_BLOCKS, math.ceil(wanted)), abs=1)
    assert blocks_needed(0.001, 0.5, MIN_BLOCKS) is None
    assert blocks_needed(0.1, 0.0, MIN_BLOCKS) == MIN_BLOCKS
