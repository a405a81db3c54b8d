"""The tensors of a Qwen3-VL checkpoint: their names and shapes."""

from shipvlm.families.qwen3_vl.layers import DECODER_LAYERS
from shipvlm.families.qwen3_vl.shape import Shape

VISION = "model.visual."  # how the names of all tensors of the vision tower begin
TEXT = "model.language_model."  # and those of the text decoder, its embedding included
EMBEDDING = f"{TEXT}embed_tokens.weight"
HEAD = "lm_head.weight"


def parameter_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of an unquantized checkpoint of this `shape`; Linear weights are [out, in]."""
    vision, text = shape.vision, shape.text
    merged = vision.hidden * vision.merge**2
    shapes: dict[str, tuple[int, ...]] = {
        f"{VISION}patch_embed.proj.weight": (vision.hidden, vision.in_channels, vision.temporal, *(vision.patch,) * 2),
        f"{VISION}patch_embed.proj.bias": (vision.hidden,),
        f"{VISION}pos_embed.weight": (vision.positions_side**2, vision.hidden),
    }
    for layer in range(vision.depth):
        block = f"{VISION}blocks.{layer}."
        shapes |= _norm(f"{block}norm1", vision.hidden) | _norm(f"{block}norm2", vision.hidden)
        shapes |= _linear(f"{block}attn.qkv", 3 * vision.hidden, vision.hidden)
        shapes |= _linear(f"{block}attn.proj", vision.hidden, vision.hidden)
        shapes |= _linear(f"{block}mlp.linear_fc1", vision.intermediate, vision.hidden)
        shapes |= _linear(f"{block}mlp.linear_fc2", vision.hidden, vision.intermediate)
    mergers = {f"{VISION}merger.": vision.hidden}
    mergers |= {f"{VISION}deepstack_merger_list.{level}.": merged for level in range(len(vision.deepstack))}
    for name, width in mergers.items():
        shapes |= _norm(f"{name}norm", width)
        shapes |= _linear(f"{name}linear_fc1", merged, merged)
        shapes |= _linear(f"{name}linear_fc2", vision.out_hidden, merged)
    queries, values = text.heads * text.head_dim, text.kv_heads * text.head_dim
    shapes[EMBEDDING] = (text.vocab, text.hidden)
    for layer in range(text.layers):
        shapes |= {
            f"{DECODER_LAYERS}{layer}.{name}.weight": size
            for name, size in {
                "input_layernorm": (text.hidden,),
                "self_attn.q_proj": (queries, text.hidden),
                "self_attn.k_proj": (values, text.hidden),
                "self_attn.v_proj": (values, text.hidden),
                "self_attn.o_proj": (text.hidden, queries),
                "self_attn.q_norm": (text.head_dim,),
                "self_attn.k_norm": (text.head_dim,),
                "post_attention_layernorm": (text.hidden,),
                "mlp.gate_proj": (text.intermediate, text.hidden),
                "mlp.up_proj": (text.intermediate, text.hidden),
                "mlp.down_proj": (text.hidden, text.intermediate),
            }.items()
        }
    shapes[f"{TEXT}norm.weight"] = (text.hidden,)
    if not text.tied:
        shapes[HEAD] = (text.vocab, text.hidden)
    return shapes


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
