"""A variant beside its baseline: counts by hand, the test of flips by statsmodels."""

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from bench import change, intervals
from bench.observations import Answered, Held
from bench.pairs import changes, flips, grade, scores, together


def answered(number: int, score: float, tokens: int = 3, parsed="ok", picture: str | None = None) -> Answered:
    return Answered(
        run="r",
        variant="v",
        phase="accuracy",
        block=0,
        id=f"item/{number:03d}",
        task="ocr" if number % 2 else "vqa",
        source="made",
        prompt_sha256="p",
        image_sha256=picture or f"picture {number}",
        output="word",
        token_ids=tuple(range(tokens)),
        finish="end",
        score=score,
        parsed=parsed,
        wall=0.1,
    )


def held(number: int) -> Held:
    return Held(
        run="r",
        variant="v",
        phase="accuracy",
        block=0,
        id=f"item/{number:03d}",
        kl=(0.1, 0.2),
        same=(True, False),
        delta_p=(0.0, -0.1),
        kept=256,
        whole=False,
    )


RNG = np.random.default_rng(0)
BEFORE = (RNG.random(200) < 0.8).astype(float)
AFTER = np.where(RNG.random(200) < 0.1, 1 - BEFORE, BEFORE)
BASELINE = grade([answered(number, value) for number, value in enumerate(BEFORE)])
VARIANT = grade(
    [answered(number, value, 4, "empty" if number < 5 else "ok") for number, value in enumerate(AFTER)],
    [held(number) for number in range(100)],
)


def test_results_are_in_one_order_with_what_was_held():
    found = grade([answered(2, 1.0), answered(1, 0.5)], [held(1)])
    assert [item.id for item in found] == ["item/001", "item/002"]
    assert (found[0].value, found[0].compared, found[0].agreed, found[0].kl) == (0.5, 2, 1, pytest.approx(0.3))
    assert found[1].compared is None


def test_scores_by_task_and_over_all():
    found = scores(VARIANT, BASELINE)
    assert set(found["difference"]) == {"ocr", "vqa", "all"}
    assert found["difference"]["all"]["value"] == pytest.approx((AFTER - BEFORE).mean())
    assert found["difference"]["ocr"]["value"] == pytest.approx((AFTER - BEFORE)[1::2].mean())
    assert found["difference"]["vqa"]["n"] == 100
    assert found["score"]["all"]["value"] == pytest.approx(AFTER.mean())
    assert found["difference"]["all"]["lower"] > found["difference"]["all"]["low"]


def test_flips_and_their_test():
    found = changes(VARIANT, BASELINE)["flips"]
    worse, better = int((AFTER < BEFORE).sum()), int((AFTER > BEFORE).sum())
    assert (found["worse"]["count"], found["better"]["count"], found["same"]) == (worse, better, 200 - worse - better)
    assert worse > better > 0
    table = [[0, worse], [better, 0]]
    assert found["mcnemar"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found["worse"]["low"] < worse / 200 < found["worse"]["high"]
    assert flips([1.0] * 50, [1.0] * 50, [str(item) for item in range(50)])["mcnemar"] == 1


def test_what_else_changed():
    found = changes(VARIANT, BASELINE)
    pictures = [f"picture {number}" for number in range(200)]
    assert found["recovery"]["value"] == pytest.approx(AFTER.sum() / BEFORE.sum())
    assert found["length"]["value"] == pytest.approx(4 / 3)
    assert found["length"]["low"] < 4 / 3 < found["length"]["high"]
    assert found["empty"] == change.difference([0.0] * 200, [1.0] * 5 + [0.0] * 195, pictures).as_dict()
    assert found["unparsable"]["value"] == 0
    assert found["top1_agreement"] == intervals.share([1] * 100, [2] * 100).as_dict()
    assert changes(BASELINE, BASELINE)["top1_agreement"] is None
    assert changes(BASELINE, BASELINE)["recovery"]["value"] == 1


def test_items_of_one_picture_are_clustered():
    def graded(values):
        return grade([answered(number, value, picture=f"p{number // 5}") for number, value in enumerate(values)])

    found = scores(graded(AFTER), graded(BEFORE))["difference"]["all"]
    assert (found["n"], found["pictures"]) == (200, 40)
    assert scores(VARIANT, BASELINE)["difference"]["all"]["pictures"] == 200


def test_only_what_both_were_asked_is_held_together():
    other = grade([answered(0, 1.0, picture="another"), *(answered(number, 0.0) for number in range(1, 250))])
    mine, theirs = together(VARIANT, other)
    assert [item.id for item in mine] == [item.id for item in theirs] == [f"item/{n:03d}" for n in range(1, 200)]
    with pytest.raises(ValueError, match="not paired"):
        scores(VARIANT, other[:200])
    with pytest.raises(ValueError, match="not paired"):
        changes(VARIANT, BASELINE[1:])
