"""Latency from timed requests: the formulas by hand, the intervals by the binomial distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.observations import Loaded, Memory, Stages, Timed
from bench.timing import PERCENTILES, blocks, cold_start, median_of, percentile, summarise, times

MEMORY = Memory(rss=1, anon=1, file=0, peak_rss=1, peak_anon=1, peak_file=0)


def timed(wall: float = 0.1, name: str = "a", block: int = 0, repeat: int = 0, tokens: int = 4) -> Timed:
    stages = Stages(
        preprocess=0.010, vision=0.020, prefill=0.040, decode=(0.005, 0.006, 0.007)[: tokens - 1], detokenise=0.001
    )
    return Timed(
        run="r",
        variant="v",
        phase="timing",
        block=block,
        case="vqa-small",
        repeat=repeat,
        id=name,
        prompt_sha256=("p",),
        image_sha256=("i",),
        prompt_tokens=(9,),
        patches=(16,),
        new_tokens=tokens,
        wall=wall,
        stages=stages,
    )


def loaded(block: int, first: float | None = 0.5) -> Loaded:
    return Loaded(
        run="r",
        variant="v",
        phase="timing",
        block=block,
        at="2026-01-01T00:00:00Z",
        dtype="float32",
        imports=1.0,
        load=2.0,
        dropped=True,
        first=first,
        before=MEMORY,
        after=MEMORY,
    )


def test_what_each_time_is():
    assert times(timed()) == pytest.approx(
        {
            "ttft": 0.070,
            "tpot": (0.1 - 0.070) / 3,  # four tokens
            "e2e": 0.1,
            "preprocess": 0.010,
            "vision": 0.020,
            "prefill": 0.040,
            "decode": 0.018,
            "detokenise": 0.001,
            "other": 0.011,
        }
    )


def test_an_answer_of_one_token_has_no_time_per_further_token():
    one = [timed(tokens=1)]
    assert "tpot" not in times(one[0])
    assert summarise(one, "tpot") is None
    assert blocks(one, "tpot") == []


def test_a_block_has_the_median_of_the_repeats_of_each_request():
    lines = [timed(wall, repeat=repeat) for repeat, wall in enumerate((0.3, 0.1, 0.2))]
    lines += [timed(0.9, "b"), timed(0.5, block=2)]
    assert blocks(lines, "e2e") == [{"a": 0.2, "b": 0.9}, {}, {"a": 0.5}]
    assert blocks([], "e2e") == []


def test_a_cold_start_ends_with_the_first_answer():
    assert cold_start([loaded(2), loaded(0), loaded(1, None)]) == [{"cold": 3.5}, {}, {"cold": 3.5}]


def test_a_summary_is_of_requests_and_its_percentiles_of_answers():
    walls = {f"r{index}": 0.1 + 0.01 * index for index in range(8)}
    lines = [timed(wall + 0.001 * block, name, block) for name, wall in walls.items() for block in range(8)]
    found = summarise(lines, "e2e")
    assert found["value"] == pytest.approx(np.median(list(walls.values())) + 0.0035)
    assert (found["n"], found["requests"]) == (8, 64)
    assert found["p90"] == pytest.approx(np.percentile([line.wall for line in lines], 90))
    assert (found["p95"], found["p99"]) == (None, None)
    assert summarise(lines[1:], "e2e")["p90"] is None


@pytest.mark.parametrize(("name", "fewest"), [("p50", 11), ("p90", 64), ("p95", 130), ("p99", 662)])
def test_percentiles_need_enough_values(name, fewest):
    assert percentile(range(fewest), name) == np.percentile(range(fewest), int(name[1:]))
    assert percentile(range(fewest - 1), name) is None
    assert PERCENTILES[name][1] == fewest
    # So many that, were the percentile higher than all of them, that would be seen in 99 of 100 cases.
    assert (int(name[1:]) / 100) ** fewest < 0.01


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
