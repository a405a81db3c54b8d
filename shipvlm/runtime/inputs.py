"""From requests to numbers, the same for every engine: chat template, tokenizer, pictures to patches; numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import GenerationConfig

from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.grid import Grid
from shipvlm.families.qwen3_vl.processor import PictureProcessor, conversation


@dataclass(frozen=True)
class Request:
    """One question: words, and the pictures they are about (put before the words, in order)."""

    prompt: str
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Batch:
    """What a model reads of several requests, nothing padded.

    `input_ids` is int64 [S] for each request, S its own; `grids` are those of each request's pictures; `pixel_values`
    is float32 [patches, 1536], the pictures of all requests one after the other (no rows where there are none).
    """

    input_ids: tuple[np.ndarray, ...]
    grids: tuple[tuple[Grid, ...], ...]
    pixel_values: np.ndarray


def encode(processor: PictureProcessor, requests: Sequence[Request]) -> Batch:
    """Apply the chat template, tokenize, resize and cut the pictures into patches.

    Raises `InputError` for a prompt that contains a special token of the tokenizer or is no valid Unicode, and for
    what the processor refuses.
    """
    for request in requests:
        try:
            request.prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the prompt is no valid Unicode: remove {error.object[error.start]!r}") from error
        for token in processor.tokenizer.all_special_tokens:
            if token in request.prompt:
                raise InputError(f"the prompt contains the special token {token!r}: remove it from {request.prompt!r}")
    texts = [
        processor.apply_chat_template(conversation(request.prompt, len(request.images)), add_generation_prompt=True)
        for request in requests
    ]
    images = [image for request in requests for image in request.images]
    try:
        found = processor(text=texts, images=images or None)
    except ValueError as error:
        raise InputError(f"the processor refuses the prompt or a picture: {error}") from error
    grids = iter([tuple(grid) for grid in found["image_grid_thw"].tolist()] if images else [])
    return Batch(
        tuple(np.asarray(ids, np.int64) for ids in found["input_ids"]),
        tuple(tuple(next(grids) for _ in request.images) for request in requests),
        np.asarray(found["pixel_values"], np.float32) if images else np.zeros((0, 0), np.float32),
    )


def generation_settings(folder: Path, processor: PictureProcessor) -> GenerationConfig:
    """Of a folder's own settings only where an answer ends (`eos_token_id`, a list), and its padding token.

    Its temperature and penalties are left out: they would hide what a change of the weights does.
    Raises `InputError` where the tokenizer has no such tokens.
    """
    end = None
    if (folder / "generation_config.json").is_file():
        end = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    end = processor.tokenizer.eos_token_id if end is None else end
    pad = processor.tokenizer.pad_token_id
    if end is None or pad is None:
        raise InputError(f"{folder}: the tokenizer needs an eos_token and a pad_token in tokenizer_config.json")
    return GenerationConfig(do_sample=False, eos_token_id=[end] if isinstance(end, int) else end, pad_token_id=pad)
