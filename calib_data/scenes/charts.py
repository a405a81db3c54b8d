"""Bar charts: what a bar says, which is highest, how many, which colour."""

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from calib_data.scenes.asks import Ask, Statement, caption, consistency
from calib_data.scenes.canvas import Assets, Colour, Scene, contrast, font, jitter, wear
from calib_data.scenes.words import COLOURS, DAYS, FOODS, MONTHS

TITLES = ("Sales", "Visitors", "Orders", "Rain", "Votes", "Points", "Sold", "Hours", "Guests", "Stock")
GROUNDS = ((255, 255, 255), (245, 240, 228), (232, 240, 248), (28, 30, 36))
SHORT_FOODS = tuple(f.capitalize() for f in FOODS if len(f) <= 5)
LABELS = (DAYS, MONTHS, SHORT_FOODS, tuple("ABCDEFGHJK"))


@dataclass(frozen=True)
class Chart:
    title: str
    labels: list[str]
    values: list[int]  # all different
    colours: list[str]


def chart_scene(rng: random.Random, assets: Assets, size: tuple[int, int]) -> Scene:
    count = rng.randint(2, 3 if min(size) < 150 else 4 if min(size) < 240 else 6)
    one = rng.choice(("blue", "green", "red", "gray"))
    colours = rng.sample([c for c in COLOURS if c != "white"], count) if rng.random() < 0.6 else [one] * count
    chart = Chart(rng.choice(TITLES), rng.sample(rng.choice(LABELS), count), rng.sample(range(3, 100), count), colours)
    ground = jitter(rng, rng.choice(GROUNDS), 5)
    image = Image.new("RGB", size, ground)
    draw_chart(rng, image, chart, assets, contrast(rng, ground), upright=rng.random() < 0.65)
    return Scene(wear(rng, image), "chart", chart_asks(rng, chart))


def draw_chart(
    rng: random.Random, image: Image.Image, chart: Chart, assets: Assets, ink: Colour, upright: bool
) -> None:
    """Title, bars with their labels, and each bar's value at its end."""
    width, height = image.size
    pen = ImageDraw.Draw(image)
    count, longest = len(chart.labels), max(len(label) for label in chart.labels)
    slot = width * 0.92 / count if upright else height * 0.78 / count
    room = slot / longest * 1.7 if upright else slot * 0.6
    path = rng.choice(assets.fonts["latin"])
    text = font(path, int(max(10, min(30, min(width, height) / 11, room))))
    line = text.size * 1.25
    pen.text((width / 2, line * 0.8), chart.title, ink, font(path, int(text.size * 1.15)), anchor="mm")
    fills = [jitter(rng, COLOURS[colour], 10) for colour in chart.colours]
    bars = list(zip(chart.labels, chart.values, fills, strict=True))
    if upright:
        base, top, left = height - line * 1.2, line * 2.8, width * 0.04
        for i, (label, value, fill) in enumerate(bars):
            x, y = left + slot * i, base - (base - top) * value / max(chart.values)
            pen.rectangle((x + slot * 0.15, y, x + slot * 0.85, base), fill=fill)
            pen.text((x + slot / 2, base + line * 0.55), label, ink, text, anchor="mm")
            pen.text((x + slot / 2, y - line * 0.5), str(value), ink, text, anchor="mm")
        pen.line((left, base, width * 0.96, base), fill=ink)
        return
    left = max(text.getlength(label) for label in chart.labels) + width * 0.05
    right = width * 0.96 - text.getlength("00") - 4
    for i, (label, value, fill) in enumerate(bars):
        y, x = height * 0.18 + slot * (i + 0.5), left + max(2, (right - left) * value / max(chart.values))
        pen.rectangle((left, y - slot * 0.32, x, y + slot * 0.32), fill=fill)
        pen.text((left - 4, y), label, ink, text, anchor="rm")
        pen.text((x + 3, y), str(value), ink, text, anchor="lm")


def chart_asks(rng: random.Random, chart: Chart) -> list[Ask]:
    labels, values = chart.labels, chart.values
    by_value = sorted(zip(values, labels, strict=True))
    lowest, highest = by_value[0][1], by_value[-1][1]
    i = rng.randrange(len(labels))
    says = rng.choice((f"What does the bar {labels[i]} say?", f"What is the value of {labels[i]}?"))
    top = rng.choice(("Which bar is the highest?", "Which bar is the longest?"))
    asks = [
        Ask("vqa", "bar says", says, (str(values[i]),)),
        Ask("vqa", "highest", top, (highest,)),
        Ask("vqa", "lowest", "Which bar is the lowest?", (lowest,)),
        Ask("vqa", "how many bars", "How many bars are there?", (str(len(labels)),)),
        Ask("vqa", "which says", f"Which bar says {values[i]}?", (labels[i],)),
        Ask("ocr", "title", "What is the title of the chart?", (chart.title,)),
    ]
    if len(set(chart.colours)) > 1:
        asks.append(Ask("vqa", "bar colour", f"What colour is the bar {labels[i]}?", (chart.colours[i],)))
    parts = ", ".join(f"{label} {value}" for label, value in zip(labels, values, strict=True))
    asks.append(caption(rng, "chart", f"a bar chart of {chart.title} with {len(labels)} bars: {parts}"))
    near = [v for v in range(3, 100) if v not in values and (v // 10 == values[i] // 10 or v % 10 == values[i] % 10)]
    not_highest = rng.choice([label for label in labels if label != highest])
    other_title = rng.choice([title for title in TITLES if title != chart.title])
    return asks + consistency(
        [
            Statement("highest", f"The bar {highest} is the highest.", f"The bar {not_highest} is the highest."),
            Statement(
                "bar says", f"The bar {labels[i]} says {values[i]}.", f"The bar {labels[i]} says {rng.choice(near)}."
            ),
            Statement("title", f"The chart shows {chart.title}.", f"The chart shows {other_title}."),
        ]
    )
