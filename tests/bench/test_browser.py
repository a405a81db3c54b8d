"""The page as a browser shows it: nothing complains, nothing sticks out, the figures are there."""

import shutil
from pathlib import Path

import pytest

from bench import page, report
from bench.timing import STAGES
from tests.bench import browser
from tests.bench.made_run import made_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]


RESULTS = Path(__file__).parents[2] / "docs/results"
VIEWS = {
    "screen": {"width": 1300, "dark": True},
    "phone": {"width": 390},
    "print": {"width": 718, "printed": True},  # A4 without the margins that a browser leaves
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    source, folder = page.render(made_report()), tmp_path_factory.mktemp("browser")
    return {name: browser.look(source, folder=folder, **view) for name, view in VIEWS.items()}


def check_whole(found, view):
    assert found["console"] == []
    assert found["scroll"] == found["width"] == VIEWS[view]["width"]
    assert found["outside"] == found["cut"] == []


@pytest.mark.parametrize("view", VIEWS)
def test_it_is_shown_whole(seen, view):
    found = seen[view]
    check_whole(found, view)
    assert (found["figures"], found["circles"], found["images"]) == (3, 5, 2)
    assert found["bars"] >= 4 * (len(STAGES) - 2) + 12  # two stages may be too short to see


@pytest.mark.parametrize("folder", sorted(path.parent for path in RESULTS.glob("*/plan.json")), ids=lambda f: f.name)
def test_a_measured_result_is_shown_whole(folder, tmp_path):
    """Seven variants on a GPU have wider tables than what tests make up."""
    shutil.copytree(folder, tmp_path / "result")
    source = page.render(report.rebuild(tmp_path / "result"))
    for view, given in VIEWS.items():
        check_whole(browser.look(source, folder=tmp_path, **given), view)


def test_dark_is_dark_but_on_paper(seen):
    colours = {view: sum(map(int, found["background"][4:-1].split(","))) for view, found in seen.items()}
    assert colours["screen"] < 100
    assert colours["phone"] > 700
    assert colours["print"] > 700


def test_what_a_page_does_wrong_is_seen(tmp_path):
    wide = '<body style="margin: 0"><div style="width: 500px">wide</div><script>console.error("no")</script></body>'
    found = browser.look(wide, 360, tmp_path)
    assert found["scroll"] == 500
    assert found["outside"] == ["DIV."]
    assert len(found["console"]) == 1


def test_what_is_cut_is_seen(tmp_path):
    style = "<style>@media screen { td { white-space: nowrap } } @media print { svg { display: none } }</style>"
    box = '<div style="width: 90px; overflow: auto"><table><tr><td>a long line of words</table></div>'
    picture = '<svg viewBox="0 0 9 9" style="width: 90px"><text x="5" y="5">far too long</text></svg>'
    source = style + box + picture
    assert browser.look(source, 500, tmp_path)["cut"] == ["DIV.", "text: far too long"]
    assert browser.look(source, 500, tmp_path, printed=True)["cut"] == []
