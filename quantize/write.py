"""Writes the quantized checkpoint file by file: never more than one file of the source in memory."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor, ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from safetensors import safe_open
from safetensors.torch import save_file

from quantize.rtn import weight_scale
from shipvlm.families.qwen3_vl.shape import Shape
from shipvlm.folder import WEIGHTS_INDEX, copy_side_files, weight_files
from shipvlm.sizes import check_tensors
from shipvlm.stages import Progress

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def stored_dtypes(source: Path, shape: Shape) -> dict[str, torch.dtype]:
    """The dtypes of the checkpoint's tensors, by name. Raises InputError as `shipvlm.sizes.check_tensors` does."""
    return {name: DTYPES[header.dtype] for name, header in check_tensors(source, shape).items()}


def write_checkpoint(
    source: Path,
    out: Path,
    config: QuantizationConfig,
    layers: Sequence[str],
    input_scales: Mapping[str, torch.Tensor],
    progress: Progress,
) -> None:
    """Write `source` to the empty folder `out` with the Linears named in `layers` quantized as `config` says.

    input_scales: the static activation scale of each layer, [1] in the dtype it is stored in; empty for a scheme that
    quantizes weights only. All other tensors and the files beside the weights are copied bit for bit; config.json
    gets its quantization_config.
    """
    [scheme] = config.config_groups.values()
    assert isinstance(scheme, QuantizationScheme)
    chosen = set(layers)
    files = weight_files(source)
    weight_map: dict[str, str] = {}
    total_size = 0
    for number, path in enumerate(files):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        written: dict[str, torch.Tensor] = {}
        for name, tensor in tensors.items():
            layer = name.removesuffix(".weight")
            if layer in chosen:
                parts = _compress(tensor, scheme, input_scales.get(layer))
                written.update((f"{layer}.{part}", value.contiguous()) for part, value in parts.items())
            else:
                written[name] = tensor
        save_file(written, out / path.name, {"format": "pt"})
        weight_map.update(dict.fromkeys(written, path.name))
        total_size += sum(tensor.nbytes for tensor in written.values())
        progress("write", number + 1, len(files))
    copy_side_files(source, out)
    if (source / WEIGHTS_INDEX).is_file():
        index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
        (out / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    ModelCompressor(quantization_config=config).update_config(str(out))


def _compress(weight: torch.Tensor, scheme: QuantizationScheme, input_scale: torch.Tensor | None) -> dict[str, Any]:
    """The tensors that stand for one weight [out, in].

    The arithmetic is float32, on scales that the file's dtype holds exactly: the integers then are the nearest ones
    to the scales that a server will read back.
    """
    assert scheme.weights is not None
    scale = weight_scale(weight, scheme.weights.model_copy(update={"scale_dtype": weight.dtype}))
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    parts = compressor.compress({"weight": weight.float(), "weight_scale": scale}, scheme)
    parts["weight_scale"] = scale.to(weight.dtype)
    if input_scale is not None:
        parts["input_scale"] = input_scale.clone()  # safetensors refuses tensors that share memory
    return parts
