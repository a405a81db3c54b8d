"""The results under docs/results were measured elsewhere: they can be read, derived again and compared here."""

import json
import re
import shutil
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pytest

from bench import plan, report
from bench.compare import compare
from bench.compare_markdown import markdown
from shipvlm.errors import InputError

ROOT = Path(__file__).parents[2]
RESULTS = sorted(path.parent for path in (ROOT / "docs/results").glob("*/plan.json"))


def said(found):
    """Every word that a report says, and its numbers to four digits: libraries differ in the last bits."""
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.4g}", json.dumps(found))


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_the_report_is_what_its_lines_say(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "result")
    committed = json.loads((folder / "bench.json").read_bytes())
    again = report.rebuild(tmp_path / "result")
    assert again["complete"] == ("Not complete" not in (folder / "bench.md").read_text())
    for name in ("judgement", "variants"):
        assert said(again[name]) == said(committed[name])
    assert (tmp_path / "result" / "bench.md").read_text() == (folder / "bench.md").read_text()


@pytest.mark.parametrize(("left", "right"), list(product(RESULTS, repeat=2)), ids=lambda folder: folder.name)
def test_two_results_compare_on_another_machine(left, right):
    both = plan.read(left), plan.read(right)
    timed, scored = (all(phase in each.phases for each in both) for phase in ("timing", "accuracy"))
    if scored and both[0].items != both[1].items:
        refused = "the data differ"
    else:
        refused = "" if timed or scored else "nothing was measured in both"
    with pytest.raises(InputError, match=refused) if refused else nullcontext():
        found = compare(left, right)
    if refused:
        return
    assert bool(found["times"]) == timed
    if not scored:
        assert "| score all, %" not in markdown(found)
        return
    assert found["items"] == found["planned"] > 0
    assert "| score all, %" in markdown(found)
    if left == right:
        assert found["difference"]["all"]["value"] == 0
        assert found["flips"]["worse"]["count"] == found["flips"]["better"]["count"] == 0
