"""Words, codes, dates and prices, and how they are written on a picture."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

from calib_data.scenes.canvas import Assets, contrast, font, jitter, mean_colour, plain, textured
from calib_data.scenes.words import CHINESE, CHINESE_CHARACTERS, CODAS, MONTHS, SIGN_WORDS, SYLLABLES

PAPERS = ((255, 255, 255), (250, 246, 236), (244, 244, 240), (236, 240, 250), (255, 250, 225))
CODE_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
CODE_PATTERNS = ("LL-dddd", "dddd", "LLdddL", "L-ddd", "dd-dd-dd", "ddd dddd", "LLL ddd")
DIGITS, LOWER, UPPER = "0123456789", "abcdefghiklmnoprstuvw", "ABCDEFGHIKLMNOPRSTUVW"


def invented(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) + rng.choice(CODAS) for _ in range(rng.randint(1, 3)))


def latin_word(rng: random.Random, assets: Assets) -> str:
    """A word of signs, an English word or an invented one, in some letter case."""
    word = rng.choice((rng.choice(SIGN_WORDS), rng.choice(assets.words), rng.choice(assets.words), invented(rng)))
    return rng.choice((word, word.upper(), word.capitalize()))


def chinese_word(rng: random.Random) -> str:
    """A word, or two to four characters that make none, so that reading cannot be guessed."""
    if rng.random() < 0.6:
        return rng.choice(CHINESE)
    return "".join(rng.sample(CHINESE_CHARACTERS, rng.randint(2, 4)))


def code(rng: random.Random) -> str:
    choices = {"L": CODE_LETTERS, "d": DIGITS}
    return "".join(rng.choice(choices.get(c, c)) for c in rng.choice(CODE_PATTERNS))


def price(rng: random.Random, top: int = 30) -> float:
    common = rng.randint(1, top) + rng.choice((0.0, 0.5, 0.9, 0.99, 0.25))
    return rng.choice((rng.randint(100, top * 100) / 100, common, float(rng.randint(1, top))))


def date(rng: random.Random) -> str:
    y, m, d = rng.randint(2015, 2029), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice((f"{y}-{m:02}-{d:02}", f"{d:02}/{m:02}/{y}", f"{d} {MONTHS[m - 1]} {y}", f"{m:02}.{d:02}.{y}"))


def near_miss(rng: random.Random, text: str) -> str:
    """The text with one letter, digit or character exchanged for another of its sort."""
    i = rng.choice([i for i, c in enumerate(text) if c.isalnum()])
    sorts = (DIGITS, LOWER, UPPER) if text[i].isascii() else (CHINESE_CHARACTERS,)
    fits = (str.isdigit, str.islower, str.isupper) if text[i].isascii() else (str.isalnum,)
    alphabet = next(letters for letters, is_one in zip(sorts, fits, strict=True) if is_one(text[i]))
    return text[:i] + rng.choice([c for c in alphabet if c != text[i]]) + text[i + 1 :]


def fit(path: Path, lines: list[str], width: float, height: float, largest: int, spacing: float = 1.35) -> int:
    """The largest font size, in pixels, at which the lines fit the box."""
    size = int(min(largest, height / (spacing * len(lines))))
    widest = max(font(path, 20).getlength(line) for line in lines) / 20
    return int(min(size, width / widest))


def ground_of(rng: random.Random, size: tuple[int, int], colour: str | None) -> Image.Image:
    """A plain ground of that colour; without one, paper or a faint pattern."""
    if colour:
        return plain(rng, size, colour)
    if rng.random() < 0.25:
        return Image.blend(textured(rng, size), Image.new("RGB", size, (255, 255, 255)), 0.7)
    return Image.new("RGB", size, jitter(rng, rng.choice(PAPERS), 5))


def draw_lines(rng: random.Random, image: Image.Image, path: Path, lines: list[str], smallest: int) -> bool:
    """Writes the lines, one under another; False when they would be too small to read."""
    width, height = image.size
    size = fit(path, lines, width * 0.88, height * 0.88, 72)
    if size < smallest:
        return False
    size = rng.randint(max(smallest, size // 2), size)
    ink = contrast(rng, mean_colour(image))
    pen = ImageDraw.Draw(image)
    line = size * rng.uniform(1.2, 1.4)
    widest = max(font(path, size).getlength(text) for text in lines)
    align = rng.choice("lm")
    x = width / 2 if align == "m" else rng.uniform(width * 0.05, max(width * 0.05, width * 0.95 - widest))
    y = rng.uniform(line * 0.6, max(line * 0.6, height - line * (len(lines) - 0.4)))
    for i, text in enumerate(lines):
        pen.text((x, y + i * line), text, ink, font(path, size), anchor=f"{align}m")
    return True
