"""From tokens to text: where a stop string ends an answer, and how much of a growing answer is certain."""

from collections.abc import Sequence

REPLACEMENT = "\ufffd"  # what a character whose last bytes have not come yet is decoded to


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the first of the strings in `stop`, and whether there was one."""
    found = [place for each in stop if (place := text.find(each)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def certain(text: str, stop: Sequence[str]) -> str:
    """The beginning of an unfinished answer that stays whatever comes: no half characters, nothing that may turn out
    to be a stop string, no space at the end (a finished answer has none)."""
    text = text.rstrip(REPLACEMENT)
    pending = (length for each in stop for length in range(1, len(each)) if text.endswith(each[:length]))
    return text[: len(text) - max(pending, default=0)].rstrip()
