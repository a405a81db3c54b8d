"""The files of a small repository of a Qwen3-VL, for the servers of the tests: all that fetch looks at is genuine."""

import json

import numpy as np
from safetensors.numpy import save

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
CARD = b"---\nlicense: apache-2.0\n---\n# tiny\n"


def repository(seed: int = 0, numbers: int = 4000) -> dict[str, bytes]:
    """Two shards of `numbers` float32 each, index, configs, tokenizer, card and licence; other weights by `seed`."""
    random = np.random.default_rng(seed)
    weights = {
        shard: save({f"weight.{part}": random.standard_normal(numbers).astype(np.float32)}, {"format": "pt"})
        for part, shard in enumerate(SHARDS)
    }
    index = {"metadata": {}, "weight_map": {f"weight.{part}": shard for part, shard in enumerate(SHARDS)}}
    objects = {
        "config.json": {"model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"]},
        "generation_config.json": {"do_sample": False},
        "preprocessor_config.json": {"patch_size": 16},
        "tokenizer.json": {"version": "1.0"},
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"},
        "model.safetensors.index.json": index,
    }
    texts = {name: json.dumps(value, indent=2).encode() for name, value in objects.items()}
    return {**texts, **weights, "chat_template.jinja": b"{{ messages }}", "README.md": CARD, "LICENSE": b"Apache-2.0\n"}
