"""Graph sets of a published shape with random weights: to time a size without its checkpoint."""

import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from convert.builder import Precision
from convert.export import write_graphs
from convert.quantized import Scheme
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.layers import decoder_groups
from shipvlm.families.qwen3_vl.parameters import parameter_shapes
from shipvlm.families.qwen3_vl.shape import Shape
from shipvlm.stages import Progress

# Drawn once and repeated: timing does not depend on the values, and billions of draws would take minutes. A prime
# length, so that the rows of a matrix differ.
_BLOCK = 1_000_003
_STATIC = Scheme(8, None, static=True)
_INPUT_SCALE = 4 / 127  # the inputs of all Linears are of about unit size here, and almost none is beyond 4


def export_random(
    shape: Shape,
    out: Path,
    precision: Precision,
    scheme: Literal["w8a8-static"] | None = None,
    *,
    layers: int | None = None,
    graphs: tuple[str, ...] = ("decoder",),
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `graphs` ("vision", "decoder") of `shape` with random weights to the empty folder `out`.

    `layers` decoder layers instead of the shape's own (at least the DeepStack levels). Weights are stored in FP16;
    with `scheme` "w8a8-static" the decoder's Linears are INT8, and stand for the same numbers as the FP16 ones.
    There is no tokenizer and no config.json: such a folder can be timed, not asked.
    Returns and raises as `convert.export.write_graphs`; `InputError` for another scheme or too few layers, too.
    """
    if scheme not in (None, _STATIC.name):
        raise InputError(f"random weights come unquantized or as {_STATIC.name}, not as {scheme!r}")
    if layers is not None:
        if layers < max(1, levels := len(shape.vision.deepstack)):
            raise InputError(f"{layers} decoder layers are too few: DeepStack has {levels} levels")
        shape = replace(shape, text=replace(shape.text, layers=layers))
    static = _STATIC if scheme else None
    return write_graphs(shape, random_tensors(shape, scheme, seed), out, precision, static, graphs, progress)


def random_tensors(shape: Shape, scheme: Literal["w8a8-static"] | None, seed: int) -> dict[str, ir.TensorProtocol]:
    """Tensors of a checkpoint of `shape` and `scheme` by name, each made when its values are asked for."""
    block = np.random.default_rng(seed).integers(-127, 128, _BLOCK, np.int8)
    linears = {name for group in decoder_groups(shape.text.layers) for name in group} if scheme else set()
    tensors: dict[str, ir.TensorProtocol] = {}

    def add(name: str, size: tuple[int, ...], dtype: type[np.generic], make: Callable[[], np.ndarray]) -> None:
        def load() -> ir.TensorProtocol:
            return ir.Tensor(make().astype(dtype, copy=False))

        tensors[name] = ir.LazyTensor(load, ir.DataType.from_numpy(np.dtype(dtype)), ir.Shape(size), name=name)

    for name, size in parameter_shapes(shape).items():
        linear = name.removesuffix(".weight")
        if len(size) == 1:
            add(name, size, np.float16, partial(np.full, size, 0.0 if name.endswith(".bias") else 1.0))
            continue
        # Integers of -127..127 have a variance of 127 * 128 / 3: so scaled, a Linear keeps the size of what it reads.
        scale = np.float16(1 / math.sqrt(127 * 128 / 3 * math.prod(size[1:])))
        if linear in linears:
            add(name, size, np.int8, partial(_repeated, block, 1, name, size))
            add(f"{name}_scale", (size[0], 1), np.float16, partial(np.full, (size[0], 1), scale))
            add(f"{linear}.input_scale", (1,), np.float16, partial(np.full, 1, _INPUT_SCALE))
        else:
            add(name, size, np.float16, partial(_repeated, block, scale, name, size))
    return tensors


def _repeated(block: np.ndarray, scale: np.float16 | int, name: str, size: tuple[int, ...]) -> np.ndarray:
    return np.resize(np.roll(block, zlib.crc32(name.encode())) * scale, size)
