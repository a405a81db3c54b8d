"""Which layers a recipe leaves as they are (`quantize.ignore`): the same for the plan and for the stage."""

import difflib
import re
from collections.abc import Iterable, Sequence

from shipvlm.errors import InputError


def split_layers(
    groups: Sequence[tuple[str, ...]], ignore: Sequence[str]
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """The groups of layers to quantize, and the names of the layers that `ignore` leaves as they are.

    An entry of `ignore` is the name of a layer, or `re:` and a pattern for the beginning of names. Raises InputError
    for an entry that matches nothing, a broken pattern, a group that is matched in part (its layers read the same
    input, and servers fuse them), and when nothing is left to quantize.
    """
    names = [name for group in groups for name in group]
    found = ignored(names, ignore)
    for entry, matched in found.items():
        if not matched:
            raise InputError(f"'{entry}' matches no layer of the text decoder{_hint(entry, names)}")
    left = {name for matched in found.values() for name in matched}
    for group in groups:
        missed = [name for name in group if name not in left]
        if 0 < len(missed) < len(group):
            raise InputError(
                f"{', '.join(name for name in group if name in left)} and {', '.join(missed)} read the same input and "
                "are quantized together or not at all: ignore the others too, or none of them"
            )
    if len(left) == len(names):
        raise InputError("nothing is left to quantize: ignore fewer layers")
    quantized = [group for group in groups if group[0] not in left]
    return quantized, tuple(name for name in names if name in left)


def ignored(layers: Iterable[str], patterns: Iterable[str]) -> dict[str, list[str]]:
    """The layers that each pattern leaves unquantized: a pattern is a name, or `re:` and a regular expression.

    Raises `InputError` for what is no regular expression.
    """
    names, found = list(layers), {}
    for pattern in patterns:
        if not pattern.startswith("re:"):
            found[pattern] = [name for name in names if name == pattern]
            continue
        try:
            found[pattern] = [name for name in names if re.match(pattern[3:], name)]
        except re.error as error:
            raise InputError(f"{pattern} is no regular expression: {error}") from error
    return found


def _hint(entry: str, names: list[str]) -> str:
    if entry.startswith("re:"):
        return f": a pattern is matched from the beginning of a name such as {names[0]}"
    return f": did you mean {difflib.get_close_matches(entry, names, n=1, cutoff=0.0)[0]}?"
