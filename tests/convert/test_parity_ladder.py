"""Each gate at its limit, and the cases that engines are asked."""

import io
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convert import ladder
from convert.cases import make_cases
from convert.ladder import Kind, ablation_rung, answers_rung, broken, greedy_rung, numbers_rung, tokens_needed
from convert.measures import Rows, compare, compare_logits
from shipvlm.recipe import ParitySection
from tests.bench.made_records import records

SECTION = ParitySection(cosine_min=0.9999, top1_min=0.99, noise_max=2)


def turned(angle: float, length: float = 1.0) -> Rows:
    """One vector against another at `angle`, `length` times as long."""
    return compare(np.array([[1.0, 0.0]]), np.array([[math.cos(angle), math.sin(angle)]]) * length)


def numbers(rows: Rows, noise: Rows | None = None, kind: Kind = "fp32", name: str = ladder.PREFILL) -> dict[str, Any]:
    return numbers_rung(
        name, {"one": turned(0), "other": rows}, {"one": noise, "other": noise} if noise else {}, kind, SECTION
    )


@pytest.mark.parametrize(
    ("rows", "passed"),
    [
        (turned(0.0141), True),  # cos 0.0141 = 0.9999006
        (turned(0.0142), False),
        (turned(0, 1.0141), True),
        (turned(0, 1.0142), False),
        (turned(0, 0.9858), False),
        ({name: values * np.nan for name, values in turned(0).items()}, False),
    ],
)
def test_exact(rows: Rows, passed: bool) -> None:
    rung = numbers(rows)
    assert rung["passed"] is passed
    assert rung["worst"] == "other"
    assert rung["rows"] == 2


def test_noise_is_measured_in_multiples_of_the_own() -> None:
    # One of two rows is off, both rows of the own noise are: a root mean square of half.
    for angle, passed in ((0.28, True), (0.29, False)):
        rung = numbers(turned(angle), turned(0.1), "int8")
        assert rung["noise_ratio"] == pytest.approx(angle / 0.1 / math.sqrt(2), rel=0.01)
        assert rung["passed"] is passed
    assert numbers(turned(0.01), turned(0), "int8")["passed"]  # exact: there is no noise to compare with
    assert not numbers(turned(0.02), turned(0), "int8")["passed"]
    assert not numbers({name: values * np.nan for name, values in turned(0).items()}, turned(0.1), "int8")["passed"]


def test_what_is_not_judged_says_nothing_of_passing() -> None:
    assert "passed" not in numbers(turned(1), kind="fp16")
    assert numbers(turned(1), kind="int8", name=f"{ladder.LEVEL} 12")["passed"] is False


def answers(different: int, of: int, margin: float) -> dict[str, Any]:
    """Tokens of which some differ, the checkpoint's own best being so much likelier (in nats)."""
    left = np.zeros((of, 3))
    left[:, 0] = margin
    right = left.copy()
    right[:different, 1] = 2 * margin
    return answers_rung(compare_logits(left, right), SECTION)


@pytest.mark.parametrize(
    ("different", "of", "margin", "passed"),
    [
        (1, 100, 0.2, True),
        (2, 100, 0.2, False),
        (2, 200, 0.2, True),
        (50, 100, 0.09, True),  # ties
        (0, 99, 0.2, False),  # too few to tell
    ],
)
def test_top1(different: int, of: int, margin: float, passed: bool) -> None:
    rung = answers(different, of, margin)
    assert rung["passed"] is passed
    assert rung["rows"] == of
    assert rung["top1"] == pytest.approx(1 - different / of)
    assert rung["ties"] == (different if margin < 0.1 else 0)
    assert (broken([rung]) is None) is passed
    if of < 100:
        assert "INCONCLUSIVE" in str(broken([rung]))


def test_how_many_tokens_decide() -> None:
    assert tokens_needed(0.995) == 200
    assert tokens_needed(0.99) == 100
    assert tokens_needed(1.0) == 1000


def test_greedy() -> None:
    rung = greedy_rung({"a": ([1, 2], [1, 2]), "b": ([1, 2, 3], [1, 4, 3]), "c": ([1], [1, 2])}, "fp32")
    assert (rung["answers"], rung["equal"], rung["rows"]) == (3, 1, 6)
    assert (rung["worst"], rung["differs_at"], rung["passed"]) == ("b", 1, False)
    assert greedy_rung({"c": ([1], [1, 2])}, "fp32")["differs_at"] == 1
    assert greedy_rung({"a": ([1], [1])}, "fp32")["passed"] is True
    assert "passed" not in greedy_rung({"c": ([1], [1, 2])}, "int8")


@pytest.mark.parametrize("change", [0.0, 1e-6, math.nan])
def test_a_level_that_changes_nothing(change: float) -> None:
    rung = ablation_rung([0.1, change])
    assert rung["passed"] is False
    assert "zeros in place of level 1 change the logits by" in str(broken([rung]))
    assert ablation_rung([0.1, 0.1])["passed"] is True


def test_the_first_broken_rung_is_named() -> None:
    names = [ladder.PREFILL, ladder.DECODE, *(f"{kind} {n}" for n in (0, 1) for kind in (ladder.KEYS, ladder.VALUES))]
    good, bad = turned(0), turned(0.5)
    for wrong, first, hint in (
        ([ladder.DECODE, f"{ladder.KEYS} 1"], ladder.DECODE, "positions after them"),
        ([ladder.PREFILL], ladder.PREFILL, "the last layer"),
        ([ladder.PREFILL, f"{ladder.KEYS} 0"], ladder.PREFILL, "positions and rotation"),
        ([ladder.PREFILL, f"{ladder.VALUES} 0", f"{ladder.KEYS} 0"], ladder.PREFILL, "the embedding"),
        ([ladder.PREFILL, f"{ladder.VALUES} 1"], ladder.PREFILL, "up to layer 0"),
        ([f"{ladder.VALUES} 1"], f"{ladder.VALUES} 1", "up to layer 0"),
    ):
        message = broken([numbers(bad if name in wrong else good, name=name) for name in names])
        assert str(message).startswith(f"parity breaks first at {first}: cosine 0.87")
        assert hint in str(message)
    assert broken([numbers(good, name=name) for name in names]) is None


def test_cases() -> None:
    data = records(20)
    cases, more = make_cases(data, 4)
    assert [case.name for case in cases[:4]] == [f"record made/{number:04d}" for number in (0, 5, 10, 15)]
    two, none, batch = cases[4:]
    small, large = two.requests[0].images
    assert small.size != large.size
    assert none.requests[0].images == ()
    assert batch.requests == (*two.requests, *none.requests, *cases[0].requests)
    assert sorted(len(case.requests) for case in more) == [8, 8]
    asked = [request.images[0].tobytes() for case in [*cases[:4], *more] for request in case.requests]
    assert len(set(asked)) == len(asked) == 20


def test_cases_of_few_records() -> None:
    cases, more = make_cases(records(2), 8)
    assert len(cases) == 2 + 3
    assert more == []


@pytest.mark.parametrize("size", [(64, 40), (1, 90), (90, 1), (1, 1)])
def test_two_sizes_are_made_where_all_pictures_have_one(size: tuple[int, int]) -> None:
    encoded = io.BytesIO()
    Image.new("RGB", size).save(encoded, "PNG")
    data = [record.model_copy(update={"image": encoded.getvalue()}) for record in records(2)]
    one, other = make_cases(data, 2)[0][2].requests[0].images
    assert other.size == size
    assert one.size != size or size == (1, 1)
