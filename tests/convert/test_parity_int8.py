"""The ladder from an INT8 checkpoint to its graphs: both round, so both are noisy, and faults must stand out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.export import export_graphs
from convert.ladder import ParityError
from convert.parity import check_parity
from quantize.stage import run
from shipvlm.recipe import ParitySection, QuantizeSection
from tests.bench.made_records import records
from tests.convert.faults import Edit, broken_copy, change_weight, leave_activations_alone

SECTION = ParitySection(items=3, decode_steps=16, noise_max=1.5)
RECORDS = records(24, seed=1)


def ignore(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def quantized(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "quantized"
    folder.mkdir()
    run(tiny_checkpoint, QuantizeSection(observer="minmax"), records(8), folder, ignore)
    return folder


@pytest.fixture(scope="module")
def graphs(quantized: Path) -> Path:
    export_graphs(quantized, quantized.parent / "graphs", "fp32")
    return quantized.parent / "graphs"


def rung(ladder: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [each for each in ladder["rungs"] if each["rung"] == name]
    return found


def test_clean_graphs_pass(quantized: Path, graphs: Path, tiny_checkpoint: Path) -> None:
    ladder = check_parity(quantized, graphs, RECORDS, SECTION, ignore, tiny_checkpoint)
    assert ladder["passed"]
    assert ladder["kind"] == "int8"
    assert rung(ladder, "vision features")["cosine"] >= 0.99999
    assert rung(ladder, "prefill logits")["noise_ratio"] < 1
    answers = rung(ladder, "answer tokens")
    assert answers["rows"] >= answers["limits"]["rows"] == 200
    assert answers["agreement"] >= 0.995
    assert "passed" not in rung(ladder, "greedy tokens")
    loss, noise = ladder["reference"]["prefill logits"], rung(ladder, "prefill logits")
    assert loss["kl_mean"] > 5 * noise["kl_mean"]
    assert 0 < loss["rows"] < noise["rows"]  # some of the cases


FAULTS: dict[str, tuple[Edit, str]] = {
    "scale of an input": (change_weight("0.self_attn.o_proj.input_scale", lambda scale: scale * 1.5), "up to layer 0"),
    "scales of a weight": (change_weight("1.mlp.down_proj.weight_scale", np.flip), "up to layer 1"),
    "inputs are not rounded": (leave_activations_alone, "the cache"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(quantized: Path, graphs: Path, tmp_path: Path, name: str) -> None:
    edit, hint = FAULTS[name]
    wrong = broken_copy(graphs, tmp_path / "wrong", "decoder", edit)
    with pytest.raises(ParityError, match=hint) as caught:
        check_parity(quantized, wrong, RECORDS, SECTION, ignore)
    assert str(caught.value).startswith("parity breaks first at prefill logits: ")
    assert rung(caught.value.ladder, "prefill logits")["noise_ratio"] > SECTION.noise_max


def test_too_few_answers_do_not_pass(quantized: Path, graphs: Path) -> None:
    with pytest.raises(ParityError, match=r"first at answer tokens: INCONCLUSIVE: .* takes 200 to decide") as caught:
        check_parity(quantized, graphs, RECORDS[:3], SECTION, ignore)
    assert [each["rung"] for each in caught.value.ladder["rungs"] if each.get("passed") is False] == ["answer tokens"]


def test_fp16_graphs_are_judged_by_their_answers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    export_graphs(tiny_checkpoint, tmp_path / "graphs", "fp16")
    ladder = check_parity(tiny_checkpoint, tmp_path / "graphs", RECORDS, SECTION, ignore)
    assert ladder["kind"] == "fp16"
    judged = [each["rung"] for each in ladder["rungs"] if "passed" in each]
    assert judged == ["DeepStack ablation", "answer tokens"]


def test_a_checkpoint_without_int8_inputs_is_held_to_fp32(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "w8a16").mkdir()
    run(tiny_checkpoint, QuantizeSection(scheme="w8a16"), None, tmp_path / "w8a16", ignore)
    export_graphs(tmp_path / "w8a16", tmp_path / "graphs", "fp32")
    ladder = check_parity(tmp_path / "w8a16", tmp_path / "graphs", RECORDS[:2], SECTION, ignore)
    assert ladder["kind"] == "fp32"
    assert all(each["passed"] for each in ladder["rungs"])
