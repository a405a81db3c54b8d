"""Loading refuses what does not fit; generation equals a plain argmax loop, one by one and in batches."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from shipvlm.errors import InputError, SetupError
from shipvlm.runtime.checkpoint import Checkpoint, Request, generate, load, prepare


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load(tiny_checkpoint)


def picture(seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    height, width = draw.integers(40, 200, 2)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


REQUESTS = [
    Request("what is red", (picture(0),)),
    Request("total"),
    Request("what is left of the blue circle and right of the red square", (picture(1), picture(2))),
    Request("yes or no", (picture(3),)),
    Request("what is the total", (picture(4),)),
]


def argmax_loop(model: torch.nn.Module, checkpoint: Checkpoint, request: Request, length: int) -> list[int]:
    """Greedy decoding by its definition: the whole sequence again for every token, no cache, no `generate`."""
    inputs = dict(prepare(checkpoint, [request]))
    end = set(checkpoint.model.generation_config.eos_token_id)
    found: list[int] = []
    with torch.inference_mode():
        while len(found) < length:
            token = model(**inputs, use_cache=False).logits[0, -1].argmax().item()
            if token in end:
                break
            found.append(token)
            for name, value in (("input_ids", token), ("attention_mask", 1), ("mm_token_type_ids", 0)):
                inputs[name] = torch.cat([inputs[name], torch.tensor([[value]])], dim=1)
    return found


def test_batches_answer_as_single_requests_and_as_the_definition(checkpoint: Checkpoint, tiny_checkpoint: Path) -> None:
    single = generate(checkpoint, REQUESTS, max_new_tokens=8, batch_size=1)
    assert generate(checkpoint, REQUESTS, max_new_tokens=8, batch_size=5) == single
    assert generate(checkpoint, REQUESTS, max_new_tokens=8, batch_size=2) == single
    plain = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    for request, answer in zip(REQUESTS, single, strict=True):
        assert answer.token_ids == argmax_loop(plain, checkpoint, request, 8)
        assert answer.text == checkpoint.processor.tokenizer.decode(answer.token_ids).strip()
    assert len({tuple(answer.token_ids) for answer in single}) > 1, "the answers must depend on the request"


def test_the_picture_and_its_place_matter(checkpoint: Checkpoint) -> None:
    both = (picture(1), picture(2))
    with torch.inference_mode():
        forth, back, none = (
            checkpoint.model(**prepare(checkpoint, [Request("what is red", images)])).logits[0, -1]
            for images in (both, both[::-1], ())
        )
    assert not torch.allclose(forth, back, atol=1e-3)
    assert not torch.allclose(forth, none, atol=1e-3)


def test_an_answer_ends_before_the_end_token(checkpoint: Checkpoint) -> None:
    generation = checkpoint.model.generation_config
    whole = [answer.token_ids for answer in generate(checkpoint, REQUESTS, max_new_tokens=6)]
    end = next(token for answer in whole for place, token in enumerate(answer) if place and token != answer[0])
    stored, generation.eos_token_id = generation.eos_token_id, [end, *generation.eos_token_id]
    try:
        cut = [answer.token_ids for answer in generate(checkpoint, REQUESTS, max_new_tokens=6)]
    finally:
        generation.eos_token_id = stored
    assert cut == [answer[: answer.index(end)] if end in answer else answer for answer in whole]
    assert cut != whole


def test_no_requests_no_answers(checkpoint: Checkpoint) -> None:
    assert generate(checkpoint, []) == []


def test_refuses_special_tokens_in_the_prompt(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"special token '<\|image_pad\|>'"):
        generate(checkpoint, [Request("look <|image_pad|>", (picture(0),))])


def test_refuses_a_picture_too_thin(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="aspect ratio"):
        generate(checkpoint, [Request("what", (Image.new("RGB", (1000, 2)),))])


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.language_model.norm.weight"]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.language_model.extra.weight"] = torch.zeros(1)


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.language_model.norm.weight"] = torch.zeros(7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "1 missing tensors, first model.language_model.norm.weight"),
        (add, "1 unexpected tensors, first model.language_model.extra.weight"),
        (reshape, "1 mismatched tensors, first .*model.language_model.norm.weight"),
    ],
)
def test_refuses_other_tensors(
    tiny_checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=message):
        load(folder)


def test_refuses_a_truncated_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="transformers cannot load it"):
        load(folder)


def test_a_checkpoint_cannot_choose_a_kernel(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "owner/repo"}))
    with pytest.raises(InputError, match="has attn_implementation"):
        load(folder)


def test_dtype_is_what_was_asked_for(tiny_checkpoint: Path) -> None:
    model = load(tiny_checkpoint, dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_refuses_cuda_where_there_is_none(tiny_checkpoint: Path) -> None:
    with pytest.raises(SetupError, match="no CUDA device"):
        load(tiny_checkpoint, device="cuda")


@pytest.mark.gpu
def test_cuda_answers_as_cpu(checkpoint: Checkpoint, tiny_checkpoint: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the patch embedding is a convolution
    on_gpu = load(tiny_checkpoint, device="cuda")
    assert generate(on_gpu, REQUESTS, max_new_tokens=8) == generate(checkpoint, REQUESTS, max_new_tokens=8)
