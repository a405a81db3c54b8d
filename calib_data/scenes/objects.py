"""Scenes of several drawings: what they are, how many, which colour, where."""

import random
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageOps

from calib_data.scenes.canvas import Ask, Assets, Drawing, Scene, colour_at, jitter, luminance, plain, textured, wear
from calib_data.scenes.words import COLOURS, NUMBERS, PLACES


@dataclass
class Group:
    """Copies of one drawing: its kind, its tint (None: its own colours) and the cells it stands in."""

    drawing: Drawing
    count: int
    tint: str | None
    size: str  # small, large or ""
    places: list[str]
    centre: tuple[float, float] = (0, 0)

    @property
    def name(self) -> str:
        return " ".join(w for w in (self.size, self.tint, self.drawing.label) if w)


def plural(name: str) -> str:
    if name.endswith(("s", "x", "ch", "sh", "z")):
        return name if name.endswith("s") and not name.endswith("ss") else name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def counted(group: Group) -> str:
    return article(group.name) if group.count == 1 else f"{NUMBERS[group.count]} {plural(group.name)}"


def tinted(picture: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The drawing in shades of one colour, its outline kept."""
    grey = ImageOps.autocontrast(picture.convert("RGB").convert("L"))
    dark = tuple(int(c * 0.35) for c in colour)
    light = tuple(int(c + (255 - c) * 0.25) for c in colour)
    out = ImageOps.colorize(grey, dark, light, mid=colour).convert("RGBA")
    out.putalpha(picture.getchannel("A"))
    return out


def layout(rng: random.Random, size: tuple[int, int], count: int) -> list[tuple[float, float, float]]:
    """`count` places that do not overlap: (centre x, centre y, edge), in pixels, on a jittered grid."""
    width, height = size
    columns = max(1, round((count * width / height) ** 0.5))
    rows = -(-count // columns)
    if rng.random() < 0.5:
        columns, rows = columns + rng.randint(0, 1), rows + rng.randint(0, 1)
    cell_w, cell_h = width / columns, height / rows
    cells = [(c, r) for r in range(rows) for c in range(columns)]
    edge = min(cell_w, cell_h)
    places = []
    for c, r in rng.sample(cells, count):
        dx, dy = (cell_w - edge) / 2, (cell_h - edge) / 2
        places.append(((c + 0.5) * cell_w + rng.uniform(-dx, dx), (r + 0.5) * cell_h + rng.uniform(-dy, dy), edge))
    return places


def place_name(x: float, y: float, size: tuple[int, int]) -> str:
    return PLACES[min(2, int(3 * y / size[1])) * 3 + min(2, int(3 * x / size[0]))]


def compose(rng: random.Random, assets: Assets, size: tuple[int, int]) -> tuple[Image.Image, list[Group], str | None]:
    """Draws groups on a ground. Returns picture, groups, and the ground's colour (None: it has no one colour)."""
    room = 3 if min(size) < 140 else 6 if min(size) < 260 else 9
    counts = [1] * rng.randint(1, 3)
    if rng.random() < 0.6:
        counts[0] = rng.randint(2, 5)
    if len(counts) > 1 and rng.random() < 0.25:
        counts[1] = rng.randint(2, 4)
    while sum(counts) > room:
        counts[counts.index(max(counts))] -= 1
    if rng.random() < 0.35 and len(counts) > 1:  # near misses side by side
        family = rng.choice([f for f in assets.families.values() if len(f) >= len(counts)])
        labels = rng.sample(family, len(counts))
    else:
        labels = rng.sample(assets.labels, len(counts))
    ground_name = rng.choice(list(COLOURS)) if rng.random() < 0.6 else None
    image = plain(rng, size, ground_name) if ground_name else textured(rng, size)
    places = layout(rng, size, sum(counts))
    groups = []
    for label, count in zip(labels, counts, strict=True):
        tint = rng.choice([c for c in COLOURS if c != ground_name]) if rng.random() < 0.4 else None
        scale, word = rng.choice(((0.5, "small"), (0.95, "large"), (0.78, ""), (0.78, "")))
        group = Group(
            rng.choice(assets.drawings[label]), count, tint, word if count == 1 and len(counts) > 1 else "", []
        )
        picture = tinted(group.drawing.picture, jitter(rng, COLOURS[tint])) if tint else group.drawing.picture
        if rng.random() < 0.3:
            picture = ImageOps.mirror(picture)
        for _ in range(count):
            x, y, edge = places.pop()
            side = max(18, round(edge * scale * rng.uniform(0.92, 1.0)))
            sprite = picture.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2)
            if (
                tint is None and luminance(colour_at(image, int(x), int(y))) < 70
            ):  # dark drawings on dark grounds: a faint halo
                halo = Image.new("RGBA", sprite.size, (255, 255, 255, 0))
                halo.putalpha(sprite.getchannel("A").point(lambda a: a // 4))
                image.paste(halo.convert("RGB"), (round(x - side / 2), round(y - side / 2)), halo)
            image.paste(sprite, (round(x - side / 2), round(y - side / 2)), sprite)
            group.places.append(place_name(x, y, size))
            group.centre = (x, y)
        groups.append(group)
    return image, groups, ground_name


def vqa(rng: random.Random, groups: list[Group], ground: str | None) -> list[Ask]:
    asks = []
    single = [g for g in groups if g.count == 1]
    for g in groups:
        label = g.drawing.label
        asks.append(
            Ask(
                "vqa",
                rng.choice((f"How many {plural(label)} are there?", f"How many {plural(label)} do you see?")),
                (str(g.count),),
            )
        )
        if g.tint:
            verb = "is" if g.count == 1 else "are"
            asks.append(Ask("vqa", f"What colour {verb} the {label if g.count == 1 else plural(label)}?", (g.tint,)))
    places = [g.places[0] for g in groups if g.count == 1]
    for g in single:
        if places.count(g.places[0]) == 1 and all(g.places[0] not in o.places for o in groups if o is not g):
            asks.append(Ask("vqa", f"Where is the {g.drawing.label}?", (g.places[0],)))
            asks.append(
                Ask(
                    "vqa",
                    f"What is at the {g.places[0]}?" if g.places[0] != "middle" else "What is in the middle?",
                    (g.drawing.label,),
                )
            )
    if len(groups) == 1:
        asks.append(
            Ask("vqa", rng.choice(("What is this?", "What does the picture show?")), (groups[0].drawing.label,))
        )
    for a, b in pairwise(single):
        if abs(a.centre[0] - b.centre[0]) > 2 * abs(a.centre[1] - b.centre[1]):
            first, second = sorted((a, b), key=lambda g: g.centre[0])
            asks.append(Ask("vqa", f"What is to the left of the {second.drawing.label}?", (first.drawing.label,)))
        elif abs(a.centre[1] - b.centre[1]) > 2 * abs(a.centre[0] - b.centre[0]):
            first, second = sorted((a, b), key=lambda g: g.centre[1])
            asks.append(Ask("vqa", f"What is above the {second.drawing.label}?", (first.drawing.label,)))
    if {"small", "large"} <= {g.size for g in groups}:
        for word, question in (("large", "Which one is large?"), ("small", "Which one is small?")):
            match = [g for g in groups if g.size == word]
            if len(match) == 1:
                asks.append(Ask("vqa", question, (match[0].drawing.label,)))
    if ground:
        asks.append(Ask("vqa", rng.choice(("What colour is the ground?", "What is the background colour?")), (ground,)))
    if len(groups) > 1:
        asks.append(Ask("vqa", "How many things are there in all?", (str(sum(g.count for g in groups)),)))
    return asks


def describe(groups: list[Group], ground: str | None) -> str:
    """One sentence, in an order that the picture decides: the most numerous first, then row by row."""
    parts = []
    for g in sorted(
        groups, key=lambda g: (-g.count, PLACES.index(g.places[0]) if g.count == 1 else 0, g.drawing.label)
    ):
        where = "" if g.count > 1 else " in the middle" if g.places[0] == "middle" else f" at the {g.places[0]}"
        parts.append(counted(g) + where)
    text = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    return text + (f" on {article(ground)} ground" if ground else "")


def statements(rng: random.Random, assets: Assets, groups: list[Group], ground: str | None) -> list[tuple[str, bool]]:
    """True sentences, and hard negatives: a near kind, a count off by one, another colour, another place."""
    pairs: list[tuple[str, bool]] = []
    g = rng.choice(groups)
    label, names = g.drawing.label, {o.drawing.label for o in groups}
    near = [k for k in assets.families[g.drawing.family] if k not in names] or [
        k for k in assets.labels if k not in names
    ]
    pairs.append((f"There is {counted(g)}." if g.count == 1 else f"There are {counted(g)}.", True))
    other = rng.choice(near)
    pairs.append(
        (f"There is {article(other)}." if g.count == 1 else f"There are {NUMBERS[g.count]} {plural(other)}.", False)
    )
    wrong = rng.choice([n for n in (g.count - 1, g.count + 1) if n > 1])
    pairs.append((f"There are {NUMBERS[wrong]} {plural(label)}.", False))
    if g.tint:
        verb, noun = ("is", label) if g.count == 1 else ("are", plural(label))
        pairs.append((f"The {noun} {verb} {g.tint}.", True))
        pairs.append((f"The {noun} {verb} {rng.choice([c for c in COLOURS if c != g.tint])}.", False))
    if g.count == 1:
        place = g.places[0]
        elsewhere = rng.choice([p for p in PLACES if p != place])
        for p, truth in ((place, True), (elsewhere, False)):
            pairs.append((f"The {label} is {'in the middle' if p == 'middle' else f'at the {p}'}.", truth))
    if ground:
        pairs.append((f"The ground is {ground}.", True))
        pairs.append((f"The ground is {rng.choice([c for c in COLOURS if c != ground])}.", False))
    return pairs


def objects_scene(rng: random.Random, assets: Assets, size: tuple[int, int]) -> Scene:
    image, groups, ground = compose(rng, assets, size)
    caption = describe(groups, ground)
    asks = vqa(rng, groups, ground)
    asks.append(Ask("caption", rng.choice(CAPTION_PROMPTS), (caption,)))
    asks += consistency(rng, statements(rng, assets, groups, ground))
    return Scene(wear(rng, image), "objects", asks)


CAPTION_PROMPTS = ("Describe the picture.", "Write a caption for this picture.", "Say what the picture shows.")


def consistency(rng: random.Random, pairs: list[tuple[str, bool]]) -> list[Ask]:
    """One question a statement, as many true as false ones at most."""
    true, false = [s for s, t in pairs if t], [s for s, t in pairs if not t]
    n = min(len(true), len(false))
    chosen = [(s, "yes") for s in rng.sample(true, n)] + [(s, "no") for s in rng.sample(false, n)]
    return [Ask("consistency", f'Does this sentence describe the picture? "{s}"', (a,)) for s, a in chosen]
