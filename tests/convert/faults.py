"""Graph sets with one planted fault."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

Edit = Callable[[GraphProto], None]


def broken_copy(graphs: Path, out: Path, name: str, edit: Edit) -> Path:
    """A copy of the graph set `graphs` in `out`, its graph `name` (vision, decoder) changed by `edit`."""
    shutil.copytree(graphs, out)
    path = out / f"{name}.onnx"
    model = onnx.load(path)
    edit(model.graph)
    (out / f"{name}.onnx.data").unlink(missing_ok=True)
    onnx.save(model, path)
    return out


def change_weight(part: str, change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    """Change the only float initializer whose name has `part` in it."""

    def edit(graph: GraphProto) -> None:
        [found] = [each for each in graph.initializer if part in each.name and each.data_type != onnx.TensorProto.INT8]
        values = numpy_helper.to_array(found)
        found.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), found.name))

    return edit


def scale_output(name: str, factor: float) -> Edit:
    """Multiply the graph's output `name`."""

    def edit(graph: GraphProto) -> None:
        [node] = [each for each in graph.node if name in each.output]
        node.output[0] = f"{name} before"
        graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), f"{name} factor"))
        graph.node.append(helper.make_node("Mul", [f"{name} before", f"{name} factor"], [name]))

    return edit


def exchange(one: str, other: str) -> Edit:
    """Every node that writes or reads one of two values writes or reads the other."""

    def edit(graph: GraphProto) -> None:
        swapped = {one: other, other: one}
        for node in graph.node:
            node.input[:] = [swapped.get(name, name) for name in node.input]
            node.output[:] = [swapped.get(name, name) for name in node.output]

    return edit


def turn_keys_back(layer: int) -> Edit:
    """The keys of one layer are rotated with sin where cos belongs."""

    def edit(graph: GraphProto) -> None:
        keys = [node for node in graph.node if node.op_type == "RotaryEmbedding"][2 * layer + 1]
        value, cos, sin = keys.input
        keys.input[:] = [value, sin, cos]

    return edit


def leave_activations_alone(graph: GraphProto) -> None:
    """No input of a Linear is rounded to INT8 any more; the weights stay as they are."""
    writers: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for place, name in enumerate(node.input):
            back = writers.get(name)
            there = writers.get(back.input[0]) if back and back.op_type == "DequantizeLinear" else None
            if there and there.op_type == "QuantizeLinear":
                node.input[place] = there.input[0]
