"""Pictures for the command line: one file, and a data set."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A data set as a user has one: a folder of pictures and a JSONL with columns of its own names."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = []
    for number in range(4):
        # Smooth shapes, each its own: what a perceptual hash is made for.
        small = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "what is it", "answers": ["noise"]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
