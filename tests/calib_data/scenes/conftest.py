"""A small set of assets made on the spot: plain discs for drawings, the font that comes with matplotlib."""

import csv
import shutil
from pathlib import Path

import matplotlib
import pytest
from PIL import Image, ImageDraw

from calib_data.scenes.canvas import Assets, load_assets

KINDS = {"apple": "food", "pear": "food", "plum": "food", "cat": "animal", "dog": "animal", "hen": "animal"}
MARK = (255, 0, 255)  # the colour of every drawing: no ground and no tint has it


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    folder = tmp_path_factory.mktemp("assets")
    (folder / "sprites").mkdir()
    disc = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(disc).ellipse((4, 4, 124, 124), fill=(*MARK, 255))
    rows = [("file", "label", "family", "style", "heldout")]
    for label, family in KINDS.items():
        disc.save(folder / "sprites" / f"{label}.png")
        rows.append((f"{label}.png", label, family, "noto", "0"))
    with (folder / "sprites.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    source = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    for script in ("latin", "chinese"):
        (folder / "fonts" / script / "train").mkdir(parents=True)
        shutil.copy(source, folder / "fonts" / script / "train")
    (folder / "words.txt").write_text("house river stone\n")
    return load_assets(folder)
