"""easy-VQA, a public benchmark with its own split, from the PyPI package `easy-vqa` (MIT): 64 x 64 pixels each."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from shipvlm.errors import SetupError


def package_folder() -> Path:
    """Where the package's data lies. Raises SetupError when it is not installed."""
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError("the package easy-vqa is not installed: pip install -e '.[data]' in the checkout")
    return Path(spec.submodule_search_locations[0]) / "data"


def questions(split: str) -> list[tuple[str, str, int]]:
    """(question, answer, picture number) of the public `train` or `test` split: 38,575 and 9,673 rows."""
    return [(q, a, i) for q, a, i in json.loads((package_folder() / split / "questions.json").read_text())]


def picture(split: str, number: int) -> Image.Image:
    """One 64 x 64 RGB picture."""
    return Image.open(package_folder() / split / "images" / f"{number}.png").convert("RGB")


def public_test() -> Iterator[tuple[str, str, Image.Image]]:
    """Every question of the public test split, with its answer and picture."""
    for question, answer, number in questions("test"):
        yield question, answer, picture("test", number)
