"""Paired changes against statsmodels, closed forms and simulation: what is promised of a margin must hold."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from bench.change import ONE_SIDED, bounds, difference, rate, ratio
from bench.intervals import MIN_ITEMS, disjoint, mean

UNIT = st.floats(0, 1)


def alone(count: int) -> list[str]:
    """Each item has a picture of its own."""
    return [f"{item}" for item in range(count)]


def flips(rng: np.random.Generator, shape: tuple[int, ...], worse: float, better: float) -> np.ndarray:
    """-1, 0 and 1, with these shares."""
    drawn = rng.random(shape)
    return ((drawn >= worse) & (drawn < worse + better)).astype(float) - (drawn < worse)


def scored(changes: np.ndarray) -> tuple[list[float], list[float]]:
    """Scores of a baseline and of a variant that are these changes apart."""
    return np.maximum(-changes, 0).tolist(), np.maximum(changes, 0).tolist()


@settings(max_examples=50, deadline=None)
@given(n=st.integers(MIN_ITEMS, 3000), part=UNIT)
def test_a_rate_has_the_exact_interval(n, part):
    hits = round(part * n)
    found = rate([True] * hits + [False] * (n - hits), alone(n))
    assert found.value == pytest.approx(hits / n)
    assert (found.low, found.high) == pytest.approx(proportion_confint(hits, n, 0.05, "beta"), abs=1e-9)


@pytest.mark.parametrize("n", [30, 149, 160, 1000])
def test_no_flip_at_all_is_the_rule_of_three(n):
    found = difference([0.5] * n, [0.5] * n, alone(n))
    three = 1 - 0.05 ** (1 / n)
    assert (found.value, found.deviation) == (0, 0)
    assert (found.lower, found.upper) == pytest.approx((-three, three))
    assert three == pytest.approx(3 / n, rel=0.06)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / n))


def test_many_flips_have_students_interval():
    changes = flips(np.random.default_rng(0), (20_000,), 0.08, 0.05)
    found = difference(*scored(changes), alone(len(changes)))
    wanted = stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    width = wanted.high - wanted.low
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.03 * width)
    assert found.lower == pytest.approx(stats.ttest_1samp(changes, 0).confidence_interval(0.9).low, abs=0.03 * width)


def test_parts_of_a_score_have_students_interval_too():
    rng = np.random.default_rng(1)
    left, right = rng.random(5000), rng.random(5000)
    found = difference(left.tolist(), right.tolist(), alone(5000))
    wanted = stats.ttest_rel(right, left).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.02 * (wanted.high - wanted.low))


def test_items_of_one_picture_are_clustered_as_in_a_regression():
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 7, 1500)
    pictures = np.repeat(np.arange(1500), sizes)
    together = np.repeat(rng.random(1500) < 0.5, sizes)  # half of the pictures change as a whole
    own, shared = flips(rng, (len(pictures),), 0.1, 0.06), np.repeat(flips(rng, (1500,), 0.1, 0.06), sizes)
    changes = np.where(together, shared, own)
    found = difference(*scored(changes), [str(picture) for picture in pictures])
    fitted = sm.OLS(changes, np.ones(len(changes))).fit(cov_type="cluster", cov_kwds={"groups": pictures})
    low, high = fitted.conf_int()[0]
    assert found.value == pytest.approx(fitted.params[0])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    assert found.deviation == pytest.approx(fitted.bse[0] * math.sqrt(len(changes)), rel=0.03)
    assert (found.n, found.pictures) == (len(changes), 1500)
    plain = difference(*scored(changes), alone(len(changes)))
    assert plain.high - plain.low < 0.8 * (found.high - found.low)


def test_nothing_seen_in_shared_pictures_counts_pictures():
    few = difference([1.0] * 160, [1.0] * 160, [str(item // 4) for item in range(160)])
    assert few.lower == pytest.approx(-(1 - 0.05 ** (1 / 40)))
    assert few.pictures == 40


@pytest.mark.parametrize(
    ("n", "better", "margin"),
    [(60, 0.0, 0.05), (160, 0.0, 0.02), (160, 0.01, 0.02), (160, 0.04, 0.02), (400, 0.0, 0.01), (1600, 0.01, 0.01)],
)
def test_a_true_loss_of_the_margin_passes_in_five_percent(n, better, margin):
    # Student's t, on the same draws, passes up to four times as many.
    drawn = flips(np.random.default_rng([n, round(1000 * better)]), (1500, n), margin + better, better)
    passed = np.mean([bounds(changes, ONE_SIDED)[0] > -margin for changes in drawn])
    assert passed <= stats.binom.ppf(0.999, 1500, 0.052) / 1500
    means, errors = drawn.mean(1), drawn.std(1, ddof=1) / math.sqrt(n)
    students = np.mean(means - stats.t.ppf(0.95, n - 1) * errors > -margin)
    assert passed < students


@pytest.mark.parametrize("clustered", [0.0, 0.5, 1.0])
def test_so_it_does_in_shared_pictures(clustered):
    rng = np.random.default_rng(3)
    whole = rng.random((800, 100, 1)) < clustered
    changes = np.where(whole, flips(rng, (800, 100, 1), 0.04, 0.02), flips(rng, (800, 100, 4), 0.04, 0.02)).mean(2)
    passed = np.mean([bounds(each, ONE_SIDED)[0] > -0.02 for each in changes])
    assert passed <= stats.binom.ppf(0.999, 800, 0.05) / 800


def test_so_it_does_for_parts_of_a_score():
    rng = np.random.default_rng(4)
    for n in (60, 200, 1000):
        changes = flips(rng, (600, n), 0.34, 0.26) * rng.beta(1, 3, (600, n))  # a true change of -0.02
        passed = np.mean([bounds(each, ONE_SIDED)[0] > -0.02 for each in changes])
        assert 0.005 < passed <= stats.binom.ppf(0.999, 600, 0.05) / 600


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(UNIT, UNIT, st.integers(0, 60)), min_size=MIN_ITEMS, max_size=120))
def test_bounds_hold_the_value_and_turn_with_the_sides(pairs):
    left, right, pictures = (list(column) for column in zip(*pairs, strict=True))
    names = [str(picture) for picture in pictures]
    there, back = difference(left, right, names), difference(right, left, names)
    assert there.value == pytest.approx(-back.value)
    if there.pictures < MIN_ITEMS:
        assert (there.low, there.upper) == (None, None)
        return
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert -1 <= there.low <= there.lower <= there.value + 1e-9
    assert there.value - 1e-9 <= there.upper <= there.high <= 1


def test_pairing_is_worth_more_than_two_intervals():
    rng = np.random.default_rng(5)
    hard = rng.random(800)
    baseline, variant = hard.clip(0.03, 1), (hard - 0.02 + rng.normal(0, 0.01, 800)).clip(0, 1)
    assert difference(baseline.tolist(), variant.tolist(), alone(800)).high < 0
    assert not disjoint(mean(baseline.tolist()), mean(variant.tolist()))


def test_too_few_pictures_have_no_bounds():
    n = MIN_ITEMS - 1
    found = difference([0.0] * n, [1.0] * n, alone(n))
    assert (found.value, found.low, found.high, found.lower, found.upper) == (1, None, None, None, None)
    many = difference([0.0] * 100, [1.0] * 100, [str(item % n) for item in range(100)])
    assert (many.n, many.pictures, many.lower) == (100, n, None)
    assert rate([True] * n, alone(n)).low is None
    assert ratio([1.0] * n, [2.0] * n, alone(n)).low is None


def test_a_ratio_has_the_interval_of_the_delta_method():
    rng = np.random.default_rng(6)
    baseline = (rng.random(4000) < 0.8).astype(float)
    variant = np.where(rng.random(4000) < 0.05, 1 - baseline, baseline)
    found = ratio(baseline.tolist(), variant.tolist(), alone(4000), whole=1.0)
    value = variant.sum() / baseline.sum()
    error = np.std(variant - value * baseline, ddof=1) / math.sqrt(4000) / baseline.mean()
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=0.15 * error)


def test_a_ratio_of_lengths_covers():
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(300):
        before = rng.integers(1, 30, 160).astype(float)
        after = before * rng.choice([0.5, 1.0, 1.0, 1.0, 1.5], 160)
        found = ratio(before.tolist(), after.tolist(), alone(160))
        hits += found.low <= 1 <= found.high
    assert hits >= stats.binom.ppf(0.001, 300, 0.94)


def test_a_ratio_of_the_same_is_not_certain():
    scores = [1.0, 0.5] * 50
    found, change = ratio(scores, scores, alone(100), whole=1.0), difference(scores, scores, alone(100))
    assert found.value == 1
    assert (found.low, found.high) == pytest.approx((1 + change.low / 0.75, 1 + change.high / 0.75))
    assert ratio([0.0] * 40, [1.0] * 40, alone(40)) is None


def test_refuses_what_is_not_paired():
    with pytest.raises(ValueError, match="not paired"):
        difference([1.0] * 40, [1.0] * 41, alone(40))
    with pytest.raises(ValueError, match="not paired"):
        difference([1.0] * 40, [1.0] * 40, alone(41))
    with pytest.raises(ValueError, match="between 0 and 1"):
        difference([1.0] * 40, [1.2] * 40, alone(40))
    with pytest.raises(ValueError, match="between 0"):
        ratio([1.0] * 40, [-1.0] * 40, alone(40))
    with pytest.raises(ValueError, match="scores"):
        rate([], [])
