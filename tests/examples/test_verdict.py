"""The verdict on the quantization table, from rows written by hand."""

import pytest

from examples.tiny_qwen3_vl.verdict import ROUNDED, verdict


def rows(score: list[float], agreement: list[float], half: float | None = 0.01) -> dict:
    def estimate(value: float) -> dict:
        low, high = (None, None) if half is None else (value - half, value + half)
        return {"n": 400, "value": value, "low": low, "high": high}

    return {
        name: {"score": {"all": {**estimate(s), "empty": 0}}, "top1_agreement": estimate(a)}
        for name, s, a in zip(ROUNDED, score, agreement, strict=True)
    }


FALLING, FLAT = [0.99, 0.95, 0.9, 0.7, 0.2], [0.80, 0.80, 0.79, 0.785, 0.78]


@pytest.mark.parametrize(
    ("score", "agreement", "separates"),
    [(FALLING, FALLING, True), (FLAT, FALLING, True), (FALLING, FLAT, True), (FLAT, FLAT, False)],
)
def test_one_metric_that_separates_is_enough(score, agreement, separates):
    assert verdict(rows(score, agreement))["separates"] is separates


def test_the_order_must_hold_in_the_same_metric():
    swapped = [0.99, 0.9, 0.95, 0.7, 0.2]
    found = verdict(rows(FLAT, swapped))
    assert found["separates"] is False
    assert found["top1_agreement"]["order_holds"] is False
    assert all(found["top1_agreement"]["disjoint"].values())


def test_too_few_items_say_nothing():
    assert verdict(rows(FALLING, FALLING, half=None))["separates"] is None
    assert verdict(rows(FALLING[::-1], FALLING[::-1], half=None))["separates"] is False
