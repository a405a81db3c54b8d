"""What an exported folder is: its files, its contract, its numbers as the checkpoint stores them."""

import json

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.export import export_graphs
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.shape import read_shape
from shipvlm.folder import SIDE_FILES
from tests.convert.models import load_reference, make_prompt, read_config, reference_text, write_checkpoint
from tests.convert.sessions import Decoder, session

# Operators with a subgraph, or with a shape that depends on values.
REFUSED = {"Loop", "Scan", "If", "SequenceMap", "NonZero", "Compress", "Unique"}


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def exported(request, tmp_path_factory, tiny_checkpoint):
    out = tmp_path_factory.mktemp("export") / "onnx"
    report = export_graphs(tiny_checkpoint, out, request.param)
    return out, report


def test_the_graphs_pass_the_checker_and_use_only_standard_operators(exported):
    out, report = exported
    for name in ("vision", "decoder"):
        onnx.checker.check_model(out / f"{name}.onnx", full_check=True)
        model = onnx.load(out / f"{name}.onnx", load_external_data=False)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 24)]
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}
        kinds = {node.op_type for node in model.graph.node}
        assert not kinds & REFUSED
        assert kinds == report["graphs"][name]["nodes"].keys()


def test_inputs_and_outputs_are_those_of_the_contract(exported):
    out, report = exported
    number = {"fp32": "float", "fp16": "float16"}[report["precision"]]
    found = {}
    for name in ("vision", "decoder"):
        graph = session(out / f"{name}.onnx")
        found[name] = [
            {value.name: (value.type[7:-1], value.shape) for value in side}
            for side in (graph.get_inputs(), graph.get_outputs())
        ]
    levels = [f"deepstack_features_{level}" for level in range(2)]
    assert found["vision"] == [
        {
            "pixel_values": (number, ["patches", 1536]),
            "position_index": ("int64", [4, "patches"]),
            "position_weight": (number, [4, "patches"]),
            "cos": (number, ["patches", 8]),
            "sin": (number, ["patches", 8]),
        },
        dict.fromkeys(["image_features", *levels], (number, ["image_tokens", 64])),
    ]
    tokens = ["batch", "sequence"]
    caches = [f"{kind}_cache_{layer}" for layer in range(3) for kind in ("key", "value")]
    cache = (number, ["batch", 2, "max_length", 16])
    assert found["decoder"][0] == {
        "input_ids": ("int64", tokens),
        "image_index": ("int64", tokens),
        "image_features": (number, ["image_tokens", 64]),
        **dict.fromkeys(levels, (number, ["image_tokens", 64])),
        "cos": (number, [*tokens, 8]),
        "sin": (number, [*tokens, 8]),
        "past_lengths": ("int64", ["batch"]),
        "logit_index": ("int64", ["rows"]),
        **dict.fromkeys(caches, cache),
    }
    vocabulary = found["decoder"][1].pop("logits")
    assert (vocabulary[0], vocabulary[1][0]) == (number, "rows")
    assert found["decoder"][1] == {f"{name}_out": cache for name in caches}


def test_the_folder_has_the_side_files_byte_for_byte_and_says_what_it_is(exported, tiny_checkpoint):
    out, report = exported
    side_files = {name for name in SIDE_FILES if (tiny_checkpoint / name).is_file()}
    graphs = {f"{name}.onnx{part}" for name in ("vision", "decoder") for part in ("", ".data")}
    assert {path.name for path in out.iterdir()} == side_files | graphs | {"graphs.json"}
    for name in side_files:
        assert (out / name).read_bytes() == (tiny_checkpoint / name).read_bytes()
    contract = json.loads((out / "graphs.json").read_text())
    assert contract == {
        "schema_version": 1,
        "family": "qwen3_vl",
        "precision": report["precision"],
        "deepstack_levels": 2,
        "scheme": None,
        "opset": 24,
    }
    assert {**contract, "graphs": report["graphs"]} == report


