"""Verdicts on made reports: each gate at its border, and what is open never passes."""

import json

import numpy as np
import pytest

from bench import change, intervals, power, ratio
from bench.gate import judge
from shipvlm.errors import InputError
from shipvlm.recipe import GateSection
from tests.bench.made_times import Machine, made_blocks

NONE, TWO_POINTS = GateSection(score=None), GateSection(score=0.02)
QUIET = Machine(request=0.01, outliers=0.0, process=0.002, drift=0.005)


def changed(worse: int, better: int, n: int) -> dict:
    scores = [1.0] * worse + [0.0] * better + [1.0] * (n - worse - better)
    after = [0.0] * worse + [1.0] * better + [1.0] * (n - worse - better)
    return change.difference(scores, after, [str(item) for item in range(n)]).as_dict()


def estimate(value: float, low: float | None, high: float | None) -> dict:
    return {"n": 100, "value": value, "low": low, "high": high}


def report(**entry) -> dict:
    return {
        "candidate": "int8",
        "baseline": "original",
        "variants": {
            "original": {"memory": {"peak": 1000}, "weights": {"bytes": 400}},
            "int8": {"memory": {"peak": 600}, "weights": {"bytes": 200}, **entry},
        },
    }


def verdict(gates: dict, **entry) -> str:
    judgement = judge(report(**entry), NONE.model_copy(update=gates))
    assert judgement is not None
    return judgement.verdict


@pytest.mark.parametrize(
    ("worse", "better", "n", "wanted"),
    [
        (0, 0, 160, "PASS"),  # rule of three: 1.86 %
        (0, 0, 148, "INCONCLUSIVE"),
        (1, 0, 160, "INCONCLUSIVE"),
        (5, 5, 1000, "PASS"),
        (60, 5, 1000, "FAIL"),
        (20, 0, 1000, "INCONCLUSIVE"),
        (0, 0, 29, "INCONCLUSIVE"),
        (0, 29, 29, "INCONCLUSIVE"),
    ],
)
def test_a_score_may_be_lower_by_the_margin(worse, better, n, wanted):
    found = judge(report(difference={"all": changed(worse, better, n)}), TWO_POINTS)
    assert (found.verdict, found.variant) == (wanted, "int8")
    [check] = found.checks
    assert check.name == "score all"
    assert check.measured == pytest.approx((better - worse) / n)
    assert (check.needed_items is not None) == (wanted == "INCONCLUSIVE" and worse != 20)


def test_the_number_that_would_decide_decides():
    found = judge(report(difference={"all": changed(1, 0, 160)}), TWO_POINTS).checks[0]
    assert found.needed_items > 160
    flips = round(found.needed_items / 160)
    assert verdict({"score": 0.02}, difference={"all": changed(flips, 0, found.needed_items)}) == "PASS"
    difference = changed(12, 8, 400)
    open_ = judge(report(difference={"all": difference}), TWO_POINTS).checks[0]
    assert open_.needed_items == power.items_needed(0.02 - 0.01, difference["deviation"])


def test_tasks_have_their_own_margins():
    difference = {"all": changed(0, 0, 400), "ocr": changed(9, 0, 200)}
    assert verdict({"score": 0.02}, difference=difference) == "PASS"
    assert verdict({"score": 0.02, "score_by_task": {"ocr": 0.01}}, difference=difference) == "FAIL"
    assert verdict({"score_by_task": {"ocr": 0.1}}, difference=difference) == "PASS"
    with pytest.raises(InputError, match="no task 'read'; it has all, ocr"):
        verdict({"score_by_task": {"read": 0.1}}, difference=difference)


def test_a_rate_may_rise_by_the_margin():
    risen, fallen = changed(0, 30, 400), changed(30, 0, 400)
    assert verdict({"empty": 0.02}, empty=risen) == "FAIL"
    assert verdict({"empty": 0.02}, empty=fallen) == "PASS"
    assert verdict({"unparsable": 0.02}, unparsable=changed(0, 0, 400)) == "PASS"
    assert verdict({"unparsable": 0.08}, unparsable=risen) == "INCONCLUSIVE"


