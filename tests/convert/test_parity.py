"""The ladder on FP32 graphs: clean ones pass it, and each planted fault is found at its own rung."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from calib_data.records import Record
from convert import engines
from convert.export import export_graphs
from convert.ladder import ParityError
from convert.parity import check_parity
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl import grid
from shipvlm.recipe import ParitySection
from shipvlm.runtime import decoder
from tests.bench.made_records import records
from tests.convert.faults import Edit, broken_copy, change_weight, exchange, scale_output, turn_keys_back

SECTION = ParitySection(items=2, decode_steps=4)
RECORDS = records(4)
TEXT = "model.language_model.layers"


def ignore(*_: object) -> None:
    pass


def check(source: Path, graphs: Path, section: ParitySection = SECTION, data: list[Record] = RECORDS) -> dict[str, Any]:
    return check_parity(source, graphs, data, section, ignore)


def rung(ladder: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [each for each in ladder["rungs"] if each["rung"] == name]
    return found


def test_clean_graphs_pass(tiny_checkpoint: Path, tiny_graphs: Path) -> None:
    seen = set()

    def progress(what: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        seen.add(what)

    ladder = check_parity(tiny_checkpoint, tiny_graphs, RECORDS, SECTION, progress)
    assert [each["rung"] for each in ladder["rungs"]] == [
        "vision features",
        "DeepStack level 0",
        "DeepStack level 1",
        "prefill logits",
        "DeepStack ablation",
        "decode logits",
        *(f"{part} of layer {layer}" for layer in range(3) for part in ("keys", "values")),
        "greedy tokens",
    ]
    assert ladder["passed"]
    assert all(each["passed"] for each in ladder["rungs"])
    assert len(ladder["cases"]) == 2 + 3
    # Alone, two pictures, none, and again those in a batch: 7 requests, 4 steps each.
    assert rung(ladder, "decode logits")["rows"] == 7 * 4
    assert rung(ladder, "greedy tokens")["answers"] == rung(ladder, "greedy tokens")["equal"] == 7
    assert rung(ladder, "prefill logits")["top1"] == 1
    assert min(rung(ladder, "DeepStack ablation")["rms_change"]) > 0.01
    assert seen == {"parity: checkpoint", "parity: graphs"}
    written = json.dumps(ladder, allow_nan=False)
    assert str(tiny_graphs.parent) not in written
    assert written == json.dumps(check(tiny_checkpoint, tiny_graphs))


FAULTS: dict[str, tuple[str, Edit, str, str]] = {
    "features too long": ("vision", scale_output("image_features", 1.01), "vision features", "relative error 0.01"),
    "levels exchanged": (
        "vision",
        exchange("deepstack_features_0", "deepstack_features_1"),
        "DeepStack level 0",
        "are levels exchanged",
    ),
    "level is zeros": ("vision", scale_output("deepstack_features_1", 0.0), "DeepStack level 1", "cosine 0.0"),
    "levels read in the wrong order": (
        "decoder",
        exchange("deepstack_features_0", "deepstack_features_1"),
        "prefill logits",
        "holds up to layer 0",
    ),
    "keys rotated wrongly": ("decoder", turn_keys_back(0), "prefill logits", "look at positions and rotation"),
    "words of other tokens": (
        "decoder",
        change_weight("embed_tokens", lambda table: np.roll(table, 1, axis=0)),
        "prefill logits",
        "look at the embedding",
    ),
    "one Linear scaled": (
        "decoder",
        change_weight(f"{TEXT}.0.self_attn.o_proj", lambda weight: weight * 1.05),
        "prefill logits",
        "holds up to layer 0",
    ),
    "last Linear scaled": (
        "decoder",
        change_weight(f"{TEXT}.2.mlp.down_proj", lambda weight: weight * 1.05),
        "prefill logits",
        "holds in every layer",
    ),
    "logits too large": (
        "decoder",
        change_weight("lm_head", lambda weight: weight * 1.01),
        "prefill logits",
        "relative error 0.01",
    ),
    "NaN": (
        "decoder",
        change_weight(f"{TEXT}.1.mlp.down_proj", lambda weight: weight * np.nan),
        "prefill logits",
        "holds up to layer 1",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_at_its_rung(tiny_checkpoint: Path, tiny_graphs: Path, tmp_path: Path, name: str) -> None:
    graph, edit, first, hint = FAULTS[name]
    wrong = broken_copy(tiny_graphs, tmp_path / "wrong", graph, edit)
    with pytest.raises(ParityError, match=hint) as caught:
        check(tiny_checkpoint, wrong)
    assert str(caught.value).startswith(f"parity breaks first at {first}: ")
    ladder = caught.value.ladder
    names = [each["rung"] for each in ladder["rungs"]]
    failed = [each["rung"] for each in ladder["rungs"] if not each["passed"]]
    assert failed[0] == first
    assert all(each["passed"] for each in ladder["rungs"][: names.index(first)])
    assert not ladder["passed"]
    json.dumps(ladder, allow_nan=False)


@pytest.fixture
def wrong_theta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    right = grid._inverse_frequencies
    monkeypatch.setattr(grid, "_inverse_frequencies", lambda theta, width: right(theta if theta < 1e6 else 1e6, width))
    yield


@pytest.mark.usefixtures("wrong_theta")
def test_a_wrong_rope_theta(tiny_checkpoint: Path, tiny_graphs: Path) -> None:
    with pytest.raises(ParityError, match=r"first at prefill logits.*keys of layer 0 differ and its values do not"):
        check(tiny_checkpoint, tiny_graphs)


def test_wrong_positions_after_the_prompt(
    tiny_checkpoint: Path, tiny_graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = decoder.mrope_positions

    def later(*given: Any) -> tuple[np.ndarray, int]:
        positions, following = right(*given)
        return positions, following + 1

    monkeypatch.setattr(decoder, "mrope_positions", later)
    with pytest.raises(ParityError, match=r"first at decode logits.*look at the positions after them"):
        check(tiny_checkpoint, tiny_graphs)


def test_features_at_the_wrong_place_where_there_are_two_pictures(
    tiny_checkpoint: Path, tiny_graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = decoder.image_index

    def backwards(*given: Any) -> np.ndarray:
        index = right(*given)
        pictures = np.count_nonzero(np.diff((index >= 0).astype(int)) > 0)
        return np.where(index < 0, -1, index.max() - index) if pictures > 1 else index

    monkeypatch.setattr(decoder, "image_index", backwards)
    with pytest.raises(ParityError, match=r"first at prefill logits.*where picture features are put") as caught:
        check(tiny_checkpoint, tiny_graphs)
    assert rung(caught.value.ladder, "prefill logits")["worst"] in ("two pictures", "batch of unequal lengths")
    assert rung(caught.value.ladder, "greedy tokens")["answers"] == 7


def test_answers_that_differ_though_the_logits_hold(
    tiny_checkpoint: Path, tiny_graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shorter(model: Any, requests: Any, settings: Any, batch_size: int) -> Any:
        return right(model, requests, replace(settings, max_new_tokens=2), batch_size)

    right = engines.generate
    monkeypatch.setattr(engines, "generate", shorter)
    with pytest.raises(ParityError, match=r"first at greedy tokens: 0 of 7 answers are equal.*from token 2 on"):
        check(tiny_checkpoint, tiny_graphs)


def test_features_that_change_nothing_are_not_wired(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint, source)
    tensors = load_file(source / "model.safetensors")
    for name in tensors:
        if name.startswith("model.visual.deepstack_merger_list.1.linear_fc2."):
            tensors[name] = np.zeros_like(tensors[name])
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    export_graphs(source, tmp_path / "graphs", "fp32")
    with pytest.raises(ParityError, match="first at DeepStack ablation: zeros in place of level 1 change") as caught:
        check(source, tmp_path / "graphs")
    assert [each["rung"] for each in caught.value.ladder["rungs"] if not each["passed"]] == ["DeepStack ablation"]


def test_limits_are_those_of_the_recipe(tiny_checkpoint: Path, tiny_graphs: Path, tmp_path: Path) -> None:
    wrong = broken_copy(tiny_graphs, tmp_path / "wrong", "vision", scale_output("image_features", 1.01))
    with pytest.raises(ParityError):
        check(tiny_checkpoint, wrong, SECTION.model_copy(update={"cosine_min": 0.99999}))
    loose = check(tiny_checkpoint, wrong, SECTION.model_copy(update={"cosine_min": 0.99}))
    assert loose["passed"]


def test_graphs_of_another_checkpoint_are_refused(tiny_checkpoint: Path, tiny_graphs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_graphs, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    with pytest.raises(InputError, match=r"config\.json is not that of"):
        check(tiny_checkpoint, other)


def test_no_records_are_refused(tiny_checkpoint: Path, tiny_graphs: Path) -> None:
    with pytest.raises(InputError, match="at least one record"):
        check(tiny_checkpoint, tiny_graphs, data=[])
