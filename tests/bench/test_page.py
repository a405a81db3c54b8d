"""The page and the table: whole, self-contained, and deaf to what answers say."""

import copy
import re
from html.parser import HTMLParser
from itertools import pairwise

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import figures, page, table
from bench.timing import STAGES
from tests.bench.made_lines import made_report

VOID = {"meta", "br", "img"}
HOSTILE = "</bdi><script>alert(1)</script><img src=http://example.com/x onerror=alert(2)> & \"'\n\u202e\x00"


class Page(HTMLParser):
    """Tags with their attributes, text outside style, and whether every tag that is opened is closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def made():
    return made_report()


@pytest.fixture(scope="module")
def whole(made):
    return Page(page.render(made))


def check_self_contained(found: Page) -> None:
    assert found.open == []
    names = {name for name, _ in found.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "base", "form", "a"}
    for name, attributes in found.tags:
        assert not [key for key in attributes if key.startswith("on")], (name, attributes)
        for key in ("src", "href", "xlink:href", "srcset", "style"):
            assert (attributes.get(key) or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")


def test_the_page_is_self_contained(made, whole):
    check_self_contained(whole)
    source = page.render(made)
    assert not re.search(r"url\(|@import|https?:", source)
    assert "default-src 'none'" in source


def test_every_part_is_there(made, whole):
    assert whole.count("svg") == 2
    assert whole.count("circle") == len(made["variants"])
    assert whole.count("rect") == len(made["variants"]) * len(STAGES)
    assert whole.count("img") == len(made["flips"]) > 0
    for word in (*made["variants"], made["command"], made["machine"]["cpu"], made["data"]["digest"], "faster", "worse"):
        assert word in whole.text
    for name, version in made["libraries"].items():
        assert f"{name} {version}" in whole.text
    for note in made["notes"]:
        assert note in whole.text
    entry = made["variants"]["onnx-w8a8-static"]
    assert f"{1e3 * entry['latency']['ttft']['value']:.1f}" in whole.text
    assert f"{100 * entry['difference']['all']['value']:+.1f}" in whole.text


def test_the_verdict_comes_first(made):
    source = page.render(made)
    assert source.index('class="verdict ') < source.index("<table>") < source.index("<svg")


def test_it_is_for_light_dark_phone_and_paper(made):
    source = page.render(made)
    for query in ("prefers-color-scheme: dark", "@media print", "max-width: 46rem", 'name="viewport"'):
        assert query in source


def hostile(made, text):
    """The report with `text` wherever something from outside can come in."""
    changed = copy.deepcopy(made)
    for flip in changed["flips"]:
        flip |= {"prompt": text, "id": text, "task": text, "references": [text]}
        flip["baseline"]["answer"] = flip["answered"]["answer"] = text
    changed["command"] = changed["machine"]["cpu"] = changed["data"]["name"] = text
    changed["libraries"] = {"torch": text}
    changed["variants"] = {
        text if name == "onnx-fp32" else name: {**entry, "digest": text} for name, entry in made["variants"].items()
    }
    changed["verdict"] = {text if name == "onnx-fp32" else name: words for name, words in made["verdict"].items()}
    return changed


def test_what_comes_from_outside_is_text(made, whole):
    found = Page(page.render(hostile(made, HOSTILE)))
    check_self_contained(found)
    assert [name for name, _ in found.tags] == [name for name, _ in whole.tags]
    assert HOSTILE.replace("\x00", "\ufffd") in found.text.replace("\x00", "\ufffd")


@settings(max_examples=15, deadline=None)
@given(text=st.text(min_size=1, max_size=40))
def test_no_text_changes_the_structure(made, whole, text):
    found = Page(page.render(hostile(made, text)))
    assert [name for name, _ in found.tags] == [name for name, _ in whole.tags]


def test_a_missing_number_is_an_error_and_not_a_gap(made):
    changed = copy.deepcopy(made)
    del changed["machine"]["cores"]
    with pytest.raises((jinja2.UndefinedError, KeyError)):
        page.render(changed)


def test_a_baseline_alone_and_too_few_items_have_a_page():
    few = made_report(count=8, timed=1)
    found = Page(page.render(few))
    assert "INCONCLUSIVE" in found.text
    few["variants"] = {"fp16": few["variants"]["fp16"]}
    few["verdict"], few["flips"] = {}, []
    found = Page(page.render(few))
    assert found.count("circle") == 1
    assert "Only fp16 was measured" in found.text


def test_marks_lie_inside_the_figures(made):
    drawn = figures.scatter(made)
    for point in drawn["points"]:
        for x in (point["x"], *point["x_bar"]):
            assert drawn["left"] <= x <= drawn["right"]
        for y in (point["y"], *point["y_bar"]):
            assert drawn["top"] <= y <= drawn["bottom"]
    order = sorted(made["variants"], key=lambda name: made["variants"][name]["latency"]["e2e"]["value"])
    assert [point["name"] for point in sorted(drawn["points"], key=lambda point: point["x"])] == order
    bars = figures.bars(made)
    ends = {row["name"]: row["end"] for row in bars["rows"]}
    assert max(ends.values()) <= bars["width"]
    assert ends["onnx-w8a8-static"] < ends["onnx-fp32"] < ends["fp16"]


def test_labels_of_points_that_lie_together_do_not():
    report = made_report()
    for entry in report["variants"].values():
        entry |= {name: report["variants"]["fp16"][name] for name in ("latency", "score")}
    places = sorted(point["label_y"] for point in figures.scatter(report)["points"])
    assert min(b - a for a, b in pairwise(places)) >= figures.LINE


def test_the_table_is_whole_and_aligned(made):
    lines = [line for line in table.markdown(made).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert len({line.count("|") for line in lines}) == 1
    for word in ("onnx-w8a8-static", "time to first token, ms", "top-1 agreement, %", "baseline"):
        assert word in table.markdown(made)
    assert made["machine"]["cpu"] in table.markdown(made)


def test_device_memory_has_a_row_where_there_is_a_device(made):
    assert "device memory" not in table.markdown(made)
    changed = copy.deepcopy(made)
    changed["variants"]["fp16"]["memory"]["peak_vram"] = 2_500_000_000
    assert "2500" in table.markdown(changed)
    assert "device 2500" in Page(page.render(changed)).text


def test_percent():
    assert table.percent({"n": 40, "value": 0.5, "low": 0.41, "high": 0.6}) == "50.0 [41.0, 60.0]"
    assert table.percent({"n": 40, "value": 0.02, "low": -0.01, "high": 0.05}, signed=True) == "+2.0 [-1.0, +5.0]"
    assert table.percent({"n": 4, "value": 0.5, "low": None, "high": None}) == "50.0 INCONCLUSIVE (n=4)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.4123, "0.412"),
        (0.9996, "1.00"),
        (4.126, "4.13"),
        (9.996, "10.0"),
        (41.26, "41.3"),
        (4126.4, "4126"),
    ],
)
def test_three_digits_that_count(value, text):
    assert table.number(value) == text
