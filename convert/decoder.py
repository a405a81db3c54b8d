"""The decoder graph: embedding, decoder layers and head, for prefill and decode alike."""

from collections.abc import Mapping

import onnx_ir as ir

from convert.builder import GraphBuilder, Precision
from shipvlm.families.qwen3_vl.layers import DECODER_LAYERS
from shipvlm.families.qwen3_vl.parameters import EMBEDDING, HEAD, TEXT
from shipvlm.families.qwen3_vl.shape import Shape, TextShape


def build_decoder(shape: Shape, tensors: Mapping[str, ir.TensorProtocol], precision: Precision) -> ir.Model:
    """The text decoder of a Qwen3-VL, after `Qwen3VLTextModel` of transformers 5.17, with its head.

    Inputs, B rows of S tokens: `input_ids`, `image_index` int64 [B, S] (row of the image features, -1 for text),
    `image_features`, `deepstack_features_{level}` [image tokens, hidden], `cos`, `sin` [B, S, head_dim / 2],
    `past_lengths` int64 [B], `logit_index` int64 [rows] (which of the B * S hidden states get logits),
    `key_cache_{layer}`, `value_cache_{layer}` [B, kv_heads, max_length, head_dim].
    Outputs: `logits` [rows, vocab], and `..._out` of each cache, meant to be bound to the input's own buffer.
    Tokens are written at `past_lengths` and see what lies before them in their row, themselves included.
    Raises `InputError` where Linears that share an input differ in its scale.
    """
    graph, text = GraphBuilder(tensors, precision), shape.text
    tokens, picture = ("batch", "sequence"), ("image_tokens", text.hidden)
    input_ids = graph.input("input_ids", tokens, ir.DataType.INT64)
    image_index = graph.input("image_index", tokens, ir.DataType.INT64)
    image_features = graph.input("image_features", picture)
    levels = [graph.input(f"deepstack_features_{level}", picture) for level in range(len(shape.vision.deepstack))]
    rotation = [graph.input(name, (*tokens, text.head_dim // 2)) for name in ("cos", "sin")]
    past_lengths = graph.input("past_lengths", ("batch",), ir.DataType.INT64)
    logit_index = graph.input("logit_index", ("rows",), ir.DataType.INT64)

    zero = graph.zero(ir.DataType.INT64)
    is_image = graph.op("Unsqueeze", graph.op("GreaterOrEqual", image_index, zero), graph.constant(-1))
    row = graph.op("Max", image_index, zero)
    lengths = graph.op("Add", past_lengths, graph.op("Shape", input_ids, start=1, end=2))
    embedded = graph.rows(EMBEDDING, input_ids)
    hidden = graph.op("Where", is_image, graph.op("Gather", image_features, row), embedded)
    for layer in range(text.layers):
        name = f"{DECODER_LAYERS}{layer}."
        normed = graph.rms_norm(hidden, f"{name}input_layernorm", text.rms_eps)
        attended = _attention(graph, text, layer, normed, rotation, past_lengths, lengths)
        hidden = graph.op("Add", hidden, attended)
        normed = graph.rms_norm(hidden, f"{name}post_attention_layernorm", text.rms_eps)
        hidden = graph.op("Add", hidden, _mlp(graph, text, f"{name}mlp.", normed))
        if layer < len(levels):
            feature = graph.op("Where", is_image, graph.op("Gather", levels[layer], row), graph.zero())
            hidden = graph.op("Add", hidden, feature)
    chosen = graph.op("Gather", graph.reshape(hidden, -1, text.hidden), logit_index)
    chosen = graph.rms_norm(chosen, f"{TEXT}norm", text.rms_eps)
    head = graph.weight(EMBEDDING if text.tied else HEAD)
    graph.output(graph.op("Gemm", chosen, head, transB=1), "logits", ("rows", text.vocab))
    return graph.model("decoder")


def _attention(
    graph: GraphBuilder,
    text: TextShape,
    layer: int,
    value: ir.Value,
    rotation: list[ir.Value],
    past_lengths: ir.Value,
    lengths: ir.Value,
) -> ir.Value:
    name = f"{DECODER_LAYERS}{layer}.self_attn."
    projected = graph.linear(value, *(f"{name}{part}" for part in ("q_proj", "k_proj", "v_proj")))
    width = text.kv_heads * text.head_dim
    queries, keys, values = graph.split(projected, text.heads * text.head_dim, width, width)
    queries = graph.rms_norm(graph.reshape(queries, 0, 0, text.heads, text.head_dim), f"{name}q_norm", text.rms_eps)
    keys = graph.rms_norm(graph.reshape(keys, 0, 0, text.kv_heads, text.head_dim), f"{name}k_norm", text.rms_eps)
    queries, keys = (
        graph.op("RotaryEmbedding", graph.op("Transpose", part, perm=[0, 2, 1, 3]), *rotation)
        for part in (queries, keys)
    )
    values = graph.op("Transpose", graph.reshape(values, 0, 0, text.kv_heads, text.head_dim), perm=[0, 2, 1, 3])
    cache = ("batch", text.kv_heads, "max_length", text.head_dim)
    updated = []
    for kind, new in (("key", keys), ("value", values)):
        old = graph.input(f"{kind}_cache_{layer}", cache)
        updated.append(graph.op("TensorScatter", old, new, past_lengths, axis=2))
        graph.output(updated[-1], f"{kind}_cache_{layer}_out", cache)
    # The causal mask is aligned to the end of each row's `lengths`, not to the end of the cache.
    attended = graph.op("Attention", queries, *updated, None, None, None, lengths, is_causal=1)
    attended = graph.reshape(graph.op("Transpose", attended, perm=[0, 2, 1, 3]), 0, 0, text.heads * text.head_dim)
    return graph.linear(attended, f"{name}o_proj")


def _mlp(graph: GraphBuilder, text: TextShape, name: str, value: ir.Value) -> ir.Value:
    both = graph.linear(value, f"{name}gate_proj", f"{name}up_proj")
    gate, up = graph.split(both, text.intermediate, text.intermediate)
    silu = graph.op("Mul", gate, graph.op("Sigmoid", gate))
    return graph.linear(graph.op("Mul", silu, up), f"{name}down_proj")
