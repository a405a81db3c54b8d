"""INT8 graphs against transformers, which reads the same checkpoint with compressed-tensors."""

import collections
import json
import math

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.export import export_graphs
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.layers import decoder_groups
from shipvlm.families.qwen3_vl.shape import read_shape
from tests.convert.models import (
    change_config,
    load_reference,
    make_prompt,
    read_config,
    reference_text,
    write_checkpoint,
)
from tests.convert.sessions import Decoder, session

INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False}
LAYERS = 4


def quantize(folder, groups):
    """Turn a checkpoint into an `int-quantized` one with made-up input scales, by hand."""
    weights = load_file(folder / "model.safetensors")
    for number, group in enumerate(groups):
        for name in group:
            weight = weights[f"{name}.weight"].float()
            scale = (weight.abs().amax(1, keepdim=True) / 127).half().float()
            weights[f"{name}.weight"] = (weight / scale).round().clamp(-128, 127).to(torch.int8)
            weights[f"{name}.weight_scale"] = scale.half()
            weights[f"{name}.input_scale"] = torch.tensor([0.01 + 0.001 * number]).half()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    quantized = {name for group in groups for name in group}
    group = {
        "targets": ["Linear"],
        "weights": {**INT8, "strategy": "channel"},
        "input_activations": {**INT8, "strategy": "tensor"},
        "format": "int-quantized",
    }
    change_config(
        folder,
        quant_method="compressed-tensors",
        format="int-quantized",
        quantization_status="compressed",
        config_groups={"group_0": group},
        ignore=["lm_head", "re:.*visual.*"]
        + [name for group in decoder_groups(LAYERS) for name in group if name not in quantized],
    )
    return folder


@pytest.fixture(scope="module", params=["all", "all but two groups"])
def quantized(request, tmp_path_factory, tiny_checkpoint):
    folder = tmp_path_factory.mktemp("int8")
    groups = decoder_groups(LAYERS)
    if request.param != "all":
        del groups[3], groups[4]
    checkpoint = write_checkpoint(folder / "checkpoint", tiny_checkpoint, levels=2, tied=True, dtype=torch.float16)
    quantize(checkpoint, groups)
    report = export_graphs(checkpoint, folder / "onnx", "fp32")
    return checkpoint, folder / "onnx", report, len(groups)


def test_logits_are_those_of_the_quantized_checkpoint_in_transformers(quantized):
    checkpoint, out, report, _ = quantized
    assert report["scheme"] == "w8a8-static"
    draw = np.random.default_rng(1)
    prompts = [make_prompt(draw, [(1, 4, 6)], words=9), make_prompt(draw, [], words=5)]
    decoder = Decoder(out / "decoder.onnx", read_shape(read_config(checkpoint)), 32)

    found = decoder.prefill(session(out / "vision.onnx"), prompts)
    found = np.split(np.concatenate([found, decoder.step([7, 8])]), [len(prompts[0].ids), -2])

    reference = load_reference(checkpoint)
    for row, prompt in enumerate(prompts):
        wanted, _ = reference_text(reference, prompt, [7 + row])
        logits = np.concatenate([found[row], found[2][row : row + 1]])
        cosines = (logits * wanted).sum(1) / np.linalg.norm(logits, axis=1) / np.linalg.norm(wanted, axis=1)
        # The order of a float sum decides on which side of a rounding to INT8 a number falls, so a few steps differ.
        assert np.median(cosines) >= 0.9999
        assert cosines.min() >= 0.999


def test_each_scale_of_the_checkpoint_is_in_the_graph_and_no_other(quantized):
    checkpoint, out, report, groups = quantized
    model = onnx.load(out / "decoder.onnx")
    weights = load_file(checkpoint / "model.safetensors")
    values = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    dequantizers = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]

    assert sorted(float(values[node.input[1]]) for node in quantizers) == sorted(
        float(weights[f"{group[0]}.input_scale"])
        for group in decoder_groups(LAYERS)
        if f"{group[0]}.input_scale" in weights
    )
    assert {values[node.input[2]].dtype for node in quantizers} == {np.dtype(np.int8)}
    assert {int(values[node.input[2]]) for node in quantizers} == {0}
    scales = [values[node.input[1]] for node in dequantizers if node.input[0] in values]
    stored = [tensor.float().flatten().tolist() for name, tensor in weights.items() if name.endswith("weight_scale")]
    assert sorted(np.concatenate(scales).tolist()) == sorted(number for part in stored for number in part)
    assert len(quantizers) == len(scales) == groups
    assert report["graphs"]["vision"]["nodes"].get("QuantizeLinear", 0) == 0


def test_onnx_runtime_multiplies_integers(quantized, tmp_path):
    _, out, _, groups = quantized
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(out / "decoder.onnx", options, providers=["CPUExecutionProvider"])

    kinds = collections.Counter(
        node.op_type for node in onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    )
    assert kinds["MatMulIntegerToFloat"] == groups
    assert kinds["MatMul"] == 4 * LAYERS - groups
    assert kinds["DequantizeLinear"] == 0


