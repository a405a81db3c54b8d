"""Splits ask about everything they promise to, and a sentence alone does not tell its answer."""

import random
from collections import Counter

import pytest

from calib_data.records import Task
from calib_data.scenes.canvas import Assets
from calib_data.scenes.splits import MIXTURE, ask_about, make_split, turns
from tests.calib_data.scenes.conftest import KINDS

EVERY_KIND = [
    (task, source, kind)
    for task, sources in MIXTURE.items()
    for source, (_, kinds) in sources.items()
    for kind in kinds
    if source != "easy-vqa"
]


@pytest.mark.parametrize(("task", "source", "kind"), EVERY_KIND)
def test_every_promised_kind_of_question_can_be_asked(task: Task, source: str, kind: str, assets: Assets) -> None:
    wanted = "no" if task == "consistency" else None
    image, ask = ask_about(random.Random(0), assets, task, source, kind, wanted)
    assert (ask.task, ask.kind) == (task, kind)
    assert wanted in (None, ask.answers[0])
    assert 96 <= min(image.size) <= max(image.size) <= 640


@pytest.mark.parametrize("task", MIXTURE)
def test_kinds_take_turns(task: Task) -> None:
    rows = turns(task, 400, ())
    assert len(rows) == 400
    for source, (share, kinds) in MIXTURE[task].items():
        counts = Counter(kind for where, kind, _ in rows if where == source)
        assert sum(counts.values()) == pytest.approx(400 * share, abs=1)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert set(counts) == set(kinds)
    if task == "consistency":
        for kind in {row[:2] for row in rows}:
            answers = Counter(answer for *where, answer in rows if tuple(where) == kind)
            assert abs(answers["yes"] - answers["no"]) <= 1


def test_a_split_is_the_same_each_time(assets: Assets) -> None:
    first, second = (make_split("heldout", assets, 12, without=("easy-vqa",)) for _ in range(2))
    assert first == second
    assert Counter(record.task for record in first) == dict.fromkeys(MIXTURE, 12)
    assert any(kind in record.prompt for record in first for kind in KINDS)
