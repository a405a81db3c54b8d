"""Pictures to read: signs, pages of lines, receipts and menus, in Latin and Chinese script."""

import random
from collections.abc import Callable

from PIL import Image, ImageDraw

from calib_data.scenes.asks import Ask, Statement, article, caption, consistency
from calib_data.scenes.canvas import Assets, Scene, colour_at, contrast, wear
from calib_data.scenes.lettering import chinese_word, code, date, draw_lines, ground_of, latin_word, near_miss
from calib_data.scenes.prices import price_list
from calib_data.scenes.words import COLOURS, ORDINALS

Made = tuple[Image.Image, list[Ask]] | None  # None: the text does not fit


def sign(rng: random.Random, assets: Assets, size: tuple[int, int], smallest: int) -> Made:
    """One to three lines of words, sometimes a code, on a coloured ground."""
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
        frame = contrast(rng, colour_at(image, 0, 0))
        ImageDraw.Draw(image).rectangle((2, 2, size[0] - 3, size[1] - 3), outline=frame, width=2)
    text = " ".join(lines)
    question = rng.choice(("What does the sign say?", "Read the sign.", "What is written here?"))
    asks = [Ask("ocr", "sign", question, (text,)), Ask("vqa", "how many lines", HOW_MANY_LINES, (str(count),))]
    if colour:
        asks.append(Ask("vqa", "sign colour", "What colour is the sign?", (colour,)))
    asks.append(caption(rng, "sign", f"{article(f'{colour} sign' if colour else 'sign')} that says {text}"))
    return image, asks + consistency(
        [Statement("sign", f"The sign says {text}", f"The sign says {near_miss(rng, text)}")]
    )


def page(rng: random.Random, assets: Assets, size: tuple[int, int], smallest: int) -> Made:
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
    asks = [Ask("ocr", "line", f"Read the {ORDINALS[i]} line.", (line,)) for i, line in enumerate(lines)]
    asks.append(Ask("ocr", "line", "Read the last line.", (lines[-1],)))
    asks.append(Ask("vqa", "how many lines", HOW_MANY_LINES, (str(len(lines)),)))
    asks.append(caption(rng, "page", f"a page with {len(lines)} lines: {', '.join(lines)}"))
    i = rng.randrange(len(lines))
    sentence = f"The {ORDINALS[i]} line says "
    return image, asks + consistency([Statement("line", sentence + lines[i], sentence + near_miss(rng, lines[i]))])


HOW_MANY_LINES = "How many lines of text are there?"
KINDS: dict[Callable[..., Made], float] = {sign: 0.3, page: 0.3, price_list: 0.4}


def text_scene(rng: random.Random, assets: Assets, size: tuple[int, int]) -> Scene:
    """Tries until the text fits: a font of at least 17 pixels at the size at which the processor sees the picture."""
    smallest = max(11, round(17 * min(1.0, (size[0] * size[1] / 65536) ** 0.5)))
    while True:
        made = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0](rng, assets, size, smallest)
        if made is not None:
            image, asks = made
            return Scene(wear(rng, image), "text", asks)