def test_the_same_checkpoint_gives_the_same_bytes(exported, tiny_checkpoint, tmp_path):
    out, report = exported

    assert export_graphs(tiny_checkpoint, tmp_path / "again", report["precision"]) == report

    for path in out.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_16_bit_weights_stay_16_bit_on_disk_and_compute_as_if_cast_before(tmp_path, tiny_checkpoint, dtype, tied):
    narrow = write_checkpoint(tmp_path / "narrow", tiny_checkpoint, levels=1, tied=tied, dtype=dtype)
    wide = tmp_path / "wide"
    wide.mkdir()
    for path in narrow.iterdir():
        (wide / path.name).write_bytes(path.read_bytes())
    weights = load_file(narrow / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    save_file({name: tensor.float() for name, tensor in weights.items()}, wide / "model.safetensors")

    reports = [export_graphs(folder, folder / "onnx", "fp32")["graphs"] for folder in (narrow, wide)]

    stored = sum(tensor.nbytes for tensor in weights.values())
    data = sum((narrow / "onnx" / f"{name}.onnx.data").stat().st_size for name in ("vision", "decoder"))
    assert stored - 20_000 < data <= stored + 512  # the small tensors are in the .onnx files
    assert reports[1]["decoder"]["bytes"] > 1.4 * reports[0]["decoder"]["bytes"]
    shape = read_shape(read_config(narrow))
    prompt = make_prompt(np.random.default_rng(0), [(1, 4, 6)], words=4)
    logits = []
    for folder in (narrow, wide):
        decoder = Decoder(folder / "onnx" / "decoder.onnx", shape, 16)
        logits.append(decoder.prefill(session(folder / "onnx" / "vision.onnx"), [prompt]))
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_fp16_graphs_are_near_the_fp32_reference(tmp_path, tiny_checkpoint, dtype):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_checkpoint, levels=2, tied=True, dtype=dtype)
    export_graphs(checkpoint, tmp_path / "onnx", "fp16")
    prompt = make_prompt(np.random.default_rng(0), [(1, 4, 6), (1, 2, 2)], words=4)
    decoder = Decoder(tmp_path / "onnx" / "decoder.onnx", read_shape(read_config(checkpoint)), 32)

    logits = decoder.prefill(session(tmp_path / "onnx" / "vision.onnx"), [prompt])

    assert logits.dtype == np.float16
    wanted, _ = reference_text(load_reference(checkpoint), prompt, [])
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=0.01 * np.abs(wanted).max())


def test_a_weight_that_fp16_cannot_hold_is_refused_and_named(tmp_path, tiny_checkpoint):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_checkpoint, levels=1, tied=True)
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.visual.merger.linear_fc2.weight"][3, 5] = 1e5
    save_file(weights, checkpoint / "model.safetensors")

    with pytest.raises(InputError, match=r"merger\.linear_fc2\.weight .*FLOAT16.*fp32"):
        export_graphs(checkpoint, tmp_path / "onnx", "fp16")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda weights: weights.pop("model.language_model.norm.weight"), "missing.*language_model.norm.weight"),
        (lambda weights: weights.update(more=torch.ones(2)), "unexpected.*more"),
        (lambda weights: weights.update({"model.language_model.norm.weight": torch.ones(2)}), "misshapen.*norm.weight"),
        (lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"].int()}), "another type.*lm_head"),
        (lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"].double()}), "F64"),
    ],
)
def test_a_checkpoint_with_other_tensors_than_its_config_says_is_refused(tmp_path, tiny_checkpoint, change, problem):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_checkpoint, levels=1, tied=False)
    weights = load_file(checkpoint / "model.safetensors")
    change(weights)
    save_file(weights, checkpoint / "model.safetensors")

    with pytest.raises(InputError, match=problem):
        export_graphs(checkpoint, tmp_path / "onnx", "fp32")

    assert not (tmp_path / "onnx").exists()


def test_damaged_weights_are_refused(tmp_path, tiny_checkpoint):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_checkpoint, levels=1, tied=True)
    whole = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(whole[:-100])

    with pytest.raises(InputError, match="fetch the checkpoint again"):
        export_graphs(checkpoint, tmp_path / "onnx", "fp32")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, tiny_checkpoint):
    (tmp_path / "mine.txt").write_text("mine")

    with pytest.raises(InputError, match="not empty"):
        export_graphs(tiny_checkpoint, tmp_path, "fp32")

    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