def test_items_that_are_missing_leave_it_open():
    whole = report(difference={"all": changed(0, 0, 400)})
    for variant, phase, wanted in (
        ("int8", "accuracy", "INCONCLUSIVE"),
        ("original", "accuracy", "INCONCLUSIVE"),
        ("int8", "timing", "PASS"),
        ("fp16", "accuracy", "PASS"),
    ):
        cut = {**whole, "missing": [{"variant": variant, "phase": phase, "block": 0, "reason": "cut off"}]}
        assert judge(cut, TWO_POINTS).verdict == wanted
    close = estimate(1, 0.999, 1.001)
    for name, asked in (("length", 0.1), ("top1_agreement", 0.9), ("kl", 2.0)):
        part = report(**{name: close})
        assert judge(part, NONE.model_copy(update={name: asked})).verdict == "PASS"
        part["missing"] = [{"variant": "int8", "phase": "accuracy", "block": 0}]
        [check] = judge(part, NONE.model_copy(update={name: asked})).checks
        assert (check.verdict, check.measured) == ("INCONCLUSIVE", 1)
        assert "not all items were answered" in check.reason


@pytest.mark.parametrize(
    ("pace", "least", "wanted"),
    [(0.5, 1.5, "PASS"), (0.5, 2.5, "FAIL"), (0.5, 2.0, "INCONCLUSIVE"), (1.0, 0.95, "PASS"), (1.1, 1.0, "FAIL")],
)
def test_a_time_is_judged_on_its_interval(pace, least, wanted):
    blocks = made_blocks(np.random.default_rng(0), (1.0, pace, 1.0), QUIET)
    found = ratio.compare(*blocks).as_dict()
    assert verdict({"ttft": least}, ratio={"vqa-small": {"ttft": found}}) == wanted
    assert verdict({"cold_start": least}, cold_start={"ratio": found}) == wanted


def test_every_case_must_hold():
    rng = np.random.default_rng(1)
    fast, slow = (ratio.compare(*made_blocks(rng, (1.0, pace, 1.0), QUIET)).as_dict() for pace in (0.5, 1.2))
    cases = {"vqa-small": {"e2e": fast}, "caption": {"e2e": slow}}
    found = judge(report(ratio=cases), NONE.model_copy(update={"e2e": 1.0}))
    assert [(check.name, check.verdict) for check in found.checks] == [
        ("e2e vqa-small", "PASS"),
        ("e2e caption", "FAIL"),
    ]
    assert found.verdict == "FAIL"


def test_times_that_say_nothing_do_not_pass():
    few = ratio.compare([{"a": 1.0}] * 3, [{"a": 0.5}] * 3, [{"a": 1.0}] * 3).as_dict()
    assert verdict({"ttft": 1.0}, ratio={"caption": {"ttft": few}}) == "INCONCLUSIVE"
    shifted = [{"a": 1.1}] * 6  # the baseline against itself is 10 % off
    off = ratio.compare([{"a": 1.0}] * 6, [{"a": 0.5}] * 6, shifted).as_dict()
    assert verdict({"ttft": 1.0}, ratio={"caption": {"ttft": off}}) == "INCONCLUSIVE"
    even = [{"a": 1.0}] * 6
    noisy = ratio.compare(even, [{"a": 0.95 + 0.05 * (-1) ** block} for block in range(6)], even).as_dict()
    [check] = judge(report(ratio={"caption": {"ttft": noisy}}), NONE.model_copy(update={"ttft": 1.02})).checks
    assert check.verdict == "INCONCLUSIVE"
    assert check.needed_blocks > 6


def test_memory_and_size_are_single_numbers():
    assert verdict({"memory": 0.6}) == "PASS"
    assert verdict({"memory": 0.59}) == "FAIL"
    assert verdict({"size": 0.5, "memory": 0.7}) == "PASS"
    assert verdict({"size": 0.4, "memory": 0.7}) == "FAIL"
    assert verdict({"memory": 0.6}, memory={"peak": None}) == "INCONCLUSIVE"


