"""Bytes and operations of one run of an ONNX graph, read from the graph: its initializers, and the shapes that ONNX's
own shape inference gives for the sizes of the inputs. No weight is loaded.

What a runtime is taken to do, and ONNX Runtime does with the graphs of `convert`:
- what follows from initializers alone is computed once, at load: weights stored in FP16 lie there in FP32 in an FP32
  graph;
- but DequantizeLinear is fused into the product behind it: integers are read as integers, with their scales;
- a product of two dequantized factors is one of integers, of one it is one of floats;
- TensorScatter writes into its input's own buffer.
"""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto
from onnx.shape_inference import infer_shapes

from bench.work import Count
from shipvlm.errors import InputError

ITEM_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT64: 64,
    TensorProto.INT32: 32,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.BOOL: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
}
KINDS: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
PRODUCTS = ("MatMul", "Gemm", "Attention")
# Operators that multiply matrices, or hold graphs that may, and that `convert` does not write.
UNCOUNTED = {"Conv", "ConvTranspose", "ConvInteger", "Einsum", "MatMulInteger", "QLinearMatMul", "QLinearConv"}
UNCOUNTED |= {"LSTM", "GRU", "RNN", "If", "Loop", "Scan"}
CAUSAL, LENGTHS = "is_causal", 6  # of Attention: the attribute, and the place of its input nonpad_kv_seqlen
Sizes = dict[str, tuple[int, tuple[int, ...]]]  # type and shape of every value, by name


def read_graph(path: Path) -> onnx.ModelProto:
    """The graph without its weights. Raises `InputError` for a file that is none."""
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common base
        raise InputError(f"{path}: not readable as ONNX ({error}); convert again") from error


def count_graph(model: onnx.ModelProto, sizes: Mapping[str, int], past: int = 0) -> Count:
    """One run of the graph.

    `sizes` are those of the inputs' named dimensions, `past` the tokens that lie in the cache before the run.
    Raises `InputError` for a dimension without a size, and operators that multiply matrices and are not counted here.
    """
    other = {node.op_type for node in model.graph.node if node.domain or node.op_type in UNCOUNTED}
    if other:
        raise InputError(f"the graph has operators whose work is not counted: {', '.join(sorted(other))}")
    values = _sized(model, sizes)
    makers = {name: node for node in model.graph.node for name in node.output}
    weights, resident = _weights(model.graph, values)
    operations: Counter[str] = Counter()
    cache = 0
    for node in model.graph.node:
        if node.op_type in PRODUCTS:
            operations[_kind(node, makers, values)] += _operations(node, values, past)
        if node.op_type == "TensorScatter":
            cache += _cache_bytes(node, values, past)
    return Count(weights, cache, dict(operations), resident)


def _sized(model: onnx.ModelProto, sizes: Mapping[str, int]) -> Sizes:
    """Type and shape of every value of the graph, its inputs of `sizes`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                if dim.dim_param not in sizes:
                    raise InputError(f"input {value.name} has a dimension {dim.dim_param!r} that has no size here")
                dim.dim_value = sizes[dim.dim_param]
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = infer_shapes(copy, strict_mode=True, data_prop=True).graph
    found: Sizes = {each.name: (each.data_type, tuple(each.dims)) for each in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        kind = value.type.tensor_type
        if not all(dim.HasField("dim_value") for dim in kind.shape.dim):
            raise InputError(f"the shape of {value.name} does not follow from the inputs' shapes; convert again")
        found[value.name] = kind.elem_type, tuple(dim.dim_value for dim in kind.shape.dim)
    return found


def _weights(graph: onnx.GraphProto, values: Sizes) -> tuple[int, int]:
    """Bytes that a run reads of what is constant, and bytes of it that lie in memory."""
    constant = {each.name for each in graph.initializer}
    whole: set[str] = set()  # read from end to end, once
    tables: dict[str, int] = {}  # of which rows are looked up: how many
    for node in graph.node:
        given = [name for name in node.input if name]
        if all(name in constant for name in given) and node.op_type != "DequantizeLinear":
            constant |= set(node.output)
            continue
        if node.op_type == "Gather" and given[0] in constant:
            rows, looked_up = values[given[0]][1][0], math.prod(values[given[1]][1])
            tables[given[0]] = min(rows, tables.get(given[0], 0) + looked_up)
            given = given[1:]
        whole |= {name for name in given if name in constant}
    read = sum(_bytes(values[name]) for name in whole)
    looked_up = sum(_bytes(values[name]) * rows // values[name][1][0] for name, rows in tables.items())
    return read + looked_up, sum(_bytes(values[name]) for name in whole | tables.keys())


def _operations(node: onnx.NodeProto, values: Sizes, past: int) -> int:
    if node.op_type != "Attention":
        inner = values[node.input[0]][1][-1]  # Gemm's first factor is never transposed here
        return 2 * inner * math.prod(values[node.output[0]][1])
    queries, keys = values[node.input[0]][1], values[node.input[1]][1]
    tokens, width = queries[-2], queries[-1] * (queries[1] if len(queries) == 4 else 1)
    pairs = tokens * past + tokens * (tokens + 1) // 2 if _attribute(node, CAUSAL) else tokens * keys[-2]
    return 4 * queries[0] * width * pairs


def _cache_bytes(node: onnx.NodeProto, values: Sizes, past: int) -> int:
    """One of the buffers of a cache: each entry that is there read once, each new one written."""
    kind, (batch, heads, tokens, width) = values[node.input[1]]
    return batch * heads * (past + tokens) * width * ITEM_BITS[kind] // 8


def _kind(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], values: Sizes) -> str:
    factors = [makers.get(name) for name in node.input[:2]]
    if all(maker is not None and maker.op_type == "DequantizeLinear" for maker in factors):
        return "int8"
    kind = values[node.output[0]][0]
    if kind not in KINDS:
        raise InputError(f"{node.op_type} {node.name} computes in a type that is not counted here; convert again")
    return KINDS[kind]


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next((onnx.helper.get_attribute_value(each) for each in node.attribute if each.name == name), 0)


def _bytes(value: tuple[int, tuple[int, ...]]) -> int:
    kind, size = value
    return math.ceil(math.prod(size) * ITEM_BITS[kind] / 8)
