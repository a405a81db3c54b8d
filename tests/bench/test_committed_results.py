"""The results under docs/results were measured elsewhere: they can be read, derived again and compared here."""

import json
import re
import shutil
from itertools import product
from pathlib import Path

import pytest

from bench import plan, report
from bench.compare import compare
from bench.compare_markdown import markdown
from shipvlm.errors import InputError

ROOT = Path(__file__).parents[2]
RESULTS = sorted(path.parent for path in (ROOT / "docs/results").glob("*/plan.json"))


def measured(phase: str) -> set[Path]:
    return {folder for folder in RESULTS if phase in plan.read(folder).phases}


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
    both = {left, right}
    asked = [plan.read(folder).items for folder in both if folder in measured("accuracy")]
    if both <= measured("accuracy") and asked[0] != asked[-1]:
        with pytest.raises(InputError, match="the data differ"):
            compare(left, right)
        return
    if not (both <= measured("accuracy") or both <= measured("timing")):
        with pytest.raises(InputError, match="nothing was measured in both"):
            compare(left, right)
        return
    found = compare(left, right)
    assert bool(found["times"]) == (both <= measured("timing"))
    if not both <= measured("accuracy"):
        assert "| score all, %" not in markdown(found)
        return
    assert found["items"] == found["planned"] > 0
    assert "| score all, %" in markdown(found)
    if left == right:
        assert found["difference"]["all"]["value"] == 0
        assert found["flips"]["worse"]["count"] == found["flips"]["better"]["count"] == 0
