"""The shape of the default model: a genuine Qwen3-VL, small enough to travel with the repository."""

from transformers import Qwen3VLConfig

VOCABULARY = 4096


def model_config(token_ids: dict[str, int]) -> Qwen3VLConfig:
    """Interleaved M-RoPE, GQA 4:2, QK-norm, DeepStack from two vision layers, patch 16, merge 2, tied head."""
    return Qwen3VLConfig(
        architectures=["Qwen3VLForConditionalGeneration"],
        dtype="float16",
        tie_word_embeddings=True,
        image_token_id=token_ids["<|image_pad|>"],
        video_token_id=token_ids["<|video_pad|>"],
        vision_start_token_id=token_ids["<|vision_start|>"],
        vision_end_token_id=token_ids["<|vision_end|>"],
        text_config={
            "model_type": "qwen3_vl_text",
            "vocab_size": VOCABULARY,
            "hidden_size": 256,
            "intermediate_size": 640,
            "num_hidden_layers": 7,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 100000.0,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
            "bos_token_id": token_ids["<|endoftext|>"],
            "eos_token_id": token_ids["<|im_end|>"],
            "pad_token_id": None,
            "tie_word_embeddings": True,
            "dtype": "float16",
        },
        vision_config={
            "model_type": "qwen3_vl_vision",
            "depth": 8,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_heads": 4,
            "out_hidden_size": 256,
            "num_position_embeddings": 576,
            "deepstack_visual_indexes": [2, 5],
            "dtype": "float16",
        },
    )
