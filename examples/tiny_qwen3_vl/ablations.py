"""The same weights with one part of Qwen3-VL taken away, to show what that part is worth.

The model was trained with the part, so a loss says that it is used, not how well a model trained without it would do.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from shipvlm.runtime.checkpoint import Checkpoint

COARSE_PICTURE = 96 * 96  # pixels: the smallest picture there is


def without_deepstack(checkpoint: Checkpoint) -> Checkpoint:
    """DeepStack features as zeros: the decoder sees only what the last vision layer says."""
    model = copy.deepcopy(checkpoint.model)
    model.model.language_model._deepstack_process = _unchanged
    return replace(checkpoint, model=model)


def with_text_positions(checkpoint: Checkpoint) -> Checkpoint:
    """Plain counting positions, the same on all three M-RoPE axes, in place of rows and columns for picture tokens."""
    model = copy.deepcopy(checkpoint.model)
    model.model.get_rope_index = _count
    return replace(checkpoint, model=model)


def with_coarse_pictures(checkpoint: Checkpoint, pixels: int = COARSE_PICTURE) -> Checkpoint:
    """Pictures above `pixels` lose the detail that `pixels` cannot hold; size and number of tokens stay as they are."""
    original = checkpoint.processor.image_processor
    coarse = copy.copy(original)
    coarse.preprocess = lambda images, *rest, **named: original.preprocess(
        [_without_detail(image, pixels) for image in images], *rest, **named
    )
    processor = copy.copy(checkpoint.processor)
    processor.image_processor = coarse
    return replace(checkpoint, processor=processor)


def _without_detail(image: Image.Image, pixels: int) -> Image.Image:
    scale = (pixels / (image.width * image.height)) ** 0.5
    if scale >= 1:
        return image
    small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(small, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


def _unchanged(hidden_states: torch.Tensor, *_: Any) -> torch.Tensor:
    return hidden_states


def _count(input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Stands in for Qwen3VLModel.get_rope_index: positions int64 [3, B, S], and zero for their offset [B, 1]."""
    positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    return positions.expand(3, -1, -1), torch.zeros_like(input_ids[:, :1])
