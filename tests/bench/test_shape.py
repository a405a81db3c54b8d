"""Timing of a shape: from graphs with random weights, and with times that are planted."""

import numpy as np
import pytest

from bench import shape as module
from bench.shape import markdown, measure_shape
from convert.random_weights import export_random
from shipvlm.families.qwen3_vl.shape import read_shape


@pytest.fixture(scope="module")
def small(tiny_checkpoint):
    import json

    return read_shape(json.loads((tiny_checkpoint / "config.json").read_text()))


@pytest.fixture(scope="module")
def folders(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("shape")
    export_random(small, root / "fp32", "fp32")
    export_random(small, root / "fp16", "fp16")
    export_random(small, root / "w8a8-static", "fp32", "w8a8-static")
    return {name: root / name for name in ("fp32", "fp16", "w8a8-static")}


def test_graph_sets_take_turns_and_every_part_has_its_ratio(folders, small):
    said = []
    found = measure_shape(
        folders,
        small,
        name="tiny",
        total_layers=6,
        prompt_tokens=12,
        decode_tokens=3,
        rounds=6,
        threads=1,
        progress=lambda *a: said.append(a),
    )
    assert said[-1] == ("time tiny", 8, 8)
    assert len(found["rounds"]) == 6
    assert list(found["ratio"]) == ["fp16", "w8a8-static"]
    for name, parts in found["ratio"].items():
        assert list(parts) == ["prefill", "decode"]
        for part, ratio in parts.items():
            ratios = [times["fp32"][part] / times[name][part] for times in found["rounds"]]
            assert ratio["value"] == pytest.approx(np.median(ratios))
            assert (ratio["low"], ratio["high"]) == (min(ratios), max(ratios))  # of six, the whole range
    for name in folders:
        for part, seconds in found["seconds"][name].items():
            assert seconds["value"] == pytest.approx(np.median([times[name][part] for times in found["rounds"]]))
    words = markdown(found)
    assert "tiny, 3 of its 6 decoder layers" in words
    assert "12 tokens" in words
    table = [line.split("|")[1:-1] for line in words.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in table[0]] == [
        "",
        "fp32, ms",
        "fp16, ms",
        "speed-up",
        "w8a8-static, ms",
        "speed-up",
    ]
    assert {len(row) for row in table} == {6}
    assert [row[0].strip() for row in table[2:]] == ["prefill", "decode"]


class Planted:
    """A decoder that takes the seconds it is told, by a clock that does not wait."""

    def __init__(self, name: str, seconds: float, clock: list[float], ran: list[str]) -> None:
        self.name, self.seconds, self.clock, self.ran = name, seconds, clock, ran

    def no_features(self):
        return None

    def prefill(self, batch, features, new_tokens, wanted=None):
        self.ran.append(self.name)
        self.clock[0] += self.seconds * len(batch.input_ids[0])
        return np.zeros((1, 4)), self

    def step(self, tokens):
        self.clock[0] += self.seconds
        return np.zeros((1, 4))


def test_times_are_those_of_the_runs_and_each_is_held_against_the_first(small, monkeypatch):
    clock, ran = [0.0], []
    monkeypatch.setattr(module, "perf_counter", lambda: clock[0])
    planted = {name: Planted(name, seconds, clock, ran) for name, seconds in (("a", 0.6), ("b", 0.3), ("c", 0.2))}
    monkeypatch.setattr(module, "load_decoder", lambda folder, shape, threads: planted[folder])
    monkeypatch.setattr(module, "describe_weights", lambda folder: {"bytes": 1_000_000})
    found = measure_shape(
        {name: name for name in planted}, small, name="x", total_layers=30, prompt_tokens=10, decode_tokens=2, rounds=2
    )
    assert ran == ["a", "b", "c", "c", "b", "a"] * 2  # two rounds to warm up, two that count
    assert {name: parts["prefill"]["value"] for name, parts in found["seconds"].items()} == pytest.approx(
        {"a": 6.0, "b": 3.0, "c": 2.0}
    )
    assert {name: parts["decode"]["value"] for name, parts in found["ratio"].items()} == pytest.approx(
        {"b": 2.0, "c": 3.0}
    )
    assert found["conditions"]["seconds"] >= 0 and isinstance(found["clean"], bool)


@pytest.mark.parametrize("reasons", [(), ("a compiler ran",)])
def test_disturbed_rounds_are_ambiguous(small, monkeypatch, reasons):
    clock = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module, "load_decoder", lambda folder, shape, threads: Planted(folder, 0.1, clock, []))
    monkeypatch.setattr(module, "describe_weights", lambda folder: {"bytes": 1})
    monkeypatch.setattr(module.conditions, "disturbed", lambda found: reasons)
    found = measure_shape(
        {name: name for name in ("a", "b")}, small, name="x", total_layers=30, prompt_tokens=10, rounds=2
    )
    assert (found["clean"], found["reasons"]) == (not reasons, list(reasons))
    words = markdown(found)
    assert ("AMBIGUOUS, the rounds were disturbed: a compiler ran." in words) == bool(reasons)
    assert words.count("| AMBIGUOUS 1.00x |") == len(found["ratio"]["b"]) * bool(reasons)
