"""Timing of a shape: from graphs with random weights, and with times that are planted."""

import numpy as np
import pytest

from bench import shape as module
from bench.shape import markdown, measure_shape
from convert.random_weights import export_random
from shipvlm.families.qwen3_vl.shape import read_shape
from tests.bench.made_lines import described


@pytest.fixture(scope="module")
def small(tiny_checkpoint):
    import json

    return read_shape(json.loads((tiny_checkpoint / "config.json").read_text()))


@pytest.fixture(scope="module")
def folders(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("shape")
    export_random(small, root / "fp32", "fp32")
    export_random(small, root / "w8a8-static", "fp32", "w8a8-static")
    return {name: root / name for name in ("fp32", "w8a8-static")}


def test_two_graph_sets_take_turns_and_every_part_has_its_ratio(folders, small):
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
    assert list(found["ratio"]) == ["prefill", "decode", "prefill of all layers", "decode of all layers"]
    for part, ratio in found["ratio"].items():
        ratios = [times["fp32"][part] / times["w8a8-static"][part] for times in found["rounds"]]
        assert ratio["value"] == pytest.approx(np.median(ratios))
        assert (ratio["low"], ratio["high"]) == (min(ratios), max(ratios))  # of six, the whole range
        for name in folders:
            assert found["seconds"][name][part]["value"] == pytest.approx(
                np.median([times[name][part] for times in found["rounds"]])
            )
    for word in ("tiny, 3 of its 6 decoder layers", "12 tokens", "| prefill |", "x ["):
        assert word in markdown(found)


class Planted:
    """A decoder that takes the seconds it is told, by a clock that does not wait."""

    def __init__(self, shape, layers: float, head: float, clock: list[float]) -> None:
        self.shape, self.layers, self.head, self.clock = shape, layers, head, clock

    def no_features(self):
        return None

    def prefill(self, batch, features, new_tokens, wanted=None):
        self.clock[0] += self.layers * len(batch.input_ids[0]) + (self.head if wanted is None else 0)
        return np.zeros((1, 4)), self

    def step(self, tokens):
        self.clock[0] += self.layers + self.head
        return np.zeros((1, 4))


def test_a_few_layers_stand_for_all_and_the_head_counts_once(small, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module, "sleep", lambda seconds: None)
    planted = {"slow": Planted(small, 0.3, 0.5, clock), "fast": Planted(small, 0.1, 0.5, clock)}
    monkeypatch.setattr(module, "load_decoder", lambda folder, shape, threads: planted[folder])
    monkeypatch.setattr(module, "describe_weights", lambda folder: described(1)["weights"])
    found = measure_shape(
        {name: name for name in planted}, small, name="x", total_layers=30, prompt_tokens=10, decode_tokens=2
    )
    seconds = {name: {part: each["value"] for part, each in parts.items()} for name, parts in found["seconds"].items()}
    assert seconds["slow"] == pytest.approx(
        {"prefill": 3.5, "decode": 0.8, "prefill of all layers": 30.5, "decode of all layers": 3.5}
    )
    assert seconds["fast"]["decode of all layers"] == pytest.approx(1.5)
    assert found["ratio"]["decode of all layers"]["value"] == pytest.approx(3.5 / 1.5)
