"""The page as a browser shows it: nothing complains, nothing sticks out, the figures are there."""

import pytest

from bench import page
from bench.timing import STAGES
from tests.bench import browser
from tests.bench.made_run import made_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    source, folder = page.render(made_report()), tmp_path_factory.mktemp("browser")
    return {(width, dark): browser.look(source, width, folder, dark) for width, dark in ((360, False), (1100, True))}


@pytest.mark.parametrize("view", [(360, False), (1100, True)])
def test_it_is_shown_whole(seen, view):
    found = seen[view]
    assert found["console"] == []
    assert found["scroll"] == found["width"] == view[0]
    assert found["outside"] == []
    assert (found["figures"], found["circles"], found["images"]) == (3, 5, 2)
    assert found["bars"] >= 4 * (len(STAGES) - 2) + 12  # two stages may be too short to see


def test_dark_is_dark(seen):
    colours = [sum(map(int, found["background"][4:-1].split(","))) for found in seen.values()]
    assert colours[0] > 700
    assert colours[1] < 100


def test_what_a_page_does_wrong_is_seen(tmp_path):
    wide = '<body style="margin: 0"><div style="width: 500px">wide</div><script>console.error("no")</script></body>'
    found = browser.look(wide, 360, tmp_path)
    assert found["scroll"] == 500
    assert found["outside"] == ["DIV."]
    assert len(found["console"]) == 1
