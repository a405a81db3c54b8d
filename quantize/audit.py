"""Reads a written quantized checkpoint back and says what is really in it."""

import math
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.pack_quantized import unpack_from_int32
from safetensors import safe_open

from shipvlm.errors import ExecutionError
from shipvlm.families.qwen3_vl import DECODER_LAYERS


def audit(source: Path, out: Path, bits: int, group_size: int | None) -> dict[str, Any]:
    """Compares the weights in `out` with those in `source`, tensor by tensor, from the files alone.

    Returns {"quantized": [layer names], "kept": number of tensors that are bit for bit the source's,
    "largest_error_steps": the largest |weight - dequantized| in units of its scale}.
    Raises ExecutionError naming the tensor when a decoder layer is not quantized, has the wrong shape or strays more
    than half a step from its source; when another tensor changed; or when a tensor is missing or too many.
    """
    before, after = _tensors(source), _tensors(out)
    layers = sorted(name.removesuffix(".weight") for name in before if _is_decoder_linear(name, before))
    kept = sorted(set(before) - {f"{layer}.weight" for layer in layers})
    parts = ("weight_packed", "weight_scale", "weight_shape")
    expected = set(kept) | {f"{layer}.{part}" for layer in layers for part in parts}
    if expected != set(after):
        raise ExecutionError(f"audit: unexpected or missing tensors: {sorted(expected ^ set(after))[:4]}")
    for name in kept:
        if not torch.equal(_read(before, name), _read(after, name)):
            raise ExecutionError(f"audit: {name} should be unchanged and is not")
    errors = [_largest_error(layer, before, after, bits, group_size) for layer in layers]
    return {"quantized": layers, "kept": len(kept), "largest_error_steps": max(errors)}


def _tensors(folder: Path) -> dict[str, Path]:
    """Tensor names and the file of each, from the files themselves: an index can be wrong."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found.update(dict.fromkeys(file.keys(), path))
    return found


def _read(tensors: dict[str, Path], name: str) -> torch.Tensor:
    with safe_open(tensors[name], "pt") as file:
        return file.get_tensor(name)


def _is_decoder_linear(name: str, tensors: dict[str, Path]) -> bool:
    if not (name.startswith(DECODER_LAYERS) and name.endswith(".weight")):
        return False
    with safe_open(tensors[name], "pt") as file:
        return len(file.get_slice(name).get_shape()) == 2


def _largest_error(
    layer: str, before: dict[str, Path], after: dict[str, Path], bits: int, group_size: int | None
) -> float:
    weight = _read(before, f"{layer}.weight").float()
    packed, stored = _read(after, f"{layer}.weight_packed"), _read(after, f"{layer}.weight_scale")
    rows, columns = weight.shape
    shapes = {
        "weight_shape": (_read(after, f"{layer}.weight_shape").tolist(), [rows, columns]),
        "weight_packed": (list(packed.shape), [rows, math.ceil(columns * bits / 32)]),
        "weight_scale": (list(stored.shape), [rows, columns // group_size if group_size else 1]),
    }
    for part, (found, wanted) in shapes.items():
        if found != wanted:
            raise ExecutionError(f"audit: {layer}.{part} is {found}, expected {wanted}")
    if packed.dtype != torch.int32:
        raise ExecutionError(f"audit: {layer}.weight_packed is {packed.dtype}, expected torch.int32")
    scale = stored.float()
    steps = weight.unflatten(1, (scale.shape[1], -1)) / scale.unsqueeze(2)
    integers = unpack_from_int32(packed, bits, weight.shape).float().unflatten(1, (scale.shape[1], -1))
    error = float((steps - integers).abs().max())
    if not error <= _largest_rounding(stored, bits):
        raise ExecutionError(f"audit: {layer} strays {error:.3f} steps from its source, more than rounding can")
    return error


def _largest_rounding(scale: torch.Tensor, bits: int) -> float:
    """Half a step, and what the rounding of the scale to its own dtype adds for the largest integer."""
    limits = torch.finfo(scale.dtype)
    relative = max(limits.eps, limits.smallest_normal * limits.eps / float(scale.min())) / 2
    return 0.5 + 2 ** (bits - 1) * relative + 1e-4
