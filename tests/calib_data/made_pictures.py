"""Pictures drawn for the guard's tests: six families, each as alike within itself as real generators make them.

`draw(family, rng)` returns one picture and what it shows. Two pictures that show the same are not a fair test of
false alarms (two signs with the same words; two flat shapes of one kind that cover the same place): `alike` tells.
`DISGUISES` are the ways in which a copy may be hidden.
"""

import colorsys
import io
import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Drawn = tuple[Image.Image, tuple]  # the picture, what it shows (empty: nothing else shows the same)
VOCABULARY = (
    "bread milk apple green tea salad coffee soup rice noodle water lemon sugar butter cheese tomato potato orange "
    "fish chicken beef egg toast jam honey salt pepper onion garlic cake pie juice wine beer olive pasta bean corn"
)
WORDS = VOCABULARY.split()


def colour(rng: Generator, low: float = 0.2, high: float = 1.0) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.2, 1.0), rng.uniform(low, high))
    return int(red * 255), int(green * 255), int(blue * 255)


def size(rng: Generator, low: int = 120, high: int = 640) -> tuple[int, int]:
    long = int(rng.integers(low, high + 1))
    short = int(long / rng.uniform(1.0, 1.8))
    return (long, short) if rng.random() < 0.5 else (short, long)


def polygon(rng: Generator, centre: tuple[float, float], radius: float) -> list[tuple[float, float]]:
    corners = int(rng.integers(3, 9))
    turn, star = rng.uniform(0, 2 * math.pi), rng.random() < 0.4
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    radii = [radius * (0.5 if star and i % 2 else 1.0) for i in range(corners)]
    return [(centre[0] + r * math.cos(a), centre[1] + r * math.sin(a)) for a, r in zip(angles, radii, strict=True)]


def ground(rng: Generator, width: int, height: int) -> Image.Image:
    kind = rng.integers(4)
    picture = Image.new("RGB", (width, height), colour(rng, 0.6))
    if kind == 1:
        ramp = Image.linear_gradient("L").rotate(90 * int(rng.integers(4))).resize((width, height))
        picture = Image.composite(picture, Image.new("RGB", (width, height), colour(rng, 0.5)), ramp)
    elif kind == 2:
        pen, step, tint = ImageDraw.Draw(picture), int(rng.integers(12, 40)), colour(rng, 0.5)
        for x in range(0, width, step):
            pen.line((x, 0, x, height), fill=tint, width=2)
    elif kind == 3:
        noise = rng.normal(0, 8, (height, width, 3)) + np.asarray(picture, dtype=np.float64)
        picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    return picture


def objects(rng: Generator) -> Drawn:
    """Two to six drawings of two parts each on a varied ground."""
    width, height = size(rng)
    picture = ground(rng, width, height)
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(2, 7))):
        radius = min(width, height) * rng.uniform(0.08, 0.25)
        centre = (rng.uniform(radius, width - radius), rng.uniform(radius, height - radius))
        if rng.random() < 0.3:
            box = (centre[0] - radius, centre[1] - radius * 0.7, centre[0] + radius, centre[1] + radius * 0.7)
            pen.ellipse(box, fill=colour(rng))
        else:
            pen.polygon(polygon(rng, centre, radius), fill=colour(rng))
        pen.polygon(polygon(rng, centre, radius * 0.45), fill=colour(rng))
    return picture, ()


def receipt(rng: Generator) -> Drawn:
    """Dark lines on near-white paper; one template, so that two receipts differ in their words and numbers alone."""
    width, lines = int(rng.integers(240, 360)), int(rng.integers(5, 14))
    pitch = int(rng.integers(20, 28))
    paper = int(rng.integers(235, 256))
    picture = Image.new("RGB", (width, pitch * (lines + 4)), (paper, paper, paper))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(pitch - 8)
    pen.text((width / 2, pitch), " ".join(rng.choice(WORDS, 2)).upper(), font=font, fill=(20, 20, 20), anchor="mm")
    for row in range(lines):
        y = pitch * (row + 2)
        pen.text((16, y), " ".join(rng.choice(WORDS, int(rng.integers(1, 4)))), font=font, fill=(30, 30, 30))
        pen.text((width - 16, y), f"{rng.uniform(0.5, 99):.2f}", font=font, fill=(30, 30, 30), anchor="ra")
    pen.text((16, pitch * (lines + 2.5)), "TOTAL", font=font, fill=(0, 0, 0))
    pen.text((width - 16, pitch * (lines + 2.5)), f"{rng.uniform(5, 400):.2f}", font=font, fill=(0, 0, 0), anchor="ra")
    return picture, ()


