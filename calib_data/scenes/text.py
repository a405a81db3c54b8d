"""Pictures to read: signs, receipts, menus, labels and short pages, in Latin and Chinese script."""

import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

from calib_data.scenes.canvas import (
    Ask,
    Assets,
    Scene,
    colour_at,
    contrast,
    font,
    jitter,
    mean_colour,
    plain,
    textured,
    wear,
)  # fmt: skip
from calib_data.scenes.objects import CAPTION_PROMPTS, consistency
from calib_data.scenes.words import (
    CHINESE,
    CHINESE_CHARACTERS,
    CHINESE_TOTAL,
    CODAS,
    COLOURS,
    FOOD_STYLES,
    FOODS,
    MONTHS,
    SHOP_FIRST,
    SHOP_LAST,
    SIGN_WORDS,
    SYLLABLES,
)  # fmt: skip

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
PAPERS = [(255, 255, 255), (250, 246, 236), (244, 244, 240), (236, 240, 250), (255, 250, 225)]


def invented(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) + rng.choice(CODAS) for _ in range(rng.randint(1, 3)))


def latin_word(rng: random.Random, assets: Assets) -> str:
    word = rng.choice((rng.choice(SIGN_WORDS), rng.choice(assets.words), rng.choice(assets.words), invented(rng)))
    return rng.choice((word, word.upper(), word.capitalize()))


