"""Run a checkpoint with transformers: load it, ask it, get answers. The reference that everything else is held to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import BatchFeature, GenerationConfig, Qwen3VLForConditionalGeneration

from shipvlm.errors import InputError, SetupError
from shipvlm.families.qwen3_vl import PictureProcessor, conversation, load_processor
from shipvlm.folder import check_folder


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the transformers model in eval mode, its processor, and the folder both came from."""

    model: Qwen3VLForConditionalGeneration
    processor: PictureProcessor
    folder: Path


@dataclass(frozen=True)
class Request:
    """One question: words, and the pictures they are about (put before the words, in order)."""

    prompt: str
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Answer:
    """`text` is what `token_ids` say; `token_ids` are the generated tokens before the end token, prompt excluded."""

    text: str
    token_ids: list[int]


def load(
    folder: Path, dtype: torch.dtype | Literal["auto"] = torch.float32, device: str | torch.device = "cpu"
) -> Checkpoint:
    """Load the Qwen3-VL checkpoint in `folder` with its weights in `dtype` (`"auto"`: as stored) on `device`.

    Plain transformers, safetensors only, no code from the checkpoint. Raises `InputError` for a folder that is not
    such a checkpoint or whose tensors are not exactly the model's, and `SetupError` where a package or the device
    is missing.
    """
    check_folder(folder)
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise SetupError("no CUDA device can be used here; choose device cpu, or install a CUDA build of torch")
    try:
        model, report = Qwen3VLForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            ignore_mismatched_sizes=True,  # so that a wrong shape arrives in the report, with the others
            output_loading_info=True,
        )
        processor = load_processor(folder)
    except ImportError as error:
        raise SetupError(f"{folder}: loading it needs a package that is not installed: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: transformers cannot load it: {error}") from error
    _refuse_other_tensors(folder, report)
    model.generation_config = _greedy(folder, model.generation_config, processor)
    return Checkpoint(model.eval().to(device), processor, folder)


def generate(
    checkpoint: Checkpoint, requests: Sequence[Request], max_new_tokens: int = 64, batch_size: int = 8
) -> list[Answer]:
    """Answer `requests` greedily, in their order, `batch_size` at a time, at most `max_new_tokens` tokens each.

    Greedy means the token of the highest logit: sampling settings and penalties in the checkpoint's
    `generation_config.json` are not used, its end tokens are. In FP32 the batch size does not change the answers.
    Raises `InputError` for a prompt that contains a special token of the tokenizer, and for a picture that
    the processor refuses.
    """
    # Requests of similar size share a batch, so that little of it is padding.
    order = sorted(range(len(requests)), key=lambda index: _size(requests[index]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        answers |= zip(
            batch, _generate_batch(checkpoint, [requests[index] for index in batch], max_new_tokens), strict=True
        )
    return [answers[index] for index in range(len(requests))]


def prepare(checkpoint: Checkpoint, requests: Sequence[Request]) -> BatchFeature:
    """Turn `requests` into the model's inputs on the model's device, left-padded to one length S.

    Returns `input_ids`, `attention_mask`, `mm_token_type_ids` [B, S] int64, and where there are pictures
    `pixel_values` [patches, 1536] float32 and `image_grid_thw` [pictures, 3] int64.
    Raises `InputError` as `generate` does.
    """
    processor = checkpoint.processor
    for request in requests:
        for token in processor.tokenizer.all_special_tokens:
            if token in request.prompt:
                raise InputError(f"the prompt contains the special token {token!r}: remove it from {request.prompt!r}")
    texts = [
        processor.apply_chat_template(conversation(request.prompt, len(request.images)), add_generation_prompt=True)
        for request in requests
    ]
    images = [image for request in requests for image in request.images]
    try:
        inputs = processor(text=texts, images=images or None, padding=True, return_tensors="pt")
    except ValueError as error:
        raise InputError(f"the processor refuses a picture: {error}") from error
    return inputs.to(checkpoint.model.device)


@torch.inference_mode()
def _generate_batch(checkpoint: Checkpoint, requests: list[Request], max_new_tokens: int) -> list[Answer]:
    inputs = prepare(checkpoint, requests)
    tokenizer = checkpoint.processor.tokenizer
    end = checkpoint.model.generation_config.eos_token_id
    rows = checkpoint.model.generate(**inputs, max_new_tokens=max_new_tokens)
    answers = []
    for row in rows[:, inputs["input_ids"].shape[1] :].tolist():
        length = next((index for index, token in enumerate(row) if token in end), len(row))
        token_ids = row[:length]
        answers.append(Answer(tokenizer.decode(token_ids, skip_special_tokens=True).strip(), token_ids))
    return answers


def _greedy(folder: Path, stored: GenerationConfig, processor: PictureProcessor) -> GenerationConfig:
    """Keep of the checkpoint's generation settings only where an answer ends; sampling would hide differences."""
    end = stored.eos_token_id if stored.eos_token_id is not None else processor.tokenizer.eos_token_id
    pad = processor.tokenizer.pad_token_id
    if end is None or pad is None:
        raise InputError(f"{folder}: the tokenizer needs an eos_token and a pad_token in tokenizer_config.json")
    return GenerationConfig(do_sample=False, eos_token_id=[end] if isinstance(end, int) else end, pad_token_id=pad)


def _size(request: Request) -> tuple[int, int]:
    return sum(image.width * image.height for image in request.images), len(request.prompt)


def _refuse_other_tensors(folder: Path, report: dict[str, Any]) -> None:
    for kind in ("missing", "unexpected", "mismatched"):
        keys = sorted(str(key) for key in report[f"{kind}_keys"])
        if keys:
            raise InputError(
                f"{folder}: {len(keys)} {kind} tensors, first {', '.join(keys[:3])}; "
                "the weights do not belong to this config.json"
            )
