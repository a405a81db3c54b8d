"""What every scene shares: drawings, fonts, grounds, sizes, and the wear that real pictures show."""

import csv
import io
import math
import random
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from calib_data.scenes.asks import Ask
from calib_data.scenes.words import COLOURS

Colour = tuple[int, ...]  # red, green, blue, 0 to 255
PATCH, MERGE = 16, 2
MIN_PIXELS, MAX_PIXELS = 65536, 1048576  # the default model's processor: size.shortest_edge, size.longest_edge


@dataclass
class Scene:
    image: Image.Image  # RGB
    kind: str  # objects, chart or text
    asks: list[Ask]


@dataclass(frozen=True)
class Drawing:
    label: str
    family: str
    picture: Image.Image = field(repr=False)  # RGBA, square


@dataclass(frozen=True)
class Assets:
    """label -> its drawings; family -> its labels; script -> fonts; English words."""

    drawings: dict[str, list[Drawing]]
    families: dict[str, list[str]]
    fonts: dict[str, list[Path]]
    words: list[str]

    @property
    def labels(self) -> list[str]:
        return list(self.drawings)


def load_assets(folder: Path, heldout: bool = False) -> Assets:
    """Reads what calib_data.scenes.assets wrote: training's side, or what training never sees."""
    drawings: dict[str, list[Drawing]] = {}
    families: dict[str, list[str]] = {}
    with (folder / "sprites.csv").open() as file:
        for row in csv.DictReader(file):
            if (row["heldout"] == "1") != heldout:
                continue
            picture = Image.open(folder / "sprites" / row["file"])
            picture.load()
            drawings.setdefault(row["label"], []).append(Drawing(row["label"], row["family"], picture))
    for label, kinds in drawings.items():
        families.setdefault(kinds[0].family, []).append(label)
    side = "heldout" if heldout else "train"
    fonts = {script: sorted((folder / "fonts" / script / side).iterdir()) for script in ("latin", "chinese")}
    return Assets(drawings, families, fonts, (folder / "words.txt").read_text().split())


@lru_cache(maxsize=2048)
def font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def jitter(rng: random.Random, colour: tuple[int, int, int], amount: int = 14) -> Colour:
    return tuple(min(255, max(0, c + rng.randint(-amount, amount))) for c in colour)


def luminance(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def contrast(rng: random.Random, ground: Colour) -> Colour:
    """A text colour that can be read on `ground`: luminance at least 110 away."""
    while True:
        ink = (
            tuple(rng.randint(0, 255) for _ in range(3))
            if rng.random() < 0.3
            else rng.choice([(10, 10, 12), (250, 250, 250)])
        )
        if abs(luminance(ink) - luminance(ground)) >= 110:
            return ink


def colour_at(image: Image.Image, x: int, y: int) -> Colour:
    """The colour of one pixel of an RGB picture."""
    colour = image.getpixel((x, y))
    assert isinstance(colour, tuple)
    return colour


def mean_colour(image: Image.Image) -> Colour:
    """The colour of the RGB picture shrunk to one pixel."""
    return colour_at(image.resize((1, 1)), 0, 0)


def grid_of(width: int, height: int) -> tuple[int, int]:
    """(rows, columns) of merged 32-pixel cells that Qwen's smart_resize gives a picture of this size."""
    unit = PATCH * MERGE
    h, w = max(unit, round(height / unit) * unit), max(unit, round(width / unit) * unit)
    if h * w > MAX_PIXELS:
        beta = math.sqrt(height * width / MAX_PIXELS)
        h, w = math.floor(height / beta / unit) * unit, math.floor(width / beta / unit) * unit
    elif h * w < MIN_PIXELS:
        beta = math.sqrt(MIN_PIXELS / (height * width))
        h, w = math.ceil(height * beta / unit) * unit, math.ceil(width * beta / unit) * unit
    return h // unit, w // unit


def random_size(rng: random.Random, largest: int = 640) -> tuple[int, int]:
    """(width, height), each 96 to `largest` pixels, most of them small, aspect ratio up to 3."""
    while True:
        area = math.exp(rng.uniform(math.log(110**2), math.log(largest * largest * 0.8)))
        aspect = math.exp(rng.gauss(0, 0.38))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 96 <= width <= largest and 96 <= height <= largest and 1 / 3 <= width / height <= 3:
            return width, height


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (1024, 1024, 3)).astype(np.float32)


def plain(rng: random.Random, size: tuple[int, int], name: str) -> Image.Image:
    return Image.new("RGB", size, jitter(rng, COLOURS[name]))


def textured(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """A gradient, stripes, a checker board or soft blotches of two colours."""
    a, b = (tuple(rng.randint(60, 255) for _ in range(3)) for _ in range(2))
    style = rng.choice(("gradient", "stripes", "checker", "blotches"))
    if style == "gradient":
        ramp = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize(size)
        return Image.composite(Image.new("RGB", size, a), Image.new("RGB", size, b), ramp)
    if style == "blotches":
        small = Image.fromarray((np.random.default_rng(rng.getrandbits(32)).random((5, 5)) * 255).astype(np.uint8))
        return Image.composite(
            Image.new("RGB", size, a), Image.new("RGB", size, b), small.resize(size, Image.Resampling.BICUBIC)
        )
    ground = Image.new("RGB", size, a)
    draw = ImageDraw.Draw(ground)
    step = rng.randint(8, 40)
    b = tuple((3 * x + y) // 4 for x, y in zip(a, b, strict=True))
    for i, x in enumerate(range(0, size[0], step)):
        if style == "stripes":
            if i % 2:
                draw.rectangle((x, 0, x + step - 1, size[1]), fill=b)
        else:
            for j, y in enumerate(range(0, size[1], step)):
                if (i + j) % 2:
                    draw.rectangle((x, y, x + step - 1, y + step - 1), fill=b)
    return ground


def wear(rng: random.Random, image: Image.Image) -> Image.Image:
    """What happens to pictures: a tilt of up to 4 degrees, blur, noise, light, JPEG. Each with its own chance."""
    if rng.random() < 0.3:
        edge = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        image = image.rotate(rng.uniform(-4, 4), Image.Resampling.BILINEAR, fillcolor=edge)
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    change_light, add_noise = rng.random() < 0.4, rng.random() < 0.4
    if change_light or add_noise:
        pixels: np.ndarray = np.asarray(image, dtype=np.float32)
        if change_light:
            pixels = pixels * rng.uniform(0.75, 1.2) + rng.uniform(-18, 18)
        if add_noise:
            h, w = pixels.shape[:2]
            y, x = rng.randrange(1024 - h), rng.randrange(1024 - w)
            pixels = pixels + rng.uniform(2, 14) * _noise()[y : y + h, x : x + w]
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if rng.random() < 0.4:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(35, 92))
        image = Image.open(buffer).convert("RGB")
    return image