def chinese_word(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(CHINESE)
    return "".join(rng.sample(CHINESE_CHARACTERS, rng.randint(2, 4)))


def code(rng: random.Random) -> str:
    letters = "ABCDEFGHJKLMNPRSTUVWXYZ"
    pattern = rng.choice(("LL-dddd", "dddd", "LLdddL", "L-ddd", "dd-dd-dd", "ddd dddd", "LLL ddd"))
    return "".join(rng.choice(letters) if c == "L" else rng.choice("0123456789") if c == "d" else c for c in pattern)


def price(rng: random.Random, top: int = 30) -> float:
    return rng.choice(
        (
            rng.randint(100, top * 100) / 100,
            rng.randint(1, top) + rng.choice((0.0, 0.5, 0.9, 0.99, 0.25)),
            float(rng.randint(1, top)),
        )
    )


def date(rng: random.Random) -> str:
    y, m, d = rng.randint(2015, 2029), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice((f"{y}-{m:02}-{d:02}", f"{d:02}/{m:02}/{y}", f"{d} {MONTHS[m - 1]} {y}", f"{m:02}.{d:02}.{y}"))


def near_miss(rng: random.Random, text: str, alphabet: str) -> str:
    """The text with one letter or digit changed."""
    places = [i for i, c in enumerate(text) if c.isalnum()]
    i = rng.choice(places)
    if text[i].isdigit():
        alphabet = "0123456789"
    c = rng.choice([a for a in alphabet if a.lower() != text[i].lower()])
    return text[:i] + (c.upper() if text[i].isupper() else c) + text[i + 1 :]


def fit(path: Path, lines: list[str], width: float, height: float, largest: int, spacing: float = 1.35) -> int:
    """The largest font size, in pixels, at which the lines fit the box."""
    size = int(min(largest, height / (spacing * len(lines))))
    widest = max(font(path, 20).getlength(line) for line in lines) / 20
    return int(min(size, width / widest))


def ground_of(rng: random.Random, size: tuple[int, int], colour: str | None) -> Image.Image:
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
    draw = ImageDraw.Draw(image)
    line = size * rng.uniform(1.2, 1.4)
    widest = max(font(path, size).getlength(t) for t in lines)
    align = rng.choice("lm")
    x = width / 2 if align == "m" else rng.uniform(width * 0.05, max(width * 0.05, width * 0.95 - widest))
    y = rng.uniform(line * 0.6, max(line * 0.6, height - line * (len(lines) - 0.4)))
    for i, text in enumerate(lines):
        draw.text((x, y + i * line), text, ink, font(path, size), anchor=f"{align}m")
    return True


def sign(
    rng: random.Random, assets: Assets, size: tuple[int, int], smallest: int
) -> tuple[Image.Image, list[Ask]] | None:
    chinese = rng.random() < 0.3
    path = rng.choice(assets.fonts["chinese" if chinese else "latin"])
    count = rng.choice((1, 1, 2, 2, 3))
    if chinese:
        lines = [chinese_word(rng) for _ in range(count)]
    else:
        lines = [" ".join(latin_word(rng, assets) for _ in range(rng.choice((1, 1, 2)))) for _ in range(count)]
        if rng.random() < 0.25:
            lines[-1] = code(rng)
    colour = rng.choice(list(COLOURS)) if rng.random() < 0.6 else None
    image = ground_of(rng, size, colour)
    if not draw_lines(rng, image, path, lines, smallest):
        return None
    if rng.random() < 0.3:
        ImageDraw.Draw(image).rectangle(
            (2, 2, size[0] - 3, size[1] - 3), outline=contrast(rng, colour_at(image, 0, 0)), width=2
        )
    text = " ".join(lines)
    asks = [Ask("ocr", rng.choice(("What does the sign say?", "Read the sign.", "What is written here?")), (text,))]
    if colour:
        asks.append(Ask("vqa", "What colour is the sign?", (colour,)))
    asks.append(Ask("vqa", "How many lines of text are there?", (str(count),)))
    what = f"{colour} sign" if colour else "sign"
    asks.append(
        Ask(
            "caption",
            rng.choice(CAPTION_PROMPTS),
            (f"a {what} that says {text}" if what[0] not in "aeiou" else f"an {what} that says {text}",),
        )
    )
    wrong = near_miss(rng, text, CHINESE_CHARACTERS if chinese else "abcdefghiklmnoprstuvw")
    asks += consistency(rng, [(f"The sign says {text}", True), (f"The sign says {wrong}", False)])
    return image, asks


def page(
    rng: random.Random, assets: Assets, size: tuple[int, int], smallest: int
) -> tuple[Image.Image, list[Ask]] | None:
    """A few lines of words, some of them codes or dates or Chinese."""
    chinese = rng.random() < 0.25
    path = rng.choice(assets.fonts["chinese" if chinese else "latin"])
    lines = []
    for _ in range(rng.randint(2, 6)):
        style = rng.random()
        if chinese and style < 0.7:
            lines.append(chinese_word(rng))
        elif style < 0.85:
            lines.append(" ".join(latin_word(rng, assets) for _ in range(rng.randint(1, 3))))
        else:
            lines.append(code(rng) if style < 0.95 else date(rng))
    image = ground_of(rng, size, None)
    if not draw_lines(rng, image, path, lines, smallest):
        return None
    asks = [Ask("ocr", f"Read the {ORDINALS[i]} line.", (lines[i],)) for i in range(len(lines))]
    asks.append(Ask("ocr", "Read the last line.", (lines[-1],)))
    asks.append(Ask("vqa", "How many lines of text are there?", (str(len(lines)),)))
    asks.append(Ask("caption", rng.choice(CAPTION_PROMPTS), (f"a page with {len(lines)} lines: {', '.join(lines)}",)))
    i = rng.randrange(len(lines))
    wrong = near_miss(rng, lines[i], "abcdefghiklmnoprstuvw")
    asks += consistency(
        rng, [(f"The {ORDINALS[i]} line says {lines[i]}", True), (f"The {ORDINALS[i]} line says {wrong}", False)]
    )
    return image, asks


def goods(rng: random.Random, count: int, chinese: bool) -> list[str]:
    if chinese:
        return rng.sample(CHINESE[:48], count)
    names = rng.sample(FOODS, count)
    names = [f"{rng.choice(FOOD_STYLES)} {n}" if rng.random() < 0.35 else n for n in names]
    return [n.capitalize() for n in names] if rng.random() < 0.6 else names


def price_list(
    rng: random.Random, assets: Assets, size: tuple[int, int], smallest: int
) -> tuple[Image.Image, list[Ask]] | None:
    """A receipt (shop, date, items, total) or a menu (title, items)."""
    chinese, receipt = rng.random() < 0.25, rng.random() < 0.6
    path = rng.choice(assets.fonts["chinese" if chinese else "latin"])
    items = goods(rng, rng.randint(1, 5), chinese)
    prices = [price(rng) for _ in items]
    mark = rng.choice(("", "", "$", "€", "£")) if not chinese else rng.choice(("", "¥"))
    shown = [f"{mark}{p:.2f}" for p in prices]
    total = f"{mark}{sum(round(p * 100) for p in prices) / 100:.2f}"
    shop = f"{rng.choice(SHOP_FIRST)} {rng.choice(SHOP_LAST)}"
    day = date(rng)
    rows: list[tuple[str, str]] = [(shop, "")]
    if receipt:
        rows.append((day, ""))
    rows += list(zip(items, shown, strict=True))
    total_word = CHINESE_TOTAL if chinese else rng.choice(("Total", "TOTAL", "Sum"))
    if receipt:
        rows.append((total_word, total))
    image = ground_of(rng, size, None)
    width, height = size
    pixels = fit(path, [f"{a}   {b}" for a, b in rows], width * 0.86, height * 0.92, 44)
    if pixels < smallest:
        return None
    pixels = rng.randint(max(smallest, int(pixels * 0.7)), pixels)
    face, ink, line = (
        font(path, pixels),
        contrast(rng, mean_colour(image)),
        pixels * rng.uniform(1.2, 1.4),
    )
    draw = ImageDraw.Draw(image)
    left, right = width * 0.06, width * rng.uniform(0.9, 0.95)
    right = min(right, left + max(face.getlength(f"{a}      {b}") for a, b in rows) * rng.uniform(1.0, 1.6))
    y = rng.uniform(line * 0.6, max(line * 0.6, height - line * (len(rows) - 0.3)))
    for i, (name, value) in enumerate(rows):
        draw.text(
            ((left + right) / 2, y) if not value else (left, y), name, ink, face, anchor="mm" if not value else "lm"
        )
        draw.text((right, y), value, ink, face, anchor="rm")
        y += line
        if receipt and i in (1, len(items) + 1):
            draw.line((left, y - line / 2, right, y - line / 2), fill=ink)
    return image, price_asks(rng, receipt, shop, day, items, shown, total)


def price_asks(
    rng: random.Random, receipt: bool, shop: str, day: str, items: list[str], shown: list[str], total: str
) -> list[Ask]:
    asks = [
        Ask("ocr", "What is the name of the shop?", (shop,)),
        Ask("vqa", "How many items are listed?", (str(len(items)),)),
    ]
    for i in rng.sample(range(len(items)), min(3, len(items))):
        question = rng.choice((f"How much is the {items[i]}?", f"What does the {items[i]} cost?"))
        asks.append(Ask("ocr", question, (shown[i],)))
        asks.append(Ask("ocr", f"What is the {ORDINALS[i]} item?", (items[i],)))
        if shown.count(shown[i]) == 1:
            asks.append(Ask("ocr", f"Which item costs {shown[i]}?", (items[i],)))
    what = "receipt" if receipt else "menu"
    listed = ", ".join(f"{n} {p}" for n, p in zip(items, shown, strict=True))
    caption = f"a {what} from {shop} with {listed}"
    pairs = [
        (f"The {items[i]} costs {shown[i]}", True),
        (f"The {items[i]} costs {near_miss(rng, shown[i], '')}", False),
    ]
    if receipt:
        asks.append(Ask("ocr", rng.choice(("What is the total?", "How much is it in all?")), (total,)))
        asks.append(Ask("ocr", "What is the date?", (day,)))
        caption += f", total {total}"
        pairs += [(f"The total is {total}", True), (f"The total is {near_miss(rng, total, '')}", False)]
        pairs += [(f"The date is {day}", True), (f"The date is {near_miss(rng, day, 'JFMASOND')}", False)]
    asks.append(Ask("caption", rng.choice(CAPTION_PROMPTS), (caption,)))
    return asks + consistency(rng, pairs)


KINDS: dict[Callable, float] = {sign: 0.3, page: 0.3, price_list: 0.4}


def text_scene(rng: random.Random, assets: Assets, size: tuple[int, int]) -> Scene:
    """Tries until the text fits: a font of at least 17 pixels at the size at which the processor sees the picture."""
    smallest = max(11, round(17 * min(1.0, (size[0] * size[1] / 65536) ** 0.5)))
    while True:
        made = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0](rng, assets, size, smallest)
        if made is not None:
            image, asks = made
            return Scene(wear(rng, image), "text", asks)
