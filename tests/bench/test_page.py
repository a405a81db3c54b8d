"""The page: whole, self-contained, and deaf to what answers say."""

import copy
import re
from html.parser import HTMLParser

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import markdown, page
from bench.timing import STAGES
from tests.bench.made_run import made_report

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
        for key in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(key) or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert re.fullmatch(r"width: [\d.]+(%|rem)(; [a-z-]+: [a-z-]+)*", attributes.get("style") or "width: 0%")


def test_the_page_is_self_contained(made, whole):
    check_self_contained(whole)
    source = page.render(made)
    assert not re.search(r"url\(|@import|https?:", source)
    assert "default-src 'none'" in source


def test_every_part_is_there(made, whole):
    for title in (
        "What the data supports", "Every variant against original", "Speed, memory, score: vqa-small",
        "Where the time goes: vqa-small", "How near the machine's limit: vqa-small", "Times: vqa-small", "Memory",
        "Score by task", "Fidelity", "Answers that lost most", "Blocks", "Measured on", "Measure it again",
    ):  # fmt: skip
        assert title in whole.text, title
    assert whole.count("figure") == 3
    assert whole.count("circle") == 3 + 2  # the marks and their key
    classes = [attributes.get("class") for name, attributes in whole.tags if name == "span"]
    assert sum(name in STAGES for name in classes) == 4 * len(STAGES)
    assert whole.count("i") == 3 * 4  # a bar for each stage of each variant that was timed
    assert whole.count("img") == len(made["flips"]) == 2
    for word in (*made["variants"], made["command"], made["machine"]["cpu"], made["data"]["digest"]):
        assert word in whole.text
    for name, version in made["libraries"].items():
        assert f"{name} {version}" in whole.text


def test_the_verdict_comes_first(made, whole):
    text = " ".join(whole.text.partition("against original")[2].split())
    assert text.startswith("PASS onnx-w8a8-static holds what is asked of it against original.")


def test_the_same_numbers_as_in_markdown(made, whole):
    numbers = re.findall(r"\[[^\]]+\]", markdown.markdown(made))
    assert len(numbers) > 50
    for number in numbers:
        assert number in whole.text


def test_answers_are_text(made):
    hostile = copy.deepcopy(made)
    hostile["flips"][0]["answered"]["answer"] = hostile["flips"][0]["prompt"] = HOSTILE
    hostile["command"] = hostile["data"]["name"] = HOSTILE
    hostile["variants"]["onnx"]["label"] = hostile["machine"]["cpu"] = HOSTILE
    hostile["variants"]["onnx"]["blocks"]["disturbed"] = [{"block": 0, "attempt": 0, "reasons": [HOSTILE]}]
    found = Page(page.render(hostile))
    check_self_contained(found)
    assert "alert(1)" in found.text


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=40))
def test_any_answer_keeps_the_page_whole(text):
    found = copy.deepcopy(made_report())
    found["flips"] = found["flips"][:1]
    found["flips"][0]["answered"]["answer"] = found["flips"][0]["baseline"]["answer"] = text
    check_self_contained(Page(page.render(found)))


def test_a_number_that_lacks_is_an_error(made):
    lacking = copy.deepcopy(made)
    del lacking["machine"]["system"]
    with pytest.raises(jinja2.UndefinedError):
        page.render(lacking)


def test_a_cell_is_cut_in_pieces():
    kinds = [(part["kind"], part["text"]) for part in page.parts("FASTER 1.93x [1.88, 2.01]; 4.0 (n=12)")]
    assert kinds == [
        ("word good", "FASTER"), ("value", "1.93x"), ("interval", "[1.88, 2.01]"), ("gap", ""), ("value", "4.0"),
        ("interval", "(n=12)"),
    ]  # fmt: skip
    assert page.parts("") == []
    assert [part["kind"] for part in page.parts("4,096 tokens, the model's most; 12")] == ["value long", "gap", "value"]


def test_empty_bars_are_not_drawn(made):
    far = copy.deepcopy(made)
    for entry in far["variants"].values():
        for each in entry["limits"].values():
            each["request"]["reached"] = 0.0004
    found = Page(page.render(far))
    assert (found.count("i"), found.count("figure")) == (0, 2)
    assert "original takes" in found.text
    assert "GB/s from memory" in found.text


def test_what_is_missing_is_said_on_top(made):
    cut = copy.deepcopy(made)
    cut["complete"] = False
    cut["missing"] = [{"variant": "null", "phase": "accuracy", "block": 0, "done": 10, "wanted": 40}]
    text = Page(page.render(cut)).text
    assert "30 answers (null) were not measured" in text
    assert text.index("were not measured") < text.index("What the data supports")


def test_one_variant_alone_and_no_times_make_a_page(made):
    alone = copy.deepcopy(made)
    alone |= {"candidate": "original", "judgement": None, "flips": [], "limits": None}
    alone["variants"] = {"original": alone["variants"]["original"] | {"limits": {}}}
    check_self_contained(Page(page.render(alone)))
    still = copy.deepcopy(made)
    for entry in still["variants"].values():
        entry |= {"latency": {}, "stages": {}, "ratio": {}, "cold_start": None, "limits": {}}
    found = Page(page.render(still))
    assert found.count("figure") == 0
    assert "Where the time goes" not in found.text
