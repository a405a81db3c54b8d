"""What the tests of quantization share: checkpoints with other widths and types, and a few records with pictures."""

import io
import random
from pathlib import Path

import torch
from PIL import Image
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from calib_data.records import Record
from quantize.stage import run
from shipvlm.folder import SIDE_FILES, written_whole
from shipvlm.recipe import QuantizeSection

WORDS = ["red", "blue", "circle", "square", "left", "right", "what", "is", "the", "total"]


def made_records(count: int, seed: int = 0) -> list[Record]:
    """Records with small noisy pictures of different sizes, and prompts and answers of different lengths."""
    draw = random.Random(seed)
    records = []
    for index in range(count):
        size = draw.choice([64, 96, 128]), draw.choice([64, 96])
        picture = Image.frombytes("RGB", size, draw.randbytes(3 * size[0] * size[1]))
        file = io.BytesIO()
        picture.save(file, "PNG")
        records.append(
            Record(
                id=f"r{index}",
                task="vqa",
                image=file.getvalue(),
                prompt=" ".join(draw.choices(WORDS, k=draw.randint(2, 9))),
                answers=(" ".join(draw.choices(WORDS, k=draw.randint(1, 4))), "another"),
                source="made",
                licence="CC0-1.0",
            )
        )
    return records


def write_variant(tiny: Path, folder: Path, dtype: torch.dtype, wide: bool = False) -> Path:
    """The tiny checkpoint in another dtype; `wide` makes every text width a multiple of 128, for groups of 128."""
    config = Qwen3VLConfig.from_pretrained(tiny)
    if wide:
        config.text_config.hidden_size = config.vision_config.out_hidden_size = 128
        config.text_config.head_dim = 32
        config.text_config.rope_parameters["mrope_section"] = [6, 5, 5]
        torch.manual_seed(1)
        model = Qwen3VLForConditionalGeneration(config)
    else:
        model = Qwen3VLForConditionalGeneration.from_pretrained(tiny)
    model.to(dtype).save_pretrained(folder)
    for name in SIDE_FILES:
        if name != "config.json" and (tiny / name).is_file():
            (folder / name).write_bytes((tiny / name).read_bytes())
    return folder


def quantize(source: Path, out: Path, records: list[Record] | None = None, **settings) -> dict:
    """The stage as it is run: in a new folder that takes its name when all went well."""
    with written_whole(out) as work:
        return run(source, QuantizeSection(**settings), records, work, lambda *_: None)
