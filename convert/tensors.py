"""Tensors by name, read only when they are written: from a checkpoint's safetensors files."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from safetensors import SafetensorError, safe_open

from shipvlm.errors import InputError
from shipvlm.folder import weight_files

_TYPES = {
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "I8": ir.DataType.INT8,
    "I32": ir.DataType.INT32,
    "I64": ir.DataType.INT64,
}


def checkpoint_tensors(folder: Path) -> dict[str, ir.TensorProtocol]:
    """Every tensor of the checkpoint in `folder` by name. Only the files' headers are read now; a tensor's values
    are read from its file each time that they are asked for.

    Raises `InputError` for weights that are missing, damaged, stored twice, or of a type that no Qwen3-VL has.
    """
    tensors: dict[str, ir.TensorProtocol] = {}
    for path in weight_files(folder):
        header, start = _header(path)
        for name, entry in header.items():
            if name in tensors:
                raise InputError(f"{path}: {name} is in another file of the checkpoint too; fetch it again")
            if entry["dtype"] not in _TYPES:
                raise InputError(f"{path}: {name} is stored as {entry['dtype']}; only {', '.join(_TYPES)} are covered")
            dtype, shape = _TYPES[entry["dtype"]], tuple(entry["shape"])
            tensors[name] = _stored(path, start + entry["data_offsets"][0], name, dtype, shape)
    return tensors


def side_by_side(tensors: Sequence[ir.TensorProtocol]) -> ir.TensorProtocol:
    """The weights of Linears that read the same input, each [out, in], as one [in, all out].

    A convolution that reads every value once, [out, ...], counts as a Linear. The name is that of the first tensor,
    with the others' where there are others. Raises `InputError` for tensors of more than one type.
    """
    names = [str(tensor.name) for tensor in tensors]
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise InputError(f"{', '.join(names)} are not of one type; tensors that read the same input must be")
    shapes = [tensor.shape.numpy() for tensor in tensors]
    dtype, columns = tensors[0].dtype, math.prod(shapes[0][1:])

    def load() -> ir.TensorProtocol:
        rows = [tensor.numpy().reshape(-1, columns) for tensor in tensors]
        return ir.Tensor(np.ascontiguousarray(np.concatenate(rows).T), dtype=dtype)

    size = ir.Shape((columns, sum(shape[0] for shape in shapes)))
    return ir.LazyTensor(load, dtype, size, name=" + ".join(names))


def repeated(tensor: ir.TensorProtocol, times: int) -> ir.TensorProtocol:
    """`tensor` that many times below itself, under the same name."""

    def load() -> ir.TensorProtocol:
        return ir.Tensor(np.concatenate([tensor.numpy()] * times), dtype=tensor.dtype)

    rows, *others = tensor.shape.numpy()
    return ir.LazyTensor(load, tensor.dtype, ir.Shape((rows * times, *others)), name=tensor.name)


def typed(
    tensor: ir.TensorProtocol, dtype: ir.DataType, shape: tuple[int, ...] | None = None, *, exact: bool = False
) -> ir.TensorProtocol:
    """The same numbers in another float type, and where `shape` is given in that shape, under the same name.

    Raises `InputError`, when the values are read, for a number that is beyond the type's range, or if `exact` for one
    that the type cannot hold without rounding.
    """
    if tensor.dtype == dtype and shape is None:
        return tensor

    def load() -> ir.TensorProtocol:
        values = tensor.numpy()
        with np.errstate(over="ignore"):
            rounded = values.astype(dtype.numpy())
        if not np.isfinite(rounded).all() or (exact and (rounded.astype(np.float64) != values).any()):
            what = "without rounding" if exact else "in its range"
            raise InputError(f"{tensor.name} has a value that {dtype.name} does not hold {what}; choose precision fp32")
        return ir.Tensor(rounded.reshape(new_shape), dtype=dtype)

    new_shape = tensor.shape.numpy() if shape is None else shape
    return ir.LazyTensor(load, dtype, ir.Shape(new_shape), name=tensor.name)


def scalar(tensor: ir.TensorProtocol) -> float:
    """The only value of `tensor`."""
    return float(tensor.numpy().reshape(()))


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The entries of a safetensors file, and where its data starts."""
    try:
        with safe_open(path, "np"):  # checks that the header is sound and fits the file
            pass
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not readable as safetensors ({error}); fetch the checkpoint again") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}, 8 + length


def _stored(path: Path, offset: int, name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.TensorProtocol:
    def load() -> ir.TensorProtocol:
        values = np.fromfile(path, dtype.numpy(), math.prod(shape), offset=offset)
        return ir.Tensor(values.reshape(shape), dtype=dtype)

    return ir.LazyTensor(load, dtype, ir.Shape(shape), name=name)
