"""What is said of levels: with planted times, and bounds of p95 by an independent reference."""

import numpy as np
import pytest
from scipy import stats

from bench.sweep_findings import finding, markdown, of_levels, p95_bounds
from bench.sweep_levels import Level
from tests.bench.made_levels import level, levels

SLO = 0.15
BUSY = ("a compiler ran",)


def found(*said: Level, slo: float = SLO) -> tuple[dict[int, dict], dict]:
    told = of_levels(said, slo)
    return {each["clients"]: each for each in told}, finding(told, slo)


def test_the_highest_rate_that_was_measured_within_the_limit_is_told():
    """The rate does not rise from 2 to 4 clients: 24.4 was measured within the limit, so nothing below it is said."""
    said = [*levels(1, 0.044, 0.044, 0.045), *levels(2, 0.082, 0.082, 0.083), *levels(4, 0.172, 0.172, 0.171)]
    told, what = found(*said)
    assert [each["word"] for each in told.values()] == ["HOLDS", "HOLDS", "BREAKS"]
    assert (what["clients"], what["requests_a_second"]) == (2, pytest.approx(2 / 0.082))
    assert what["words"] == (
        "p95 within 150 ms: up to 24.4 requests/s, with 2 clients (p95 82.0 ms); not with 4 clients (p95 172 ms)"
    )
    assert told[2]["requests_a_second"] == {
        "n": 3,
        "value": pytest.approx(2 / 0.082),
        "low": pytest.approx(2 / 0.083),
        "high": pytest.approx(2 / 0.082),
    }


def test_a_slower_level_that_holds_does_not_hide_a_faster_one():
    _, what = found(*levels(1, 0.05, 0.05), *levels(2, 0.11, 0.11))
    assert (what["clients"], what["requests_a_second"]) == (1, pytest.approx(20))
    assert what["words"].endswith("; no level that was measured breaks it: give higher levels")


@pytest.mark.parametrize("clients", [1, 4])
def test_of_a_disturbed_level_nothing_is_said(clients):
    told, what = found(*levels(clients, 0.3, 0.3, 0.3, reasons=BUSY))
    assert (told[clients]["word"], told[clients]["clean"]) == ("AMBIGUOUS", 0)
    assert told[clients]["reason"] == "0 of 3 processes clean, 2 are needed: a compiler ran"
    assert told[clients]["p95"]["value"] == pytest.approx(0.3)  # shown all the same
    assert what == {
        "clients": None,
        "requests_a_second": None,
        "words": f"p95 within 150 ms: AMBIGUOUS with {clients} client{'s' * (clients > 1)}",
    }


def test_a_first_level_that_breaks_is_told():
    _, what = found(*levels(1, 0.3, 0.31), *levels(2, 0.6, 0.6))
    assert what["words"] == "p95 within 150 ms: not with 1 client (p95 305 ms)"


def test_disturbed_processes_do_not_count_where_two_were_clean():
    said = [*levels(2, 0.1, 0.1), level(2, 0.9, 2, reasons=BUSY), level(2, 0.8, 2, reasons=BUSY, attempt=1)]
    told, _ = found(*said)
    assert (told[2]["word"], told[2]["clean"], told[2]["processes"]) == ("HOLDS", 2, 3)
    assert told[2]["p95"]["high"] == pytest.approx(0.1)
    assert [each["attempt"] for each in told[2]["attempts"]] == [0, 0, 0, 1]


def test_the_last_attempt_of_a_process_counts():
    said = [level(2, 0.9, reasons=BUSY), level(2, 0.1, attempt=1), level(2, 0.1, 1)]
    told, _ = found(*said)
    assert (told[2]["word"], told[2]["clean"]) == ("HOLDS", 2)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (levels(1, 0.1, 0.2, 0.1), "p95 may be from 100 to 200 ms"),
        (levels(1, [0.1] * 129, 0.1), "p95 needs 130 batches, measured were 129"),
        ([level(1, 0.1)], "1 of 1 processes clean, 2 are needed"),
        # p95 itself is within the limit, but 5 of 130 slow answers may as well be 8 of 130.
        (levels(1, *[[0.1] * 125 + [0.2] * 5] * 3), "p95 may be from 100 to 200 ms"),
    ],
)
def test_what_does_not_decide_is_ambiguous(said, reason):
    told, what = found(*said)
    assert (told[1]["word"], told[1]["reason"]) == ("AMBIGUOUS", reason)
    assert what["requests_a_second"] is None


def test_the_bounds_are_those_of_order_statistics():
    """The k-th of n values is an upper bound of the quantile with probability P(Binomial(n, 0.95) < k)."""
    for n in (130, 200, 400):
        times = np.sort(np.random.default_rng(n).exponential(size=n))
        below = stats.binom.cdf(np.arange(n), n, 0.95)  # below[k - 1]: fewer than k values are under the quantile
        upper = times[np.argmax(below >= 0.95)]
        lower = times[np.flatnonzero(1 - below >= 0.95)[-1]]
        assert p95_bounds(times) == pytest.approx((lower, upper))


def test_the_bounds_hold_what_they_promise():
    rng = np.random.default_rng(1)
    truth = stats.lognorm(0.1).ppf(0.95)
    bounds = np.array([p95_bounds(rng.lognormal(0, 0.1, 130)) for _ in range(400)])
    assert (bounds[:, 1] >= truth).mean() >= 0.92
    assert (bounds[:, 0] <= truth).mean() >= 0.92


def test_the_table():
    said = [
        *levels(1, 0.05, 0.05, 0.06),
        *levels(2, 0.09, 0.08, warm=False),
        level(2, 0.5, 2, reasons=BUSY),
        *levels(4, 0.1, reasons=BUSY),
    ]
    told = of_levels(said, SLO)
    case = {"name": "caption", "width": 640, "height": 480, "prompt_tokens": 16, "answer_tokens": 128}
    result = {
        "variant": "artifact",
        "engine": "onnxruntime",
        "device": "cpu",
        "dtype": "float32",
        "weights": {"bytes": 1, "precision": "fp32", "scheme": "w8a8-static"},
        "case": case,
        "slo_seconds": SLO,
        "asked": [1, 2, 4],
        "batches": 130,
        "processes": 3,
        "levels": told,
        "finding": finding(told, SLO),
        "missing": [{"process": 1, "clients": 4}, {"process": 2, "clients": 4}],
    }
    text = markdown(result)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {6}
    assert rows[0][-1] == "p95 within 150 ms"
    assert rows[2][:4] == ["1", "20.0 [16.7, 20.0]", "50.0 [50.0, 60.0]", "50.0 [50.0, 60.0]"]
    assert rows[3][-1] == (
        "HOLDS; numbers of 2 of 3 processes, the others were disturbed; not stable after the warm-up"
    )
    assert rows[4][1:4] == ["40.0", "100", "100"]  # one process has no range
    assert rows[4][-1] == (
        "AMBIGUOUS: 0 of 1 processes clean, 2 are needed: a compiler ran; numbers of disturbed processes"
    )
    assert "Cut off: 2 of 9 measurements are missing: process 2 at 4, process 3 at 4." in text
    assert "graphs fp32 w8a8-static" in text and "float32" not in text
    checkpoint = markdown({**result, "weights": {"bytes": 1, "values": {"BF16": 4}}, "missing": []})
    assert "in float32" in checkpoint and "Cut off" not in checkpoint
