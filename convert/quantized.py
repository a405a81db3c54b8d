"""Quantized checkpoints: what their `quantization_config` may say, and their packed weights as plain integers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.parameters import HEAD, parameter_shapes
from shipvlm.families.qwen3_vl.shape import Shape

_COVERED = (
    "compressed-tensors checkpoints with symmetric integer weights: int-quantized with 8 bits a channel and static "
    "INT8 inputs (w8a8-static), or pack-quantized with 4 or 8 bits a channel or group (w4a16, w8a16)"
)
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_INTEGER = {"type": "int", "symmetric": True, "dynamic": False}


@dataclass(frozen=True)
class Scheme:
    """How Linears are quantized: bits of a weight, input columns that share its scale (None: all of a row), and
    whether their inputs are INT8 too, with one fixed scale a tensor."""

    bits: int
    group: int | None
    static: bool

    @property
    def name(self) -> str:
        return f"w{self.bits}a8-static" if self.static else f"w{self.bits}a16"


def scheme_of(config: dict[str, Any]) -> Scheme | None:
    """The scheme of a checkpoint by its parsed `config.json`, None where it is not quantized.

    Raises `InputError` that shows the part of `quantization_config` that is not covered.
    """
    section = config.get("quantization_config")
    if section is None:
        return None
    _require(isinstance(section, dict), "quantization_config", section)
    for key, covered in (("quant_method", "compressed-tensors"), ("kv_cache_scheme", None)):
        _require(section.get(key) == covered, key, section.get(key))
    groups = section.get("config_groups")
    _require(isinstance(groups, dict) and len(groups) == 1, "config_groups", groups)
    group = next(iter(groups.values()))
    _require(isinstance(group, dict), "config_groups", groups)
    weights, inputs = group.get("weights"), group.get("input_activations")
    _require(_agrees(weights, _INTEGER) and weights.get("num_bits") in (4, 8), "weights", weights)
    grouped = weights.get("strategy") == "group"
    _require(grouped or weights.get("strategy") == "channel", "weights", weights)
    size = weights.get("group_size")
    _require(not grouped or (isinstance(size, int) and size > 0), "weights", weights)
    _require(weights.get("actorder") is None, "weights", weights)
    _require(not group.get("output_activations"), "output_activations", group.get("output_activations"))
    layout = group.get("format") or section.get("format")
    if layout == "int-quantized":
        static = {**_INTEGER, "num_bits": 8, "strategy": "tensor"}
        _require(_agrees(inputs, static), "input_activations", inputs)
        _require(weights["num_bits"] == 8 and not grouped, "weights", weights)
        return Scheme(8, None, static=True)
    _require(layout == "pack-quantized", "format", layout)
    _require(not inputs, "input_activations", inputs)
    return Scheme(weights["num_bits"], size if grouped else None, static=False)


def check_tensors(shape: Shape, tensors: Mapping[str, ir.TensorProtocol], scheme: Scheme | None) -> None:
    """Check that `tensors` are exactly those of a checkpoint of this `shape` and `scheme`.

    A tied checkpoint may bring its head along, as transformers allows. Raises `InputError` that names a tensor.
    """
    sizes = parameter_shapes(shape)
    types = dict.fromkeys(sizes, _FLOATS)
    linears = {name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")}
    if scheme is not None:
        if not linears:
            raise InputError("config.json says that the checkpoint is quantized, but no tensor is a weight_scale")
        for linear in sorted(linears):
            _quantize(linear, sizes, types, scheme)
    optional = {HEAD} if shape.text.tied else set()
    both = sizes.keys() & tensors.keys()
    for kind, names in (
        ("missing", sizes.keys() - tensors.keys()),
        ("unexpected", tensors.keys() - sizes.keys() - optional),
        ("misshapen", {name for name in both if tuple(tensors[name].shape.numpy()) != sizes[name]}),
        ("of another type", {name for name in both if tensors[name].dtype not in types[name]}),
    ):
        if names:
            raise InputError(
                f"{len(names)} tensors are {kind}, first {min(names)}; the weights do not belong to this config.json"
            )


def _quantize(
    linear: str, sizes: dict[str, tuple[int, ...]], types: dict[str, set[ir.DataType]], scheme: Scheme
) -> None:
    """Replace the weight of `linear` in `sizes` and `types` by what a quantized checkpoint has for it."""
    size = sizes.pop(f"{linear}.weight", ())
    types.pop(f"{linear}.weight", None)
    if len(size) != 2:
        raise InputError(f"{linear} is quantized in the checkpoint, but config.json describes no such Linear")
    rows, columns = size
    if scheme.group and columns % scheme.group:
        raise InputError(f"{linear} has {columns} input columns, which are no whole groups of {scheme.group}")
    parts: dict[str, tuple[tuple[int, ...], set[ir.DataType]]] = {
        "weight_scale": ((rows, columns // (scheme.group or columns)), _FLOATS)
    }
    if scheme.static:
        parts |= {"weight": (size, {ir.DataType.INT8}), "input_scale": ((1,), _FLOATS)}
    else:
        words = -(-columns * scheme.bits // 32)
        parts |= {"weight_packed": ((rows, words), {ir.DataType.INT32})}
        parts |= {"weight_shape": ((2,), {ir.DataType.INT32, ir.DataType.INT64})}
    for part, (shape, dtypes) in parts.items():
        sizes[f"{linear}.{part}"], types[f"{linear}.{part}"] = shape, dtypes


def unpacked(
    shape: Shape, tensors: Mapping[str, ir.TensorProtocol], scheme: Scheme | None
) -> dict[str, ir.TensorProtocol]:
    """`tensors`, checked before, with INT4 or INT8 `weight`s [out, in] in place of `weight_packed`, `weight_shape`.

    Raises `InputError` where a `weight_shape` is not that of the Linear.
    """
    if scheme is None or scheme.static:
        return dict(tensors)
    sizes = parameter_shapes(shape)
    result = {}
    for name, tensor in tensors.items():
        weight, _, part = name.rpartition("_")
        if part == "packed":
            rows, columns = sizes[weight]
            result[weight] = _unpacked(tensor, weight, rows, columns, scheme.bits)
        elif part == "shape":
            if tensor.numpy().tolist() != list(sizes[weight]):
                raise InputError(f"{name} is {tensor.numpy().tolist()}, but config.json says {list(sizes[weight])}")
        else:
            result[name] = tensor
    return result


def _unpacked(tensor: ir.TensorProtocol, name: str, rows: int, columns: int, bits: int) -> ir.TensorProtocol:
    """After `unpack_from_int32` of compressed-tensors 0.19: little end first, values raised by half their range."""
    dtype = {4: ir.DataType.INT4, 8: ir.DataType.INT8}[bits]

    def load() -> ir.TensorProtocol:
        raw = np.ascontiguousarray(tensor.numpy()).view(np.uint8)
        if bits == 4:
            raw = np.stack([raw & 15, raw >> 4], axis=-1).reshape(rows, -1)
        integers = raw[:, :columns].astype(np.int16) - 2 ** (bits - 1)
        return ir.Tensor(integers.astype(dtype.numpy()), dtype=dtype)

    return ir.LazyTensor(load, dtype, ir.Shape((rows, columns)), name=name)


def _agrees(found: object, wanted: dict[str, object]) -> bool:
    return isinstance(found, dict) and all(found.get(key) == value for key, value in wanted.items())


def _require(holds: bool, what: str, found: object) -> None:
    if not holds:
        raise InputError(f"quantization_config: {what} is {json.dumps(found)}; graphs are made of {_COVERED}")
