"""Puts drawings on a ground and remembers what stands where."""

import random
from dataclasses import dataclass, field

from PIL import Image, ImageOps

from calib_data.scenes.canvas import Assets, Drawing, colour_at, jitter, luminance, plain, textured
from calib_data.scenes.words import ALSO_CALLED, COLOURS, PLACES

SIZES = ((0.5, "small"), (0.95, "large"), (0.78, ""), (0.78, ""))  # of the room there is
MARGIN = 0.04  # of the picture: a thing nearer than this to a border of thirds is in no place for sure


@dataclass
class Group:
    """Copies of one drawing: tint (None: its own colours), size word, and where each stands (pixels)."""

    drawing: Drawing
    count: int
    tint: str | None
    size: str
    centres: list[tuple[float, float]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    place: str | None = None  # of a single thing that is surely in one ninth of the picture

    @property
    def label(self) -> str:
        return self.drawing.label

    @property
    def name(self) -> str:
        return " ".join(w for w in (self.size, self.tint, self.label) if w)


@dataclass
class Composition:
    """The picture, what is on it, and its ground's colour (None: it has no one colour)."""

    image: Image.Image
    groups: list[Group]
    ground: str | None


def compose(rng: random.Random, assets: Assets, size: tuple[int, int]) -> Composition:
    ground = rng.choice(list(COLOURS)) if rng.random() < 0.6 else None
    image = plain(rng, size, ground) if ground else textured(rng, size)
    counts = how_many(rng, size)
    places = layout(rng, size, sum(counts))
    groups = []
    for label, count in zip(choose_labels(rng, assets, len(counts)), counts, strict=True):
        tint = rng.choice([c for c in COLOURS if c != ground]) if rng.random() < 0.4 else None
        scale, word = rng.choice(SIZES)
        named = word if count == 1 and len(counts) > 1 else ""
        group = Group(rng.choice(assets.drawings[label]), count, tint, named)
        draw(rng, image, group, scale, [places.pop() for _ in range(count)])
        groups.append(group)
    return Composition(image, groups, ground)


def how_many(rng: random.Random, size: tuple[int, int]) -> list[int]:
    """The number of each of one to three kinds, as many as there is room for."""
    room = 3 if min(size) < 140 else 6 if min(size) < 260 else 9
    counts = [1] * rng.randint(1, 3)
    if rng.random() < 0.6:
        counts[0] = rng.randint(2, 5)
    if len(counts) > 1 and rng.random() < 0.25:
        counts[1] = rng.randint(2, 4)
    while sum(counts) > room:
        counts[counts.index(max(counts))] -= 1
    return counts


def choose_labels(rng: random.Random, assets: Assets, count: int) -> list[str]:
    """Kinds that cannot be taken for one another; a third of the time from one family (near misses side by side)."""
    while True:
        pool = assets.labels
        if rng.random() < 0.35 and count > 1:
            pool = rng.choice([family for family in assets.families.values() if len(family) >= count])
        labels = rng.sample(pool, count)
        if not any(other in ALSO_CALLED.get(label, ()) for label in labels for other in labels):
            return labels


def layout(rng: random.Random, size: tuple[int, int], count: int) -> list[tuple[float, float, float]]:
    """`count` places that do not overlap: (centre x, centre y, edge), in pixels, on a jittered grid."""
    width, height = size
    columns = max(1, round((count * width / height) ** 0.5))
    rows = -(-count // columns)
    if rng.random() < 0.5:
        columns, rows = columns + rng.randint(0, 1), rows + rng.randint(0, 1)
    cell_w, cell_h = width / columns, height / rows
    edge = min(cell_w, cell_h)
    dx, dy = (cell_w - edge) / 2, (cell_h - edge) / 2
    cells = [(c, r) for r in range(rows) for c in range(columns)]
    return [
        ((c + 0.5) * cell_w + rng.uniform(-dx, dx), (r + 0.5) * cell_h + rng.uniform(-dy, dy), edge)
        for c, r in rng.sample(cells, count)
    ]


def draw(
    rng: random.Random, image: Image.Image, group: Group, scale: float, places: list[tuple[float, float, float]]
) -> None:
    """Pastes the group's drawing at `places` and notes where."""
    picture = group.drawing.picture
    if group.tint:
        picture = tinted(picture, jitter(rng, COLOURS[group.tint]))
    if rng.random() < 0.3:
        picture = ImageOps.mirror(picture)
    for x, y, edge in places:
        side = max(18, round(edge * scale * rng.uniform(0.92, 1.0)))
        sprite = picture.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2)
        corner = (round(x - side / 2), round(y - side / 2))
        if group.tint is None and luminance(colour_at(image, int(x), int(y))) < 70:
            halo = sprite.getchannel("A").point(lambda a: a // 4)  # so that dark drawings show on dark grounds
            image.paste((255, 255, 255), corner, halo)
        image.paste(sprite, corner, sprite)
        group.centres.append((x, y))
        group.places.append(place_name(x, y, image.size))
    if group.count == 1 and surely_placed(*group.centres[0], image.size):
        group.place = group.places[0]


def tinted(picture: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The drawing in shades of one colour, its outline kept."""
    grey = ImageOps.autocontrast(picture.convert("RGB").convert("L"))
    dark = tuple(int(c * 0.35) for c in colour)
    light = tuple(int(c + (255 - c) * 0.25) for c in colour)
    out = ImageOps.colorize(grey, dark, light, mid=colour).convert("RGBA")
    out.putalpha(picture.getchannel("A"))
    return out


def place_name(x: float, y: float, size: tuple[int, int]) -> str:
    return PLACES[min(2, int(3 * y / size[1])) * 3 + min(2, int(3 * x / size[0]))]


def surely_placed(x: float, y: float, size: tuple[int, int]) -> bool:
    """Not so near to a border of thirds that a tilt of the picture carries it over."""
    return all(
        abs(at / whole - border) > MARGIN for at, whole in ((x, size[0]), (y, size[1])) for border in (1 / 3, 2 / 3)
    )
