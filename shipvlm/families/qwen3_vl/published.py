"""The configurations of published Qwen3-VL sizes, as far as their shape goes: for timing with random weights."""

from typing import Any


def _config(text: dict[str, int], vision: dict[str, Any], tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen3_vl",
        "image_token_id": 151655,
        "tie_word_embeddings": tied,
        "text_config": {
            "vocab_size": 151936,
            "head_dim": 128,
            "num_key_value_heads": 8,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
            **text,
        },
        "vision_config": {
            "num_heads": 16,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "num_position_embeddings": 2304,
            "out_hidden_size": text["hidden_size"],
            **vision,
        },
    }


_SMALL_TOWER = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
_LARGE_TOWER = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}

# By name; `shape.read_shape` reads one.
PUBLISHED = {
    "qwen3-vl-2b": _config(
        {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
        _SMALL_TOWER,
        tied=True,
    ),
    "qwen3-vl-4b": _config(
        {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
        _SMALL_TOWER,
        tied=True,
    ),
    "qwen3-vl-8b": _config(
        {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
        _LARGE_TOWER,
        tied=False,
    ),
}