def test_fidelity_and_length_are_judged_on_their_intervals():
    agreement = estimate(0.97, 0.96, 0.98)
    assert verdict({"top1_agreement": 0.95}, top1_agreement=agreement) == "PASS"
    assert verdict({"top1_agreement": 0.97}, top1_agreement=agreement) == "INCONCLUSIVE"
    assert verdict({"top1_agreement": 0.99}, top1_agreement=agreement) == "FAIL"
    kl = estimate(0.01, 0.008, 0.013)
    assert [verdict({"kl": most}, kl=kl) for most in (0.02, 0.01, 0.005)] == ["PASS", "INCONCLUSIVE", "FAIL"]
    for low, high, wanted in ((0.95, 1.05, "PASS"), (0.8, 0.89, "FAIL"), (1.2, 1.3, "FAIL"), (0.95, 1.2, None)):
        assert verdict({"length": 0.1}, length=estimate(1, low, high)) == (wanted or "INCONCLUSIVE")


def held(count: int, kl: float = 0.0) -> dict:
    return {
        "kl": intervals.weighted_mean([3 * kl] * count, [3] * count).as_dict(),
        "top1_agreement": intervals.share([3] * count, [3] * count).as_dict(),
    }


def test_a_model_that_says_the_same_passes():
    [check] = judge(report(**held(160)), NONE.model_copy(update={"kl": 0.001})).checks
    assert (check.verdict, check.measured) == ("PASS", 0)
    assert check.reason == "0 for every picture: at 95 % confidence it is another for fewer than 1.9 % of all pictures"
    assert verdict({"kl": 0.001}, **held(160, 0.01)) == "FAIL"
    assert verdict({"top1_agreement": 0.95}, **held(160)) == "PASS"
    [check] = judge(report(**held(160)), NONE.model_copy(update={"top1_agreement": 0.99})).checks
    assert (check.verdict, check.measured) == ("INCONCLUSIVE", 1)
    needed = check.needed_items
    assert verdict({"top1_agreement": 0.99}, **held(needed)) == "PASS"
    assert verdict({"top1_agreement": 0.99}, **held(needed - 1)) == "INCONCLUSIVE"
    [check] = judge(report(**held(160)), NONE.model_copy(update={"top1_agreement": 1.0})).checks
    assert (check.verdict, check.needed_items) == ("INCONCLUSIVE", None)  # that can never be known


@pytest.mark.parametrize("name", ["kl", "top1_agreement", "length"])
def test_too_few_items_are_told_from_none(name):
    few = {**held(29), "length": estimate(1.0, None, None) | {"n": 29}}
    [check] = judge(report(**few), NONE.model_copy(update={name: 0.5})).checks
    assert check.verdict == "INCONCLUSIVE"
    assert check.reason == "29 items are too few for an interval: it takes items of 30 pictures"
    assert check.measured == few[name]["value"]


@pytest.mark.parametrize("name", [name for name in GateSection.model_fields if name not in ("score_by_task", "size")])
def test_what_was_not_measured_does_not_pass(name):
    bare = report(memory=None)
    [check] = judge(bare, NONE.model_copy(update={name: 0.5})).checks
    assert check.verdict == "INCONCLUSIVE"
    assert check.reason == "not measured"


def test_a_model_is_not_judged_against_itself():
    alone = {**report(), "candidate": "original"}
    assert judge(alone, GateSection(size=1.0, memory=1.0)) is None


def test_no_gate_is_no_verdict_and_a_judgement_is_plain_data():
    assert judge(report(), NONE) is None
    found = judge(report(difference={"all": changed(0, 0, 400)}), GateSection(memory=0.5)).as_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["verdict"] == "FAIL"
    assert {check["name"]: check["verdict"] for check in found["checks"]} == {"score all": "PASS", "memory": "FAIL"}
