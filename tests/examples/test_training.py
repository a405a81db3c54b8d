"""The training arithmetic against transformers and torch, on a batch made the way training makes it."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from calib_data.scenes.asks import Ask
from calib_data.scenes.canvas import grid_of
from examples.tiny_qwen3_vl import train
from examples.tiny_qwen3_vl.fast_forward import FastForward
from examples.tiny_qwen3_vl.muon import Muon
from examples.tiny_qwen3_vl.stream import choose, pack, prompts, size_in_grid

MODEL = Path("examples/tiny_qwen3_vl")
ASKS = [
    Ask("vqa", "how many", "How many cats are there?", ("3",)),
    Ask("ocr", "total", "What is the total?", ("$12.50",)),
    Ask("caption", "objects", "Describe the picture.", ("three cats on a blue ground",)),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Qwen3VLForConditionalGeneration:
    """The default model's shape with random weights large enough that every part of it matters."""
    model = train.new_model(tokenizer).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


@pytest.fixture(scope="module")
def batch(tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Two pictures of 2 x 3 cells, with three questions and one."""
    fixed = prompts(tokenizer)
    rng = random.Random(0)
    packed = pack([choose(rng, ASKS, tokenizer, fixed), choose(rng, ASKS[:1], tokenizer, fixed)], fixed, 2, 3)
    return packed | {"pixels": np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)}


def patches(pixels: np.ndarray) -> torch.Tensor:
    """[H, W, 3] -> what the processor hands to the model: float32 [patches, 1536]."""
    h, w, _ = pixels.shape
    x = (
        torch.from_numpy(pixels).view(h // 32, 2, 16, w // 32, 2, 16, 3).permute(0, 3, 1, 4, 6, 2, 5).float() / 127.5
        - 1
    )
    return x.reshape(-1, 3, 1, 16, 16).expand(-1, -1, 2, -1, -1).reshape(-1, 1536)


@torch.no_grad()
def test_each_question_gets_the_logits_of_transformers(model, batch) -> None:
    ids, branch, position = (torch.from_numpy(batch[k]).long() for k in ("ids", "branch", "position"))
    hidden = FastForward(model)(torch.from_numpy(batch["pixels"]), ids, branch, position, torch.float32)
    fast = hidden @ model.lm_head.weight.T
    for i, pixels in enumerate(batch["pixels"]):
        for question in range(1, int(branch[i].max()) + 1):
            seen = (branch[i] == 0) | (branch[i] == question)
            alone = ids[i][seen][None]
            reference = model(
                input_ids=alone,
                pixel_values=patches(pixels),
                image_grid_thw=torch.tensor([[1, 4, 6]]),
                mm_token_type_ids=(alone == model.config.image_token_id).int(),
            ).logits[0]
            torch.testing.assert_close(fast[i][seen], reference, atol=2e-5, rtol=1e-4)


def test_labels_are_the_answers_one_step_ahead(batch, tokenizer: Tokenizer) -> None:
    ids, label, branch = batch["ids"][0], batch["label"][0], batch["branch"][0]
    told = set()
    for question in range(1, branch.max() + 1):
        places = np.flatnonzero((branch == question) & (label >= 0))
        assert (label[places] == ids[places + 1]).all()
        told.add(tokenizer.decode(label[places].tolist(), skip_special_tokens=False))
    assert told == {"3<|im_end|>", "$12.50<|im_end|>", "three cats on a blue ground<|im_end|>"}
    weights = batch["weight"][0][(branch == 1) & (label >= 0)]
    assert weights.sum() == pytest.approx(len(weights) ** 0.5)


def test_the_tokenizer_is_the_same_through_transformers(tokenizer: Tokenizer) -> None:
    loaded = AutoTokenizer.from_pretrained(MODEL)
    for text in ("How many soccer balls are there?", "红烧肉 ¥12.00", "  AX-4927\n'tis 2024-01-02", "Total: €3.99"):
        assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
        assert loaded.decode(tokenizer.encode(text).ids) == text
    said = loaded.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi?"}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert said == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Hi?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_muon_is_torchs() -> None:
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in ((64, 32), (64, 32), (32, 64), (48, 48))]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    both = (
        Muon(ours, lr=1e-2, weight_decay=0.05),
        torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for optimizer in both:
            optimizer.step()
    for mine, other, before in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
        assert (mine - before).abs().mean() > 1e-3


@settings(max_examples=60)
@given(rows=st.integers(5, 18), columns=st.integers(5, 18), seed=st.integers(0, 10**6))
def test_sizes_fall_into_the_batchs_grid(rows: int, columns: int, seed: int) -> None:
    size = size_in_grid(random.Random(seed), rows, columns)
    if rows * columns < 64:
        assert size is None
    elif size:
        assert grid_of(*size) == (rows, columns)


def test_shards_load_with_transformers_and_stay_small(model, tmp_path: Path) -> None:
    train.write_shards(model, tmp_path)
    assert all(path.stat().st_size < 15_000_000 for path in tmp_path.glob("*.safetensors"))
    loaded, report = Qwen3VLForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(loaded.get_parameter(name), parameter.half().float(), atol=0, rtol=0)
