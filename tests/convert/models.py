"""Small random checkpoints of chosen shapes, and what transformers computes with them."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from shipvlm.families.qwen3_vl.parameters import VISION
from shipvlm.folder import copy_side_files
from tests.convert.sessions import Prompt

IMAGE, TEXT = 90, range(3, 80)  # ids of the image token and of words, in a vocabulary of 96


def write_checkpoint(folder: Path, side_files: Path, levels: int, tied: bool, dtype=torch.float32) -> Path:
    """A checkpoint with `levels` DeepStack levels, a tied head or one of its own, stored in `dtype`."""
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 96,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 48,
            "num_position_embeddings": 100,
            "deepstack_visual_indexes": list(range(levels)),
        },
        image_token_id=IMAGE,
        video_token_id=91,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(levels)
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith((f"{VISION}patch_embed", f"{VISION}pos_embed")):
                # Small numbers before the first norm: its epsilon must matter.
                parameter.copy_(torch.randn_like(parameter)).mul_(0.002)
            elif parameter.ndim > 1:
                parameter.mul_(5)  # at the initial 0.02 the logits are almost flat
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)  # no norm or bias is left at 1 or 0
    folder.mkdir()
    copy_side_files(side_files, folder)
    model.to(dtype).save_pretrained(folder)
    return folder


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def change_config(folder: Path, **settings) -> None:
    """Set parts of the quantization_config."""
    config = read_config(folder)
    config["quantization_config"] = {**config.get("quantization_config", {}), **settings}
    (folder / "config.json").write_text(json.dumps(config))


def load_reference(folder: Path) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def without_deepstack(model: Qwen3VLForConditionalGeneration) -> Qwen3VLForConditionalGeneration:
    """The same model, changed in place so that its DeepStack features are zeros."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(f"{VISION}deepstack_merger_list.") and ".linear_fc2." in name:
                parameter.zero_()
    return model


def make_prompt(draw: np.random.Generator, grids: list[tuple[int, int, int]], words: int) -> Prompt:
    """Every picture after at least one word; `words` words at the end."""
    ids: list[int] = []
    for grid in grids:
        ids += [*draw.choice(TEXT, draw.integers(1, 4)), *[IMAGE] * (grid[1] * grid[2] // 4)]
    pixels = [draw.standard_normal((grid[1] * grid[2], 1536), np.float32) for grid in grids]
    return Prompt([int(token) for token in [*ids, *draw.choice(TEXT, words)]], grids, pixels)


@torch.inference_mode()
def reference_vision(model: Qwen3VLForConditionalGeneration, prompt: Prompt) -> list[np.ndarray]:
    """image_features, then the DeepStack features, of all pictures one after the other."""
    output = model.model.visual(
        torch.from_numpy(np.concatenate(prompt.pixels)), grid_thw=torch.tensor(prompt.grids), return_dict=True
    )
    return [part.numpy() for part in (output.pooler_output, *output.deepstack_features)]


@torch.inference_mode()
def reference_text(model: Qwen3VLForConditionalGeneration, prompt: Prompt, answer: list[int]):
    """Logits [tokens, vocab] and keys, values of each layer [kv_heads, tokens, head_dim] of prompt and answer."""
    model.model.rope_deltas = None  # of an earlier prompt
    ids = torch.tensor([[*prompt.ids, *answer]])
    pictures = {}
    if prompt.grids:
        pictures["pixel_values"] = torch.from_numpy(np.concatenate(prompt.pixels))
        pictures["image_grid_thw"] = torch.tensor(prompt.grids)
        pictures["mm_token_type_ids"] = (ids == IMAGE).int()
    output = model(input_ids=ids, use_cache=True, **pictures)
    caches = [(layer.keys[0].numpy(), layer.values[0].numpy()) for layer in output.past_key_values.layers]
    return output.logits[0].numpy(), caches
