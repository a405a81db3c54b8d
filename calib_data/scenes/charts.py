"""Bar charts: what a bar says, which is highest, how many, which colour."""

import random

from PIL import Image, ImageDraw

from calib_data.scenes.canvas import Ask, Assets, Scene, contrast, font, jitter, wear
from calib_data.scenes.objects import CAPTION_PROMPTS, consistency
from calib_data.scenes.words import COLOURS, DAYS, FOODS, MONTHS

TITLES = ("Sales", "Visitors", "Orders", "Rain", "Votes", "Points", "Sold", "Hours", "Guests", "Stock")


def chart_scene(rng: random.Random, assets: Assets, size: tuple[int, int]) -> Scene:
    width, height = size
    most = 3 if min(size) < 150 else 4 if min(size) < 240 else 6
    count = rng.randint(2, most)
    labels = rng.sample(rng.choice((DAYS, MONTHS, [f.capitalize() for f in FOODS if len(f) <= 5], "ABCDEFGHJK")), count)
    values = rng.sample(range(3, 100), count)
    title = rng.choice(TITLES)
    colours = (
        rng.sample([c for c in COLOURS if c != "white"], count)
        if rng.random() < 0.6
        else [rng.choice(["blue", "green", "red", "gray"])] * count
    )
    ground = jitter(rng, rng.choice([(255, 255, 255), (245, 240, 228), (232, 240, 248), (28, 30, 36)]), 5)
    ink = contrast(rng, ground)
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    upright = rng.random() < 0.65
    path = rng.choice(assets.fonts["latin"])
    longest = max(len(label) for label in labels)
    slot = (width * 0.92 / count) if upright else (height * 0.78 / count)
    text = font(path, int(max(10, min(30, min(width, height) / 11, slot / longest * 1.7 if upright else slot * 0.6))))
    line = text.size * 1.25
    draw.text((width / 2, line * 0.8), title, ink, font(path, int(text.size * 1.15)), anchor="mm")
    if upright:
        base, top, left = height - line * 1.2, line * 2.8, width * 0.04
        for i, (label, value, colour) in enumerate(zip(labels, values, colours, strict=True)):
            x = left + slot * i
            y = base - (base - top) * value / max(values)
            draw.rectangle((x + slot * 0.15, y, x + slot * 0.85, base), fill=jitter(rng, COLOURS[colour], 10))
            draw.text((x + slot / 2, base + line * 0.55), label, ink, text, anchor="mm")
            draw.text((x + slot / 2, y - line * 0.5), str(value), ink, text, anchor="mm")
        draw.line((left, base, width * 0.96, base), fill=ink)
    else:
        left = max(text.getlength(label) for label in labels) + width * 0.05
        right = width * 0.96 - text.getlength("00") - 4
        for i, (label, value, colour) in enumerate(zip(labels, values, colours, strict=True)):
            y = height * 0.18 + slot * (i + 0.5)
            x = left + max(2, (right - left) * value / max(values))
            draw.rectangle((left, y - slot * 0.32, x, y + slot * 0.32), fill=jitter(rng, COLOURS[colour], 10))
            draw.text((left - 4, y), label, ink, text, anchor="rm")
            draw.text((x + 3, y), str(value), ink, text, anchor="lm")
    return Scene(wear(rng, image), "chart", chart_asks(rng, title, labels, values, colours))


def chart_asks(rng: random.Random, title: str, labels: list[str], values: list[int], colours: list[str]) -> list[Ask]:
    by_value = sorted(zip(values, labels, strict=True))
    (_, lowest), (_, highest) = by_value[0], by_value[-1]
    i = rng.randrange(len(labels))
    asks = [
        Ask(
            "vqa",
            rng.choice((f"What does the bar {labels[i]} say?", f"What is the value of {labels[i]}?")),
            (str(values[i]),),
        ),
        Ask("vqa", rng.choice(("Which bar is the highest?", "Which bar is the longest?")), (highest,)),
        Ask("vqa", "Which bar is the lowest?", (lowest,)),
        Ask("vqa", "How many bars are there?", (str(len(labels)),)),
        Ask("vqa", "Which bar says " + str(values[i]) + "?", (labels[i],)),
        Ask("ocr", "What is the title of the chart?", (title,)),
    ]
    if len(set(colours)) > 1:
        asks.append(Ask("vqa", f"What colour is the bar {labels[i]}?", (colours[i],)))
    parts = ", ".join(f"{label} {value}" for label, value in zip(labels, values, strict=True))
    asks.append(
        Ask("caption", rng.choice(CAPTION_PROMPTS), (f"a bar chart of {title} with {len(labels)} bars: {parts}",))
    )
    other = rng.choice([t for t in TITLES if t != title])
    digits = rng.choice(
        [v for v in range(3, 100) if v not in values and (v // 10 == values[i] // 10 or v % 10 == values[i] % 10)]
    )
    pairs = [
        (f"The bar {highest} is the highest.", True),
        (f"The bar {rng.choice([x for x in labels if x != highest])} is the highest.", False),
        (f"The bar {labels[i]} says {values[i]}.", True),
        (f"The bar {labels[i]} says {digits}.", False),
        (f"The chart shows {title}.", True),
        (f"The chart shows {other}.", False),
    ]
    return asks + consistency(rng, pairs)
