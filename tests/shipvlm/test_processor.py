"""What the model is fed, held to the definition written out by hand, and to AutoProcessor where torchvision is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shipvlm.families.qwen3_vl.processor import conversation, load_processor

SIZES = [(64, 64), (96, 64), (64, 128), (128, 128)]  # width, height: no resizing is needed
PATCH, MERGE = 16, 2


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def patches_by_hand(image: Image.Image) -> np.ndarray:
    """Rows of [channel, time, y, x]; the four patches that become one token stand together."""
    pixels = np.asarray(image, dtype=np.float64) / 255 * 2 - 1
    block = PATCH * MERGE
    rows = []
    for top in range(0, image.height, block):
        for left in range(0, image.width, block):
            for y in (top, top + PATCH):
                for x in (left, left + PATCH):
                    patch = pixels[y : y + PATCH, x : x + PATCH].transpose(2, 0, 1)
                    rows.append(np.stack([patch, patch], axis=1).ravel())
    return np.array(rows)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_are_the_definition(tiny_checkpoint: Path, width: int, height: int) -> None:
    processor = load_processor(tiny_checkpoint)
    image = noise(width, height)
    text = processor.apply_chat_template(conversation("what is red", 1), add_generation_prompt=True)
    inputs = processor(text=[text], images=[image], return_tensors="pt")

    np.testing.assert_allclose(inputs["pixel_values"].numpy(), patches_by_hand(image), atol=1e-6)
    assert inputs["image_grid_thw"].tolist() == [[1, height // PATCH, width // PATCH]]
    tokens = width * height // (PATCH * MERGE) ** 2
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(processor.image_token_id) == tokens
    assert inputs["mm_token_type_ids"][0].tolist() == [int(token == processor.image_token_id) for token in ids]


def test_text_around_the_picture(tiny_checkpoint: Path) -> None:
    processor = load_processor(tiny_checkpoint)
    text = processor.apply_chat_template(conversation("what is red", 1), add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>what is red<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = processor(text=[text], images=[noise(64, 64)], return_tensors="pt")["input_ids"][0]
    assert processor.tokenizer.decode(ids) == text.replace("<|image_pad|>", "<|image_pad|>" * 4)


def test_large_and_small_pictures_stay_within_the_limits(tiny_checkpoint: Path) -> None:
    processor = load_processor(tiny_checkpoint)
    for width, height in [(10, 10), (1000, 700), (31, 400)]:
        grid = processor.image_processor(noise(width, height), return_tensors="pt")["image_grid_thw"][0].tolist()
        assert 64 * 64 <= grid[1] * grid[2] * PATCH * PATCH <= 128 * 128
        assert grid[1] % MERGE == grid[2] % MERGE == 0


def test_equal_to_the_processor_with_video(tiny_checkpoint: Path) -> None:
    pytest.importorskip("torchvision", reason="AutoProcessor for Qwen3-VL needs torchvision")
    from transformers import AutoImageProcessor, AutoProcessor

    theirs = AutoProcessor.from_pretrained(tiny_checkpoint)
    theirs.image_processor = AutoImageProcessor.from_pretrained(tiny_checkpoint, backend="pil")
    ours = load_processor(tiny_checkpoint)
    messages = conversation("what is red", 2)
    text = theirs.apply_chat_template(messages, add_generation_prompt=True)
    assert ours.apply_chat_template(messages, add_generation_prompt=True) == text
    pictures = [noise(90, 200), noise(50, 50, seed=1)]
    wanted = theirs(text=[text], images=pictures, return_tensors="pt")
    got = ours(text=[text], images=pictures, return_tensors="pt")
    assert list(got) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(got[name].numpy(), wanted[name].numpy())
