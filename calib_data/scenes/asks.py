"""What can be asked of a scene, and the English that it takes."""

import random
from dataclasses import dataclass
from typing import NamedTuple

CAPTION_PROMPTS = ("Describe the picture.", "Write a caption for this picture.", "Say what the picture shows.")

# labels that end in s and mean one thing
SINGULAR_IN_S = {
    "bus",
    "trolleybus",
    "cactus",
    "octopus",
    "hibiscus",
    "lotus",
    "rhinoceros",
    "hippopotamus",
    "tennis",
    "dress",
}
IRREGULAR_PLURALS = {
    "wolf": "wolves", "knife": "knives", "mouse": "mice", "goose": "geese", "ox": "oxen", "cactus": "cacti",
    "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes",
    **{same: same for same in ("deer", "fish", "squid", "bison", "moose", "shrimp", "spaghetti", "luggage", "popcorn")},
}  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """One thing that can be asked of a scene. Of the accepted answers the first is the one trained on.

    `kind` names the sort of question ("how many", "total"), so that a data set can hold as many of each as it wants.
    """

    task: str
    kind: str
    prompt: str
    answers: tuple[str, ...]


class Statement(NamedTuple):
    """A true sentence about a scene and its false twin, which differs in one thing."""

    kind: str
    true: str
    false: str


def consistency(statements: list[Statement]) -> list[Ask]:
    """Two questions a statement: the true sentence and its twin, so that no sort of sentence says yes more than no."""
    return [
        Ask("consistency", kind, f'Does this sentence describe the picture? "{sentence}"', (answer,))
        for kind, true, false in statements
        for sentence, answer in ((true, "yes"), (false, "no"))
    ]


def caption(rng: random.Random, kind: str, text: str) -> Ask:
    return Ask("caption", kind, rng.choice(CAPTION_PROMPTS), (text,))


def is_plural(label: str) -> bool:
    return label.endswith("s") and not label.endswith("ss") and label.split()[-1] not in SINGULAR_IN_S


def plural(label: str) -> str:
    """The label for several of it: `fox` foxes, `wolf` wolves, `jeans` jeans."""
    *before, last = label.split()
    if last in IRREGULAR_PLURALS:
        return " ".join([*before, IRREGULAR_PLURALS[last]])
    if is_plural(label):
        return label
    if label.endswith(("s", "x", "ch", "sh", "z")):
        return label + "es"
    if label.endswith("y") and label[-2] not in "aeiou":
        return label[:-1] + "ies"
    return label + "s"


def article(name: str) -> str:
    """The name with a, an, or some."""
    return f"{'some' if is_plural(name) else 'an' if name[0] in 'aeiou' else 'a'} {name}"


def at(place: str) -> str:
    return "in the middle" if place == "middle" else f"at the {place}"
