"""What is said before a run: how much would be measured, what it can decide, and what stands in its way."""

import pytest

from bench import check
from bench.power import smallest_margin
from bench.variants import Variant
from shipvlm.errors import InputError
from shipvlm.recipe import BenchSection, GateSection
from tests.bench.made_records import records
from tests.bench.made_run import made_limits

DATA = records(160)


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    """The machine's limits: measuring them is tests/bench/test_roofline's matter."""
    monkeypatch.setattr(check, "measure_limits", lambda *_: made_limits(["base", "graphs"]))


def found(tmp_path, gates: GateSection | None = None, **fields):
    section = BenchSection.model_validate({"limit": 40, "blocks": 6, "latency_items": 8, "repeats": 1} | fields)
    given = [Variant("base", tmp_path, "transformers"), Variant("graphs", tmp_path, "onnxruntime")]
    return check.check(given, DATA, section, gates or GateSection())


def test_it_counts_what_would_be_measured(tmp_path):
    told = found(tmp_path)
    assert [variant["name"] for variant in told["variants"]] == ["base", "graphs", "null"]
    assert (told["items"], told["tasks"]["ocr"], told["processes"]) == (160, 40, 3 * 6 + 3)
    low, high = told["seconds"]
    assert 0 < low < high
    assert "variants: base, graphs, null" in check.lines(told)
    assert found(tmp_path, measure=["accuracy"])["processes"] == 3


def test_it_says_what_so_many_items_decide(tmp_path):
    told = found(tmp_path, GateSection(score=0.03))
    margins = {each["flips"]: each["margin"] for each in told["margins"]}
    assert margins[0.0] == smallest_margin(160, 0.0) == pytest.approx(0.019)
    assert sorted(margins.values()) == list(margins.values())
    assert "gates.score 0.03: can be decided where at most 1 % of the answers change" in check.lines(told)
    open_ = check.lines(found(tmp_path, GateSection(score=0.01)))
    assert "gates.score 0.01: cannot be decided with 160 items: INCONCLUSIVE at best" in open_


@pytest.mark.parametrize(
    ("fields", "message", "stops"),
    [
        ({"variants": ["bnb-nf4"]}, "bnb-nf4 needs the package bitsandbytes", True),
        ({"blocks": 3}, "with fewer than 5 every time is AMBIGUOUS", False),
        ({"limit": 5}, "20 items are too few for any interval", False),
    ],
)
def test_problems_are_named(tmp_path, monkeypatch, fields, message, stops):
    monkeypatch.setattr(check, "find_spec", lambda name: None)
    told = found(tmp_path, **fields)
    [problem] = told["problems"]
    assert message in problem["message"]
    assert problem["stops"] == stops
    assert (told["limits"] is None) == stops
    assert any(message in line for line in check.lines(told))


def test_a_gpu_that_is_not_there_stops_it(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "_cuda", lambda: False)
    section = BenchSection(device="cuda")
    told = check.check([Variant("base", tmp_path, "transformers", "cuda")], DATA, section, GateSection())
    assert [problem["stops"] for problem in told["problems"]] == [True]


def test_what_run_refuses_is_refused(tmp_path):
    with pytest.raises(InputError, match="rename the folder"):
        check.check([Variant("null", tmp_path, "transformers")], DATA, BenchSection(), GateSection())
