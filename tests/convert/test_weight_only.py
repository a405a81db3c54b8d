"""Graphs of packed weights against transformers, which unpacks the same checkpoint with compressed-tensors."""

import numpy as np
import onnx
import pytest
import torch
from compressed_tensors.compressors.pack_quantized import pack_to_int32
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


def quantize(folder, bits, group):
    """Turn a checkpoint into a `pack-quantized` one by hand."""
    weights = load_file(folder / "model.safetensors")
    half = 2 ** (bits - 1)
    for name in (name for group in decoder_groups(4) for name in group):
        weight = weights.pop(f"{name}.weight").float()
        parts = weight.unflatten(1, (-1, group or weight.shape[1]))
        scale = (parts.abs().amax(2) / (half - 0.5)).half()
        integers = (parts / scale.float()[:, :, None]).round().clamp(-half, half - 1).flatten(1).to(torch.int8)
        weights[f"{name}.weight_packed"] = pack_to_int32(integers, bits).contiguous()
        weights[f"{name}.weight_scale"] = scale
        weights[f"{name}.weight_shape"] = torch.tensor(weight.shape)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    strategy = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    settings = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False, **strategy}
    change_config(
        folder,
        quant_method="compressed-tensors",
        format="pack-quantized",
        quantization_status="compressed",
        config_groups={"group_0": {"targets": ["Linear"], "weights": settings}},
        ignore=["lm_head", "re:.*visual.*"],
    )


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 16), (8, 16), (4, None)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_logits_are_those_of_the_packed_checkpoint_in_transformers(tmp_path, tiny_checkpoint, bits, group, precision):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_checkpoint, levels=1, tied=True, dtype=torch.float16)
    quantize(checkpoint, bits, group)
    report = export_graphs(checkpoint, tmp_path / "onnx", precision)
    prompt = make_prompt(np.random.default_rng(0), [(1, 4, 4)], words=6)
    shape = read_shape(read_config(checkpoint))
    # 0: the product in the type of the graph. ONNX Runtime's own choice rounds the inputs to INT8.
    decoder = Decoder(tmp_path / "onnx" / "decoder.onnx", shape, 16, **{"session.qdq_matmulnbits_accuracy_level": "0"})

    logits = decoder.prefill(session(tmp_path / "onnx" / "vision.onnx"), [prompt])

    wanted, _ = reference_text(load_reference(checkpoint), prompt, [])
    limit = {"fp32": 2e-5, "fp16": 0.01}[precision]
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=limit * np.abs(wanted).max())
    assert report["scheme"] == f"w{bits}a16"
    model = onnx.load(tmp_path / "onnx" / "decoder.onnx", load_external_data=False)
    stored = {entry.name: entry.data_type for entry in model.graph.initializer if ".mlp." in entry.name}
    types = {8: onnx.TensorProto.INT8, 4: onnx.TensorProto.INT4}
    assert {kind for name, kind in stored.items() if name.endswith("weight")} == {types[bits]}


def test_a_width_that_is_no_whole_number_of_groups_is_refused(tmp_path, tiny_checkpoint):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_checkpoint, levels=1, tied=True, dtype=torch.float16)
    quantize(checkpoint, 4, 16)
    settings = read_config(checkpoint)["quantization_config"]["config_groups"]["group_0"]
    settings["weights"]["group_size"] = 32
    change_config(checkpoint, config_groups={"group_0": settings})

    with pytest.raises(InputError, match=r"(down_proj|gate_proj|q_proj).*groups of 32"):
        export_graphs(checkpoint, tmp_path / "onnx", "fp32")


def test_a_stored_shape_that_is_not_the_linears_is_refused(tmp_path, tiny_checkpoint):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_checkpoint, levels=1, tied=True, dtype=torch.float16)
    quantize(checkpoint, 8, None)
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.language_model.layers.1.mlp.up_proj.weight_shape"][:] = torch.tensor([40, 96])
    save_file(weights, checkpoint / "model.safetensors")

    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight_shape is \[40, 96\]"):
        export_graphs(checkpoint, tmp_path / "onnx", "fp32")
