"""Receipts (shop, date, items, total) and menus (title, items)."""

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from calib_data.scenes.asks import Ask, Statement, caption, consistency
from calib_data.scenes.canvas import Assets, contrast, font, mean_colour
from calib_data.scenes.lettering import date, fit, ground_of, near_miss, price
from calib_data.scenes.words import CHINESE, CHINESE_TOTAL, FOOD_STYLES, FOODS, ORDINALS, SHOP_FIRST, SHOP_LAST

CHINESE_DISHES = CHINESE[:48]


@dataclass(frozen=True)
class PriceList:
    shop: str
    items: list[str]
    prices: list[str]  # as printed, with their currency sign
    day: str | None  # receipts only
    total: str | None  # receipts only
    total_word: str


def price_list(
    rng: random.Random, assets: Assets, size: tuple[int, int], smallest: int
) -> tuple[Image.Image, list[Ask]] | None:
    """A receipt or a menu; None when its lines do not fit."""
    chinese = rng.random() < 0.25
    path = rng.choice(assets.fonts["chinese" if chinese else "latin"])
    content = invent(rng, chinese)
    rows = rows_of(content)
    image = ground_of(rng, size, None)
    width, height = size
    pixels = fit(path, [f"{a}   {b}" for a, b in rows], width * 0.86, height * 0.92, 44)
    if pixels < smallest:
        return None
    face = font(path, rng.randint(max(smallest, int(pixels * 0.7)), pixels))
    write(rng, image, face, rows, rules=(1, len(content.items) + 1) if content.total else ())
    return image, price_asks(rng, content)


def invent(rng: random.Random, chinese: bool) -> PriceList:
    receipt = rng.random() < 0.6
    count = rng.randint(1, 5)
    if chinese:
        items = rng.sample(CHINESE_DISHES, count)
    else:
        items = [f"{rng.choice(FOOD_STYLES)} {n}" if rng.random() < 0.35 else n for n in rng.sample(FOODS, count)]
        items = [n.capitalize() for n in items] if rng.random() < 0.6 else items
    amounts = [price(rng) for _ in items]
    mark = rng.choice(("", "¥")) if chinese else rng.choice(("", "", "$", "€", "£"))
    total = sum(round(amount * 100) for amount in amounts) / 100
    return PriceList(
        shop=f"{rng.choice(SHOP_FIRST)} {rng.choice(SHOP_LAST)}",
        items=items,
        prices=[f"{mark}{amount:.2f}" for amount in amounts],
        day=date(rng) if receipt else None,
        total=f"{mark}{total:.2f}" if receipt else None,
        total_word=CHINESE_TOTAL if chinese else rng.choice(("Total", "TOTAL", "Sum")),
    )


def rows_of(content: PriceList) -> list[tuple[str, str]]:
    """What stands left and right in each row; a row with nothing on the right is centred."""
    rows = [(content.shop, "")]
    if content.day:
        rows.append((content.day, ""))
    rows += zip(content.items, content.prices, strict=True)
    if content.total:
        rows.append((content.total_word, content.total))
    return rows


def write(
    rng: random.Random,
    image: Image.Image,
    face: ImageFont.FreeTypeFont,
    rows: list[tuple[str, str]],
    rules: tuple[int, ...],
) -> None:
    """Writes the rows, with a line across after the rows numbered in `rules`."""
    width, height = image.size
    ink, line = contrast(rng, mean_colour(image)), face.size * rng.uniform(1.2, 1.4)
    pen = ImageDraw.Draw(image)
    left, right = width * 0.06, width * rng.uniform(0.9, 0.95)
    right = min(right, left + max(face.getlength(f"{a}      {b}") for a, b in rows) * rng.uniform(1.0, 1.6))
    y = rng.uniform(line * 0.6, max(line * 0.6, height - line * (len(rows) - 0.3)))
    for i, (name, value) in enumerate(rows):
        if value:
            pen.text((left, y), name, ink, face, anchor="lm")
            pen.text((right, y), value, ink, face, anchor="rm")
        else:
            pen.text(((left + right) / 2, y), name, ink, face, anchor="mm")
        y += line
        if i in rules:
            pen.line((left, y - line / 2, right, y - line / 2), fill=ink)


def price_asks(rng: random.Random, content: PriceList) -> list[Ask]:
    items, prices = content.items, content.prices
    asks = [
        Ask("ocr", "shop", "What is the name of the shop?", (content.shop,)),
        Ask("vqa", "how many items", "How many items are listed?", (str(len(items)),)),
    ]
    for i in rng.sample(range(len(items)), min(3, len(items))):
        cost = rng.choice((f"How much is the {items[i]}?", f"What does the {items[i]} cost?"))
        asks.append(Ask("ocr", "price", cost, (prices[i],)))
        asks.append(Ask("ocr", "item", f"What is the {ORDINALS[i]} item?", (items[i],)))
        if prices.count(prices[i]) == 1:
            asks.append(Ask("ocr", "item by price", f"Which item costs {prices[i]}?", (items[i],)))
    i = rng.randrange(len(items))
    said = [twin(rng, "price", f"The {items[i]} costs ", prices[i])]
    listed = ", ".join(f"{name} {amount}" for name, amount in zip(items, prices, strict=True))
    text = f"a {'receipt' if content.total else 'menu'} from {content.shop} with {listed}"
    if content.total and content.day:
        total = rng.choice(("What is the total?", "How much is it in all?"))
        asks.append(Ask("ocr", "total", total, (content.total,)))
        asks.append(Ask("ocr", "date", "What is the date?", (content.day,)))
        said += [twin(rng, "total", "The total is ", content.total), twin(rng, "date", "The date is ", content.day)]
        text += f", total {content.total}"
    return [*asks, caption(rng, "price list", text), *consistency(said)]


def twin(rng: random.Random, kind: str, sentence: str, text: str) -> Statement:
    return Statement(kind, sentence + text, sentence + near_miss(rng, text))
