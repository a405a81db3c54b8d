"""What can be asked of a scene of drawings, and what can be said about it."""

import random

from calib_data.scenes.asks import Ask, Statement, article, at, plural
from calib_data.scenes.canvas import Assets
from calib_data.scenes.composition import Composition, Group
from calib_data.scenes.words import ALSO_CALLED, COLOURS, NUMBERS, PLACES

CLEARLY = 0.08  # of the picture's width or height: what is less far apart is not called left of, or above


def counted(group: Group) -> str:
    return article(group.name) if group.count == 1 else f"{NUMBERS[group.count]} {plural(group.name)}"


def describe(scene: Composition) -> str:
    """One sentence, in an order that the picture decides: the most numerous first, then row by row."""

    def order(group: Group) -> tuple[int, int, str]:
        return (-group.count, PLACES.index(group.place) if group.place else 0, group.label)

    parts = [counted(g) + (f" {at(g.place)}" if g.place else "") for g in sorted(scene.groups, key=order)]
    text = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    return text + (f" on {article(scene.ground)} ground" if scene.ground else "")


def vqa(rng: random.Random, scene: Composition) -> list[Ask]:
    groups = scene.groups
    asks = [*counts(rng, groups), *colours(rng, scene), *places(groups), *neighbours(scene)]
    if len(groups) == 1:
        asks.append(
            Ask("vqa", "what", rng.choice(("What is this?", "What does the picture show?")), (groups[0].label,))
        )
    for word in ("large", "small"):
        match = [g.label for g in groups if g.size == word]
        if len(match) == 1 and {g.size for g in groups} >= {"large", "small"}:
            asks.append(Ask("vqa", "size", f"Which one is {word}?", (match[0],)))
    return asks


def counts(rng: random.Random, groups: list[Group]) -> list[Ask]:
    asks = []
    for group in groups:
        end = rng.choice(("are there", "do you see"))
        asks.append(Ask("vqa", "how many", f"How many {plural(group.label)} {end}?", (str(group.count),)))
    if len(groups) > 1:
        total = str(sum(g.count for g in groups))
        asks.append(Ask("vqa", "how many in all", "How many things are there in all?", (total,)))
    return asks


def colours(rng: random.Random, scene: Composition) -> list[Ask]:
    asks = []
    for group in scene.groups:
        if group.tint:
            verb, noun = ("is", group.label) if group.count == 1 else ("are", plural(group.label))
            asks.append(Ask("vqa", "colour", f"What colour {verb} the {noun}?", (group.tint,)))
    if scene.ground:
        question = rng.choice(("What colour is the ground?", "What is the background colour?"))
        asks.append(Ask("vqa", "ground", question, (scene.ground,)))
    return asks


def places(groups: list[Group]) -> list[Ask]:
    """Where a single thing is, and what is there if nothing else is in that ninth of the picture."""
    asks = []
    for group in groups:
        if not group.place:
            continue
        asks.append(Ask("vqa", "where", f"Where is the {group.label}?", (group.place,)))
        if not any(group.place in other.places for other in groups if other is not group):
            asks.append(Ask("vqa", "what is at", f"What is {at(group.place)}?", (group.label,)))
    return asks


def neighbours(scene: Composition) -> list[Ask]:
    """What is left of a thing, or above it, where exactly one thing is."""
    asks = []
    every = [(group.label, centre) for group in scene.groups for centre in group.centres]
    for group in scene.groups:
        if group.count > 1:
            continue
        for axis, words in ((0, "to the left of"), (1, "above")):
            edge = group.centres[0][axis] - CLEARLY * scene.image.size[axis]
            before = [
                label for label, centre in every if label != group.label and centre[axis] < group.centres[0][axis]
            ]
            if len(before) == 1 and all(c[axis] < edge for label, c in every if label == before[0]):
                asks.append(Ask("vqa", "neighbour", f"What is {words} the {group.label}?", (before[0],)))
    return asks


def others(groups: list[Group], among: list[str]) -> list[str]:
    """The labels of `among` that no one would use for anything in the picture."""
    shown = {g.label for g in groups}
    return [k for k in among if k not in shown and not any(confusable(k, s) for s in shown)]


def confusable(one: str, other: str) -> bool:
    return other in ALSO_CALLED.get(one, ()) or one in ALSO_CALLED.get(other, ())


def statements(rng: random.Random, assets: Assets, scene: Composition) -> list[Statement]:
    """True sentences with hard negatives: a near kind, a count a little off, another colour, another place."""
    group = rng.choice(scene.groups)
    label, count = group.label, group.count
    near = others(scene.groups, assets.families[group.drawing.family])
    other = rng.choice(near or others(scene.groups, assets.labels))
    wrong = rng.choice([n for n in range(1, 6) if 0 < abs(n - count) <= 2])
    made = [
        Statement("kind", there(count, label), there(count, other)),
        Statement("count", there(count, label), there(wrong, label)),
    ]
    verb, noun = ("is", label) if count == 1 else ("are", plural(label))
    if group.tint:
        made.append(swapped("colour", f"The {noun} {verb} {{}}.", group.tint, rng.choice(without(COLOURS, group.tint))))
    if group.place:
        elsewhere = rng.choice(without(PLACES, group.place))
        made.append(swapped("place", f"The {label} is {{}}.", at(group.place), at(elsewhere)))
    if scene.ground:
        wrong_ground = rng.choice(without(COLOURS, scene.ground))
        made.append(swapped("ground", "The ground is {}.", scene.ground, wrong_ground))
    return made


def there(count: int, label: str) -> str:
    return f"There is one {label}." if count == 1 else f"There are {NUMBERS[count]} {plural(label)}."


def swapped(kind: str, sentence: str, right: str, wrong: str) -> Statement:
    return Statement(kind, sentence.format(right), sentence.format(wrong))


def without(names: dict[str, tuple[int, int, int]] | tuple[str, ...], left_out: str) -> list[str]:
    return [name for name in names if name != left_out]
