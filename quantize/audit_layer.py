"""Holds the stored integers and scales of one layer against its source weight."""

import math
from collections.abc import Mapping

import torch
from compressed_tensors.compressors.pack_quantized import unpack_from_int32
from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import QuantizationScheme

from shipvlm.errors import ExecutionError


def part_names(scheme: QuantizationScheme) -> tuple[str, ...]:
    """Names of the tensors that stand for the weight of one layer."""
    if scheme.format == CompressionFormat.int_quantized:
        return ("weight", "weight_scale", "input_scale")
    return ("weight_packed", "weight_scale", "weight_shape")


def check_layer(
    layer: str,
    weight: torch.Tensor,
    parts: Mapping[str, torch.Tensor],
    scheme: QuantizationScheme,
    input_scale: float | None,
) -> float:
    """Compare the stored `parts` with the source `weight` [out, in], and with the calibrated `input_scale`.

    Returns the largest |weight - dequantized| in units of its scale.
    Raises ExecutionError for a wrong shape or type, a scale that does not belong to the weights or the calibration,
    and for an integer that is not a nearest one.
    """
    assert scheme.weights is not None
    bits, group_size = scheme.weights.num_bits, scheme.weights.group_size
    assert bits is not None
    rows, columns = weight.shape
    packed = "weight_packed" in parts
    name = "weight_packed" if packed else "weight"
    shapes = {
        name: [rows, math.ceil(columns * bits / 32) if packed else columns],
        "weight_scale": [rows, columns // group_size if group_size else 1],
        "input_scale": [1],
        "weight_shape": [2],
    }
    dtypes = {name: torch.int32 if packed else torch.int8, "weight_scale": weight.dtype}
    for part, tensor in parts.items():
        if list(tensor.shape) != shapes[part]:
            raise ExecutionError(f"audit: {layer}.{part} is {list(tensor.shape)}, expected {shapes[part]}")
        if tensor.dtype != dtypes.get(part, tensor.dtype):
            raise ExecutionError(f"audit: {layer}.{part} is {tensor.dtype}, expected {dtypes[part]}")
    if packed and parts["weight_shape"].tolist() != [rows, columns]:
        raise ExecutionError(f"audit: {layer}.weight_shape is {parts['weight_shape'].tolist()}")
    if "input_scale" in parts and float(parts["input_scale"]) != input_scale:
        raise ExecutionError(
            f"audit: {layer}.input_scale is {float(parts['input_scale'])}, calibration found {input_scale}"
        )
    stored = parts["weight_scale"]
    integers = unpack_from_int32(parts[name], bits, weight.shape) if packed else parts[name]
    return _check_integers(layer, weight.double(), integers.double(), stored, bits)


def _check_integers(layer: str, weight: torch.Tensor, integers: torch.Tensor, stored: torch.Tensor, bits: int) -> float:
    scale = stored.double()
    blocks = weight.unflatten(1, (scale.shape[1], -1))
    wanted = blocks.abs().amax(2) / ((2**bits - 1) / 2)  # quantize.rtn
    unit = _resolution(stored, float(scale.min()))
    wrong = ((scale - wanted).abs() > wanted * unit * 1.01) & (wanted > 0)
    if wrong.any():
        row = int(wrong.any(1).nonzero()[0])
        raise ExecutionError(f"audit: {layer}.weight_scale of row {row} does not belong to its weights")
    steps = blocks / scale.unsqueeze(2)
    error = float((steps - integers.unflatten(1, (scale.shape[1], -1))).abs().max())
    # half a step, and what the rounding of the scale to its own dtype adds for the largest integer
    if not error <= 0.5 + 2 ** (bits - 1) * unit + 1e-4:
        raise ExecutionError(f"audit: {layer} strays {error:.3f} steps from its source, more than rounding can")
    return error


def _resolution(stored: torch.Tensor, smallest: float) -> float:
    """The largest relative change that rounding to the dtype of `stored` can make to a scale of this size."""
    limits = torch.finfo(stored.dtype)
    return max(limits.eps, limits.smallest_normal * limits.eps / smallest) / 2