def sign(rng: Generator) -> Drawn:
    """One to three large words, centred, on a plain ground."""
    width, height = size(rng, 120, 480)
    back = colour(rng, 0.7)
    picture = Image.new("RGB", (width, height), back)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(max(12, min(width, height) // 6))
    words = rng.choice(WORDS, int(rng.integers(1, 4)))
    for row, word in enumerate(words):
        y = height * (row + 1) / (len(words) + 1)
        pen.text((width / 2, y), str(word), font=font, fill=colour(rng, 0.0, 0.35), anchor="mm")
    return picture, tuple(str(word) for word in words)


def chart(rng: Generator) -> Drawn:
    """A bar chart on white with axes; one template."""
    width, height = size(rng, 240, 480)
    picture = Image.new("RGB", (width, height), (255, 255, 255))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    bars, left, bottom = int(rng.integers(3, 8)), width * 0.12, height * 0.86
    pen.line((left, height * 0.08, left, bottom, width * 0.95, bottom), fill=(0, 0, 0), width=2)
    step = (width * 0.95 - left) / bars
    for i in range(bars):
        x, top = left + step * (i + 0.2), bottom - rng.uniform(0.05, 1.0) * height * 0.75
        pen.rectangle((x, top, x + step * 0.6, bottom), fill=colour(rng))
        pen.text((x, bottom + 4), str(rng.choice(WORDS))[:5], font=font, fill=(0, 0, 0))
    return picture, ()


def shape(rng: Generator) -> Drawn:
    """One flat shape on a plain ground, 64 x 64."""
    picture = Image.new("RGB", (64, 64), colour(rng, 0.7))
    pen, radius = ImageDraw.Draw(picture), rng.uniform(8, 20)
    x, y = rng.uniform(radius, 64 - radius), rng.uniform(radius, 64 - radius)
    kind, fill = rng.integers(3), colour(rng, 0.0, 0.6)
    if kind == 0:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif kind == 1:
        low = radius * rng.uniform(0.4, 1.0)
        pen.rectangle((x - radius, y - low, x + radius, y + low), fill=fill)
    else:
        pen.polygon([(x + radius * dx, y + radius * dy) for dx, dy in rng.uniform(-1, 1, (3, 2))], fill=fill)
    return picture, (int(kind), (x - radius, y - radius, x + radius, y + radius))


def centred(rng: Generator) -> Drawn:
    """One drawing in the middle of a plain ground: symmetric, so that half of its DCT coefficients are near zero."""
    side = int(rng.integers(96, 400))
    picture = Image.new("RGB", (side, side), colour(rng, 0.7))
    pen, middle, radius = ImageDraw.Draw(picture), side / 2, side * rng.uniform(0.15, 0.4)
    kind, part = int(rng.integers(3)), rng.uniform(0.3, 0.8)
    box = (middle - radius, middle - radius, middle + radius, middle + radius)
    if kind == 0:
        pen.ellipse(box, fill=colour(rng, 0.0, 0.6))
    elif kind == 1:
        pen.rectangle(box, fill=colour(rng, 0.0, 0.6))
    else:
        pen.polygon(((middle, box[1]), (box[2], box[3]), (box[0], box[3])), fill=colour(rng, 0.0, 0.6))
    inner = (middle - radius * part, middle - radius * 0.3, middle + radius * part, middle + radius * 0.3)
    pen.ellipse(inner, fill=colour(rng))
    return picture, (kind, tuple(v / side for v in box))


FAMILIES = {
    "objects": objects,
    "receipt": receipt,
    "sign": sign,
    "chart": chart,
    "shape": shape,
    "centred": centred,
}


def draw(family: str, rng: Generator) -> Drawn:
    return FAMILIES[family](rng)


def alike(family: str, left: tuple, right: tuple) -> bool:
    """Whether two pictures of one family show the same, as far as this file knows."""
    if family == "sign":
        return left == right
    if family in ("shape", "centred"):
        return left[0] == right[0] and overlap(left[1], right[1]) > 0.5
    return False


def overlap(left: Box, right: Box) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""

    def area(box: Box) -> float:
        return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])

    common = (max(left[0], right[0]), max(left[1], right[1]), min(left[2], right[2]), min(left[3], right[3]))
    return area(common) / (area(left) + area(right) - area(common))


def recoloured(picture: Image.Image, rng: Generator) -> Image.Image:
    """Another hue, a tint, another contrast."""
    hue, saturation, value = picture.convert("HSV").split()
    turn = int(rng.integers(256))
    picture = Image.merge("HSV", (hue.point(lambda v: (v + turn) % 256), saturation, value)).convert("RGB")
    picture = Image.blend(picture, Image.new("RGB", picture.size, colour(rng)), float(rng.uniform(0.0, 0.35)))
    return ImageEnhance.Contrast(picture).enhance(float(rng.uniform(0.8, 1.2)))


def reencoded(picture: Image.Image, rng: Generator) -> Image.Image:
    """Another size (0.5 to 1.5 times) and JPEG of quality 30."""
    factor = rng.uniform(0.5, 1.5)
    picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BICUBIC)
    return through_jpeg(picture, 30)


def rotated(picture: Image.Image, rng: Generator) -> Image.Image:
    """Up to 5 degrees either way; the corners are filled with the ground's colour, black or white; the frame is kept
    or grows with the picture."""
    corner = picture.getpixel((0, 0))
    fill = (corner, (0, 0, 0), (255, 255, 255))[int(rng.integers(3))]
    angle, expand = float(rng.uniform(-5, 5)), bool(rng.random() < 0.5)
    return picture.rotate(angle, Image.Resampling.BICUBIC, expand=expand, fillcolor=fill)


def everything(picture: Image.Image, rng: Generator) -> Image.Image:
    """All three, and a slight blur."""
    picture = recoloured(rotated(picture, rng), rng).filter(ImageFilter.GaussianBlur(0.5))
    return reencoded(picture, rng)


def through_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


DISGUISES = {"recoloured": recoloured, "reencoded": reencoded, "rotated": rotated, "everything": everything}
