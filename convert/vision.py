"""The vision graph: the patches of one picture become image features, and features for DeepStack."""

from collections.abc import Mapping

import onnx_ir as ir

from convert.builder import GraphBuilder, Precision
from shipvlm.families.qwen3_vl.parameters import VISION
from shipvlm.families.qwen3_vl.shape import Shape, VisionShape

EPSILON = 1e-6  # of every norm in `Qwen3VLVisionModel`; no configuration has it


def build_vision(shape: Shape, tensors: Mapping[str, ir.TensorProtocol], precision: Precision) -> ir.Model:
    """The vision tower of a Qwen3-VL for one picture of N patches, after `Qwen3VLVisionModel` of transformers 5.17.

    Inputs: `pixel_values` [N, patch width], and the tables of `shipvlm.families.qwen3_vl.grid.vision_tables`.
    Outputs: `image_features` and `deepstack_features_{level}`, each [image tokens, hidden of the text decoder].
    """
    graph, vision = GraphBuilder(tensors, precision), shape.vision
    pixels = graph.input("pixel_values", ("patches", vision.patch_width))
    position_index = graph.input("position_index", (4, "patches"), ir.DataType.INT64)
    position_weight = graph.input("position_weight", (4, "patches"))
    rotation = [
        graph.op("Unsqueeze", graph.input(name, ("patches", vision.head_dim // 2)), graph.constant(0))
        for name in ("cos", "sin")
    ]

    hidden = graph.linear(pixels, f"{VISION}patch_embed.proj")
    taps = graph.rows(f"{VISION}pos_embed.weight", position_index)
    weighted = graph.op("Mul", taps, graph.op("Unsqueeze", position_weight, graph.constant(-1)))
    hidden = graph.op("Add", hidden, graph.op("ReduceSum", weighted, graph.constant(0), keepdims=0))
    hidden = graph.op("Unsqueeze", hidden, graph.constant(0))
    features = ("image_tokens", vision.out_hidden)
    for layer in range(vision.depth):
        name = f"{VISION}blocks.{layer}."
        normed = graph.layer_norm(hidden, f"{name}norm1", EPSILON)
        hidden = graph.op("Add", hidden, _attention(graph, vision, f"{name}attn.", normed, rotation))
        normed = graph.layer_norm(hidden, f"{name}norm2", EPSILON)
        widened = graph.op("Gelu", graph.linear(normed, f"{name}mlp.linear_fc1"), approximate="tanh")
        hidden = graph.op("Add", hidden, graph.linear(widened, f"{name}mlp.linear_fc2"))
        if layer in vision.deepstack:
            level = vision.deepstack.index(layer)
            merged = graph.reshape(hidden, -1, vision.hidden * vision.merge**2)
            merged = graph.layer_norm(merged, f"{VISION}deepstack_merger_list.{level}.norm", EPSILON)
            merged = _merger(graph, f"{VISION}deepstack_merger_list.{level}.", merged)
            graph.output(merged, f"deepstack_features_{level}", features)
    normed = graph.layer_norm(hidden, f"{VISION}merger.norm", EPSILON)
    merged = _merger(graph, f"{VISION}merger.", graph.reshape(normed, -1, vision.hidden * vision.merge**2))
    graph.output(merged, "image_features", features)
    return graph.model("vision")


def _attention(
    graph: GraphBuilder, vision: VisionShape, name: str, value: ir.Value, rotation: list[ir.Value]
) -> ir.Value:
    queries, keys, values = graph.split(graph.linear(value, f"{name}qkv"), *(vision.hidden,) * 3)
    queries, keys = (graph.op("RotaryEmbedding", part, *rotation, num_heads=vision.heads) for part in (queries, keys))
    heads = {"q_num_heads": vision.heads, "kv_num_heads": vision.heads}
    return graph.linear(graph.op("Attention", queries, keys, values, **heads), f"{name}proj")


def _merger(graph: GraphBuilder, name: str, value: ir.Value) -> ir.Value:
    widened = graph.op("Gelu", graph.linear(value, f"{name}linear_fc1"))
    return graph.linear(widened, f"{name}linear_fc2")
