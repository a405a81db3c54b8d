"""What a scene says of itself must be what its pixels show."""

import math
import random
import re

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from calib_data.scenes.asks import plural
from calib_data.scenes.canvas import Assets, Drawing, random_size
from calib_data.scenes.charts import Chart, chart_asks, chart_scene
from calib_data.scenes.composition import Group, compose
from calib_data.scenes.lettering import near_miss
from calib_data.scenes.object_asks import others, statements, vqa
from calib_data.scenes.objects import objects_scene
from calib_data.scenes.prices import PriceList, price_asks
from calib_data.scenes.text import text_scene
from calib_data.scenes.words import NUMBERS, PLACES
from tests.calib_data.scenes.conftest import MARK

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("draw", [objects_scene, chart_scene, text_scene])
@few
@given(seed=st.integers(0, 10**9))
def test_a_scene_is_whole_and_the_same_for_one_seed(draw, assets: Assets, seed: int) -> None:
    size = random_size(random.Random(seed), 400)
    scene, again = (draw(random.Random(seed), assets, size) for _ in range(2))
    assert scene.image.size == size
    assert scene.image.mode == "RGB"
    assert scene.image.tobytes() == again.image.tobytes()
    assert scene.asks == again.asks
    assert sum(ask.task == "caption" for ask in scene.asks) == 1
    assert all(ask.prompt.strip() and ask.answers[0].strip() for ask in scene.asks)
    verdicts = [ask.answers[0] for ask in scene.asks if ask.task == "consistency"]
    assert verdicts.count("yes") == verdicts.count("no") > 0


def blobs(image) -> list[tuple[float, float]]:
    """(x, y) centres of the connected patches of the drawings' colour, found in the pixels."""
    near = (np.abs(np.asarray(image).astype(int) - MARK) < 60).all(2)
    labels, _ = scipy.ndimage.label(near)
    sizes = scipy.ndimage.sum_labels(near, labels, range(1, labels.max() + 1))
    centres = scipy.ndimage.center_of_mass(near, labels, range(1, labels.max() + 1))
    return [(x, y) for (y, x), size in zip(centres, sizes, strict=True) if size > 30]


@few
@given(seed=st.integers(0, 10**9))
@example(seed=5292)  # a drawing on the border of two thirds
def test_counts_and_places_are_those_in_the_picture(assets: Assets, seed: int) -> None:
    rng = random.Random(seed)
    scene = compose(rng, assets, (360, 300))
    plain = [g for g in scene.groups if g.tint is None]
    found = blobs(scene.image)
    assert len(found) == sum(g.count for g in plain)
    for group in plain:
        for x, y in group.centres:
            seen = min(found, key=lambda each: math.dist(each, (x, y)))
            assert math.dist(seen, (x, y)) < 4
            # What stands near a border of thirds is asked for nowhere: a pixel decides where it is.
            assert group.place in (None, PLACES[int(seen[1] * 3 / 300) * 3 + int(seen[0] * 3 / 360)])
    for ask in vqa(rng, scene):
        if ask.kind == "how many in all":
            assert ask.answers[0] == str(sum(g.count for g in scene.groups))
        if ask.kind == "neighbour":
            axis = 0 if "left" in ask.prompt else 1
            target = next(g for g in scene.groups if ask.prompt.endswith(f" {g.label}?"))
            before = [g for g in scene.groups for c in g.centres if c[axis] < target.centres[0][axis]]
            assert [g.label for g in before] == [ask.answers[0]]


@few
@given(seed=st.integers(0, 10**9))
def test_true_statements_are_true_and_their_twins_false(assets: Assets, seed: int) -> None:
    rng = random.Random(seed)
    scene = compose(rng, assets, (360, 300))
    by_name = {g.label: g for g in scene.groups}
    for statement in statements(rng, assets, scene):
        for sentence, truth in ((statement.true, True), (statement.false, False)):
            if number := re.fullmatch(r"There (?:is|are) (\w+) (\w+?)s?\.", sentence):
                group = by_name.get(number[2])
                assert truth == (group is not None and NUMBERS[group.count] == number[1]), sentence
            if place := re.fullmatch(r"The (\w+) is (?:at the|in the) (.+)\.", sentence):
                assert truth == (by_name[place[1]].places == [place[2]]), sentence
            if ground := re.fullmatch(r"The ground is (\w+)\.", sentence):
                assert truth == (scene.ground == ground[1]), sentence


def test_a_kind_that_can_be_taken_for_what_is_shown_is_no_negative() -> None:
    shown = [Group(Drawing("eagle", "animal", Image.new("RGBA", (8, 8))), 1, None, "")]
    assert others(shown, ["bird", "cat", "eagle"]) == ["cat"]
    shown = [Group(Drawing("bird", "animal", Image.new("RGBA", (8, 8))), 1, None, "")]
    assert others(shown, ["owl", "cat"]) == ["cat"]


@pytest.mark.parametrize(
    ("label", "several"),
    [
        ("fox", "foxes"),
        ("wolf", "wolves"),
        ("jeans", "jeans"),
        ("bus", "buses"),
        ("polar bear", "polar bears"),
        ("fish", "fish"),
    ],
)
def test_plurals(label: str, several: str) -> None:
    assert plural(label) == several


def test_chart_answers_follow_the_values() -> None:
    labels, values = ["Mon", "Tue", "Wed"], [40, 9, 73]
    answers = {
        a.prompt: a.answers[0]
        for a in chart_asks(random.Random(1), Chart("Sales", labels, values, ["red", "blue", "pink"]))
    }
    assert answers["Which bar is the lowest?"] == "Tue"
    assert (
        next(v for k, v in answers.items() if k in ("Which bar is the highest?", "Which bar is the longest?")) == "Wed"
    )
    assert answers["How many bars are there?"] == "3"
    spoken = next((k, v) for k, v in answers.items() if k.startswith("Which bar says"))
    assert values[labels.index(spoken[1])] == int(re.findall(r"\d+", spoken[0])[0])


@few
@given(seed=st.integers(0, 10**9))
def test_a_receipt_adds_up(assets: Assets, seed: int) -> None:
    scene = text_scene(random.Random(seed), assets, (300, 340))
    caption = next(a.answers[0] for a in scene.asks if a.task == "caption")
    if not caption.startswith("a receipt"):
        return
    *prices, total = (float(p) for p in re.findall(r"\d+\.\d\d", caption))
    assert total == pytest.approx(sum(prices))
    assert next(
        a.answers[0] for a in scene.asks if a.prompt.startswith(("What is the total", "How much is it"))
    ).endswith(f"{total:.2f}")


@given(
    seed=st.integers(0, 10**9),
    text=st.text("abcXYZ019 .-牛面", min_size=1).filter(lambda t: any(c.isalnum() for c in t)),
)
def test_a_near_miss_differs_in_one_character(seed: int, text: str) -> None:
    wrong = near_miss(random.Random(seed), text)
    assert len(wrong) == len(text)
    [(old, new)] = [(a, b) for a, b in zip(text, wrong, strict=True) if a != b]
    for is_one in (str.isdigit, str.islower, str.isupper, str.isascii):
        assert is_one(old) == is_one(new)


def test_the_same_price_twice_is_not_asked_by_price() -> None:
    content = PriceList("Blue Cafe", ["tea", "pie"], ["2.00", "2.00"], None, None, "Total")
    assert not [a for a in price_asks(random.Random(0), content) if a.kind == "item by price"]
