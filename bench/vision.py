"""The vision tower runs once for each picture, however many models and passes look at it.

Quantizing the text decoder leaves the picture's features as they are, so every variant of one checkpoint may use
the same ones. A memo of the last pictures sits in front of the tower; what a model computes does not change.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

KEPT_PICTURES = 64
Features = tuple[torch.Tensor, list[torch.Tensor]]  # [tokens, hidden] and one such a DeepStack level


@contextmanager
def shared_vision(models: Sequence[Qwen3VLForConditionalGeneration], keep: int = KEPT_PICTURES) -> Iterator[None]:
    """Inside the `with`, `models` take picture features from one memo, filled by the first model's tower.

    At most `keep` pictures are kept, or those of one batch where it has more. May be nested.
    Raises ValueError when the vision towers of the models are not bit for bit the same.
    """
    models = list({id(model): model for model in models}.values())
    _refuse_different_towers(models)
    compute = models[0].model.get_image_features
    memo: dict[bytes, Features] = {}

    def get_image_features(pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **_: Any) -> Any:
        blocks = pixel_values.split(image_grid_thw.prod(-1).tolist())
        keys = [_digest(block, grid) for block, grid in zip(blocks, image_grid_thw, strict=True)]
        first_of = {key: index for index, key in reversed(list(enumerate(keys))) if key not in memo}
        if first_of:
            grids = image_grid_thw[list(first_of.values())]
            made = compute(torch.cat([blocks[index] for index in first_of.values()]), grids, return_dict=True)
            levels = [level.split([len(part) for part in made.pooler_output]) for level in made.deepstack_features]
            parts = zip(made.pooler_output, *levels, strict=True)
            memo.update((key, (pooled, deep)) for key, (pooled, *deep) in zip(first_of, parts, strict=True))
        found = [memo[key] for key in keys]
        for key in list(memo)[: max(0, len(memo) - keep)]:
            del memo[key]
        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=tuple(pooled for pooled, _ in found),
            deepstack_features=[torch.cat(level) for level in zip(*(deep for _, deep in found), strict=True)],
        )

    before = [vars(model.model).get("get_image_features") for model in models]
    try:
        for model in models:
            model.model.get_image_features = get_image_features
        yield
    finally:
        for model, method in zip(models, before, strict=True):
            if method is None:
                del model.model.get_image_features
            else:
                model.model.get_image_features = method


def same_vision(left: Qwen3VLForConditionalGeneration, right: Qwen3VLForConditionalGeneration) -> bool:
    """Whether two models have the same vision tower, bit for bit."""
    first, second = left.model.visual.state_dict(), right.model.visual.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _refuse_different_towers(models: Sequence[Qwen3VLForConditionalGeneration]) -> None:
    for model in models[1:]:
        if not same_vision(models[0], model):
            raise ValueError("these models have different vision towers and cannot share picture features")


def _digest(block: torch.Tensor, grid: torch.Tensor) -> bytes:
    pixels = block.detach().cpu().contiguous().numpy()
    return blake2b(pixels.data, key=str(grid.tolist()).encode(), digest_size=16).digest()
