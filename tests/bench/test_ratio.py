"""Words for times: planted truths on machines with realistic noise, and the interval's coverage."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from bench.ratio import MARGIN, MIN_BLOCKS, compare
from tests.bench.made_times import MACHINES, MODERATE, Machine, made_blocks


def words(pace: float, machine: Machine, runs: int, blocks: int = 6, seed: int = 0) -> Counter[str]:
    """How often each word is said of a variant of this pace, on runs that are independent of each other."""
    rng = np.random.default_rng([seed, round(1000 * pace), blocks])
    found: Counter[str] = Counter()
    for _ in range(runs):
        baseline, variant, _, null = made_blocks(rng, (1.0, pace, 0.7, 1.0), machine, blocks)
        found[compare(baseline, variant, null).word] += 1
    return found


def around(value: float, spread: float, blocks: int = 6) -> list[dict[str, float]]:
    """Blocks whose log times alternate `spread` around those of `value` seconds."""
    return [{"a": value * math.exp(spread * (-1) ** block)} for block in range(blocks)]


@pytest.mark.parametrize("name", ["quiet", "moderate", "rough"])
def test_the_same_twice_is_same_or_ambiguous(name):
    found = words(1.0, MACHINES[name], 40)
    assert found["SAME"] + found["AMBIGUOUS"] >= 38


def test_ten_percent_slower_is_slower():
    found = words(1.1, MODERATE, 40)
    assert found["SLOWER"] >= 37
    assert found["FASTER"] + found["SAME"] == 0


def test_ten_percent_faster_is_faster():
    assert words(1 / 1.1, MODERATE, 20)["FASTER"] >= 17


def test_a_quiet_machine_can_say_same():
    assert words(1.0, MACHINES["quiet"], 20)["SAME"] >= 14


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_false_and_missed_differences(name):
    same = words(1.0, MACHINES[name], 100, seed=1)
    assert same["FASTER"] + same["SLOWER"] <= stats.binom.ppf(0.999, 100, 0.02), same
    slower = words(1.1, MACHINES[name], 40, seed=1)
    assert slower["FASTER"] + slower["SAME"] == 0
    if name not in ("drifting", "outliers", "rough"):
        assert slower["SLOWER"] >= 36, slower


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [MIN_BLOCKS, 8])
def test_the_interval_covers_what_it_promises(blocks):
    rng, hits, plain, runs = np.random.default_rng(blocks), 0, 0, 250
    for _ in range(runs):
        baseline, variant = made_blocks(rng, (1.0, 1.25), MODERATE, blocks)
        found = compare(baseline, variant)
        hits += found.low <= 0.8 <= found.high
        logs = [np.median([math.log(a[k] / b[k]) for k in a]) for a, b in zip(baseline, variant, strict=True)]
        drawn = rng.choice(logs, (2000, blocks)).mean(1)
        plain += np.quantile(drawn, 0.025) <= math.log(0.8) <= np.quantile(drawn, 0.975)
    assert hits >= stats.binom.ppf(0.001, runs, 0.94)
    assert plain < hits - 0.03 * runs  # why it is not the plain percentile bootstrap


def test_the_value_is_of_each_request_with_itself():
    baseline = [{"a": 1.0, "b": 9.0, "c": 4.0}] * 6
    variant = [{"a": 0.5, "b": 9.0, "c": 1.0}] * 6
    found = compare(baseline, variant, baseline)
    assert found.value == pytest.approx(2.0)
    assert (found.blocks, found.requests) == (6, 3)
    assert found.null.value == pytest.approx(1.0)
    assert found.word == "FASTER"


def test_the_interval_is_near_students():
    rng = np.random.default_rng(1)
    logs = rng.normal(0.2, 0.05, 30)
    found = compare([{"a": math.exp(value)} for value in logs], [{"a": 1.0}] * 30)
    wanted = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((wanted.low, wanted.high), abs=0.002)
    assert math.log(found.value) == pytest.approx(logs.mean())


def test_sides_turned_round_turn_the_ratio():
    rng = np.random.default_rng(2)
    baseline, variant, null = made_blocks(rng, (1.0, 1.3, 1.0))
    there, back = compare(baseline, variant, null), compare(variant, baseline)
    assert there.value == pytest.approx(1 / back.value)
    assert (there.low, there.high) == pytest.approx((1 / back.high, 1 / back.low), rel=0.01)


def test_too_few_blocks_are_ambiguous_whatever_they_say():
    for blocks in range(MIN_BLOCKS):
        found = compare([{"a": 1.0}] * blocks, [{"a": 0.5}] * blocks, [{"a": 1.0}] * blocks)
        assert found.word == "AMBIGUOUS"
        assert f"{blocks} whole blocks" in found.reason
        assert (found.low, found.high) == (None, None)
        assert (found.value is None) == (blocks == 0)
    assert compare([], [], []).null is None


def test_rejected_and_incomplete_blocks_leave_their_turn_out():
    whole = [{"a": 2.0, "b": 3.0}] * 7
    cut = [{"a": 1.0, "b": 1.5}] * 4 + [{}, {"a": 9.0}, {"a": 1.0, "b": 1.5}]
    found = compare(whole, cut, whole)
    assert (found.blocks, found.value, found.word) == (5, pytest.approx(2.0), "FASTER")
    assert compare(whole, cut[:4], whole).blocks == 4
    assert compare(whole, cut, cut[:4]).word == "AMBIGUOUS"
    assert "both runs of the baseline" in compare(whole, cut, cut[:4]).reason


def test_without_a_null_no_difference_is_called_one():
    baseline, variant = around(1.0, 0.0), around(0.5, 0.0)
    assert compare(baseline, variant).word == "AMBIGUOUS"
    assert "no further run" in compare(baseline, variant).reason
    assert compare(baseline, around(1.001, 0.0)).word == "SAME"


def test_a_difference_within_what_the_null_shows_is_none():
    baseline = around(1.0, 0.0)
    loud = [{"a": 1.0 + 0.06 * (-1) ** block} for block in range(6)]
    assert compare(baseline, around(1 / 1.05, 0.0), loud).word == "AMBIGUOUS"
    assert "no more than is seen without a change" in compare(baseline, around(1 / 1.05, 0.0), loud).reason
    assert compare(baseline, around(1 / 1.2, 0.0), loud).word == "FASTER"
    assert compare(baseline, around(1.2, 0.0), loud).word == "SLOWER"
    shifted = around(1.05, 0.001)  # the order makes 5 %: then nothing is known to be the same
    assert compare(baseline, baseline, shifted).word == "AMBIGUOUS"
    assert compare(baseline, around(1.04, 0.0), shifted).word == "AMBIGUOUS"
    assert compare(baseline, around(1 / 1.04, 0.0), shifted).word == "FASTER"


def test_each_open_case_says_why():
    baseline, null = around(1.0, 0.0), around(1.0, 0.001)
    assert "holds 1" in compare(baseline, around(1.01, 0.05), null).reason
    sure_but_small = compare(baseline, around(1.015, 0.006), null)
    assert (sure_but_small.word, sure_but_small.high < 1) == ("AMBIGUOUS", True)
    assert f"within {MARGIN:.0%}" in sure_but_small.reason


def test_an_open_comparison_says_how_many_blocks_would_decide():
    baseline = around(1.0, 0.0)
    few = compare(baseline, around(1.06, 0.09), baseline)
    assert few.word == "AMBIGUOUS"
    assert 6 < few.blocks_needed < 60
    more = around(1.06, 0.09, few.blocks_needed)
    again = compare(around(1.0, 0.0, len(more)), more, around(1.0, 0.0, len(more)))
    assert again.word == "SLOWER"
    assert again.blocks_needed is None
    assert compare(baseline, around(1.02, 0.3), baseline).blocks_needed is None  # hopeless


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_refuses_what_is_no_time(seconds):
    with pytest.raises(ValueError, match="above 0 seconds"):
        compare([{"a": seconds}] * 6, [{"a": 1.0}] * 6)


def test_the_same_blocks_give_the_same_answer_as_plain_data():
    rng = np.random.default_rng(3)
    blocks = made_blocks(rng, (1.0, 1.1, 1.0))
    found = compare(*blocks)
    assert found == compare(*blocks)
    assert found.as_dict()["null"]["n"] == 6
