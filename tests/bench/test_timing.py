"""Latency from raw answers: the formulas by hand, the intervals by the binomial distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.observations import Stages
from bench.timing import PERCENTILES, by_request, median_of, speedup, summarise, times
from tests.bench.made_lines import answered
from tests.bench.made_records import records

DATA = records(70)


def test_what_each_time_is():
    stages = Stages(preprocess=0.010, vision=0.020, prefill=0.040, decode=(0.005, 0.006, 0.007))
    found = times(answered(DATA[0], stages=stages, wall=0.1))
    assert found == pytest.approx(
        {
            "ttft": 0.070,
            "tpot": (0.1 - 0.070) / 3,  # four tokens
            "e2e": 0.1,
            "preprocess": 0.010,
            "vision": 0.020,
            "prefill": 0.040,
            "decode": 0.018,
            "other": 0.012,
        }
    )


def test_an_answer_of_one_token_has_no_time_per_further_token():
    found = times(answered(DATA[0], stages=Stages(preprocess=0.01, vision=0, prefill=0.04, decode=())))
    assert "tpot" not in found
    requests = by_request([answered(DATA[0], stages=Stages(preprocess=0.01, vision=0, prefill=0.04, decode=()))])
    assert summarise(requests, "tpot") is None
    assert speedup(requests, requests, "tpot") is None
    assert speedup(requests, requests, "ttft") == {"n": 1, "value": 1.0, "low": None, "high": None}


def test_repeats_and_blocks_are_one_value():
    walls = [0.3, 0.1, 0.2, 0.9]
    lines = [answered(DATA[0], block=i // 2, repeat=i % 2, wall=wall) for i, wall in enumerate(walls)]
    assert by_request(lines)["made/0000"]["e2e"] == pytest.approx(np.median(walls))


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=80, unique=True))
def test_the_interval_of_a_median_is_made_of_order_statistics(values):
    found, ordered, n = median_of(values), sorted(values), len(values)
    assert found.value == np.median(values)
    places = [k for k in range(n) if stats.binom.cdf(k, n, 0.5) <= 0.025]
    if not places:
        assert n < 6
        assert (found.low, found.high) == (None, None)
    else:
        assert (found.low, found.high) == (ordered[places[-1]], ordered[n - 1 - places[-1]])


def test_percentiles_need_enough_requests():
    for name, (percentile, fewest) in PERCENTILES.items():
        enough = {str(index): {"e2e": float(index)} for index in range(fewest)}
        assert summarise(enough, "e2e")[name] == pytest.approx(np.percentile(range(fewest), percentile))
        enough.popitem()
        assert summarise(enough, "e2e")[name] is None


def test_only_requests_that_both_have_are_compared():
    left = {"a": {"e2e": 2.0}, "b": {"e2e": 9.0}}
    right = {"a": {"e2e": 1.0}, "c": {"e2e": 1.0}}
    assert speedup(left, right, "e2e") == {"n": 1, "value": 2.0, "low": None, "high": None}
