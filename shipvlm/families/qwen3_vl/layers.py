"""Where the Linear layers of Qwen3-VL's text decoder are in a checkpoint, and which of them read the same input."""

DECODER_LAYERS = "model.language_model.layers."  # how the names of all tensors of the text decoder's layers begin

# The Linears of one decoder layer. Those of a group read the same tensor, so they share one activation scale; servers
# that fuse them need one scheme for each group too.
LINEAR_GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


def decoder_groups(layers: int) -> list[tuple[str, ...]]:
    """Names of the Linears of `layers` decoder layers as in a checkpoint (without `.weight`), by shared input."""
    return [
        tuple(f"{DECODER_LAYERS}{layer}.{name}" for name in group) for layer in range(layers) for group in LINEAR_GROUPS
    ]
