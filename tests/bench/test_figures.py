"""Where marks lie: in order, to scale, inside, apart."""

import copy
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import figures
from bench.timing import STAGES
from tests.bench.made_run import CASE, made_report


@pytest.fixture(scope="module")
def made():
    return made_report()


def test_marks_are_to_scale(made):
    plot = figures.trade(made, CASE.name)
    by_name = {point["name"]: point for point in plot["points"]}
    assert set(by_name) == {"original", "onnx", "onnx-w8a8-static"}
    entries = made["variants"]
    slow, mid, fast = (
        entries[name]["latency"][CASE.name]["e2e"]["value"] for name in ("original", "onnx", "onnx-w8a8-static")
    )
    places = [by_name[name]["x"] for name in ("original", "onnx", "onnx-w8a8-static")]
    assert (places[0] - places[1]) / (places[1] - places[2]) == pytest.approx((slow - mid) / (mid - fast), rel=0.02)
    areas = [by_name[name]["radius"] ** 2 for name in ("onnx-w8a8-static", "original")]
    assert areas[0] / areas[1] == pytest.approx(420 / 900, rel=0.02)
    assert by_name["onnx-w8a8-static"]["y"] > by_name["onnx"]["y"]  # a lower score


def test_bars_are_of_one_scale(made):
    found = figures.stages(made, CASE.name)
    assert [row["name"] for row in found["rows"]] == ["original", "onnx", "onnx-w8a8-static", "null"]
    widths = {row["name"]: sum(part["width"] for part in row["parts"]) for row in found["rows"]}
    assert max(widths.values()) == pytest.approx(100, abs=0.1)
    totals = {name: sum(made["variants"][name]["stages"][CASE.name].values()) for name in widths}
    for name, width in widths.items():
        assert width / widths["original"] == pytest.approx(totals[name] / totals["original"], rel=0.01)
    assert [part["stage"] for part in found["rows"][0]["parts"]] == list(STAGES)
    whole = {name: made["variants"][name]["latency"][CASE.name]["e2e"]["value"] for name in widths}
    assert [float(row["total"]) for row in found["rows"]] == pytest.approx([1e3 * whole[name] for name in widths], 5e-3)


def test_a_limit_is_a_full_bar(made):
    groups = figures.roofline(made, CASE.name)
    assert [group["name"] for group in groups] == ["original", "onnx", "onnx-w8a8-static"]
    assert groups[0]["possible"] is None
    assert groups[1]["possible"] == pytest.approx(1 / 0.7)
    for group in groups:
        for bar, found in zip(
            group["bars"], made["variants"][group["name"]]["limits"][CASE.name].values(), strict=True
        ):
            assert bar["width"] == pytest.approx(min(100, 100 * found["reached"]), abs=0.01)


@pytest.mark.parametrize(("reached", "said"), [(0.517, "52 %"), (0.01, "1 %"), (0.000052, "< 1 %"), (1.2, "120 %")])
def test_a_small_share_of_a_limit_is_not_nothing(made, reached, said):
    found = copy.deepcopy(made)
    found["variants"]["onnx"]["limits"][CASE.name]["request"]["reached"] = reached
    assert figures.roofline(found, CASE.name)[1]["bars"][-1]["text"] == said


def test_where_no_request_comes_near_a_limit_that_is_said(made):
    assert figures.unbound(made, CASE.name) is None
    found = copy.deepcopy(made)
    for entry in found["variants"].values():
        for each in entry["limits"].values():
            each["request"] |= {"measured": 0.186, "at_best": 7.24e-5, "reached": 7.24e-5 / 0.186}
    assert figures.unbound(found, CASE.name) == (
        "The limit binds nothing here: original takes 186 ms for a request whose bytes and operations need 0.072 ms on "
        "this machine."
    )
    found["variants"]["onnx"]["limits"][CASE.name]["request"]["reached"] = 0.05
    assert figures.unbound(found, CASE.name) is None
    assert figures.unbound(found, "another") is None


def test_a_variant_without_a_mark_is_named_with_why(made):
    assert figures.trade(made, CASE.name)["without"] == "w8a8-static (not timed)"
    found = copy.deepcopy(made)
    del found["variants"]["onnx"]["score"]
    found["variants"]["onnx-w8a8-static"]["only_disturbed"] = True
    assert figures.trade(found, CASE.name)["without"] == (
        "w8a8-static (not timed); onnx (answers not scored); onnx-w8a8-static (every block disturbed)"
    )


def test_without_times_or_scores_there_is_no_map(made):
    for part in ("score", "latency"):
        found = copy.deepcopy(made)
        for entry in found["variants"].values():
            entry[part] = {}
            if part == "score":
                del entry["score"]
        assert figures.trade(found, CASE.name) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(1e-4, 60), st.floats(0, 1), st.floats(0, 0.3), st.integers(0, 10**11)),
        min_size=1,
        max_size=9,
    )
)
def test_whatever_was_measured_lies_inside_and_labels_lie_apart(values):
    variants = {}
    for place, (seconds, score, spread, peak) in enumerate(values):
        interval = (
            {"low": max(0, score - spread), "high": min(1, score + spread)} if spread else {"low": None, "high": None}
        )
        variants[f"variant-{place}"] = {
            "latency": {"c": {"e2e": {"n": 9, "value": seconds, "low": seconds * 0.9, "high": seconds * 1.1}}},
            "score": {"all": {"n": 40, "value": score, **interval}},
            "memory": {"peak": peak} if peak else None,
            "only_disturbed": False,
        }
    plot = figures.trade({"variants": variants}, "c")
    boxes = []
    for point in plot["points"]:
        for x in (point["x"], *point["x_bar"]):
            assert plot["left"] <= x <= plot["right"]
        for y in (point["y"], *point["y_bar"]):
            assert plot["top"] <= y <= plot["bottom"]
        assert 0 < point["radius"] <= figures.LARGEST
        assert figures.LINE <= point["label_y"] <= figures.HEIGHT
        width = figures.LETTER * len(point["name"])
        left = point["label_x"] - (width if point["anchor"] == "end" else 0)
        boxes.append((left, left + width, point["label_y"] - figures.LINE, point["label_y"]))
    for (a, b, top, bottom), (c, d, other_top, other_bottom) in combinations(boxes, 2):
        assert b <= c or d <= a or bottom <= other_top or other_bottom <= top
    assert plot["x_ticks"]