@pytest.fixture
def small(tmp_path, tiny_checkpoint):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_checkpoint, levels=1, tied=True, dtype=torch.float16)
    return quantize(checkpoint, decoder_groups(LAYERS))


def test_fp16_graphs_keep_the_scales_exactly(small, tmp_path):
    export_graphs(small, tmp_path / "onnx", "fp16")
    prompt = make_prompt(np.random.default_rng(2), [(1, 4, 4)], words=6)
    decoder = Decoder(tmp_path / "onnx" / "decoder.onnx", read_shape(read_config(small)), 32)

    logits = decoder.prefill(session(tmp_path / "onnx" / "vision.onnx"), [prompt])

    wanted, _ = reference_text(load_reference(small), prompt, [])
    cosines = (logits * wanted).sum(1) / np.linalg.norm(logits, axis=1) / np.linalg.norm(wanted, axis=1)
    assert np.median(cosines) >= 0.999


@pytest.mark.parametrize("scale", [0.0, -0.01, math.inf, math.nan])
def test_an_input_scale_that_is_no_positive_number_is_refused(small, tmp_path, scale):
    weights = load_file(small / "model.safetensors")
    for name in decoder_groups(LAYERS)[2]:
        weights[f"{name}.input_scale"][:] = scale
    save_file(weights, small / "model.safetensors")

    with pytest.raises(InputError, match=r"gate_proj.*input_scale"):
        export_graphs(small, tmp_path / "onnx", "fp32")


def test_linears_of_one_input_with_two_scales_are_refused(small, tmp_path):
    weights = load_file(small / "model.safetensors")
    weights["model.language_model.layers.1.self_attn.k_proj.input_scale"] *= 1.5
    save_file(weights, small / "model.safetensors")

    with pytest.raises(InputError, match=r"layers\.1\.self_attn\.q_proj.*k_proj.*input_scale.*one positive number"):
        export_graphs(small, tmp_path / "onnx", "fp32")


def test_a_scale_that_fp16_does_not_hold_is_refused_in_an_fp16_graph(small, tmp_path):
    weights = load_file(small / "model.safetensors")
    weights = {name: tensor.float() if "scale" in name else tensor for name, tensor in weights.items()}
    weights["model.language_model.layers.1.self_attn.o_proj.input_scale"] *= 1.0001
    save_file(weights, small / "model.safetensors")
    export_graphs(small, tmp_path / "fp32", "fp32")

    with pytest.raises(InputError, match=r"o_proj\.input_scale.*FLOAT16"):
        export_graphs(small, tmp_path / "fp16", "fp16")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["self_attn.v_proj"], "not of one type"),
        (["self_attn.o_proj", "self_attn.q_proj"], "missing.*input_scale"),
    ],
)
def test_a_group_that_is_quantized_in_part_or_without_scales_is_refused(small, tmp_path, names, problem):
    weights = load_file(small / "model.safetensors")
    for name in (f"model.language_model.layers.2.{name}" for name in names):
        del weights[f"{name}.input_scale"]
        if len(names) == 1:
            weights[f"{name}.weight"] = weights[f"{name}.weight"].half()
            del weights[f"{name}.weight_scale"]
    save_file(weights, small / "model.safetensors")

    with pytest.raises(InputError, match=problem):
        export_graphs(small, tmp_path / "onnx", "fp32")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quant_method": "gptq"}, "quant_method"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({"config_groups": {}}, "config_groups"),
        ({"weights": {**INT8, "strategy": "tensor"}}, "weights is"),
        ({"weights": {**INT8, "strategy": "channel", "symmetric": False}}, "weights is"),
        ({"input_activations": {**INT8, "strategy": "token", "dynamic": True}}, "input_activations is"),
        ({"input_activations": None}, "input_activations is"),
        ({"output_activations": {**INT8, "strategy": "tensor"}}, "output_activations is"),
        ({"format": "naive-quantized"}, "format is"),
    ],
)
def test_another_quantization_is_refused_by_name(small, tmp_path, settings, named):
    section = read_config(small)["quantization_config"]
    if settings.keys() & {"weights", "input_activations", "output_activations", "format"}:
        settings = {"config_groups": {"group_0": {**section["config_groups"]["group_0"], **settings}}}
    change_config(small, **settings)

    with pytest.raises(InputError, match=rf"{named}.*w8a8-static"):
        export_graphs(small, tmp_path / "onnx", "fp32")


def test_a_config_that_says_nothing_of_the_integers_is_refused(small, tmp_path):
    config = read_config(small)
    del config["quantization_config"]
    (small / "config.json").write_text(json.dumps(config))

    with pytest.raises(InputError, match=r"(weight|input)_scale"):
        export_graphs(small, tmp_path / "onnx", "fp32")
