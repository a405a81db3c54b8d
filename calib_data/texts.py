"""Texts as they are compared: normalised words, numbers, yes or no, how near one text comes to another."""

import re
import unicodedata
from decimal import Decimal
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
DIGITS = {word: str(value) for value, word in enumerate(NUMBERS.split())}
# Han, kana and Hangul: compared character by character, as most of it is written without spaces.
CJK = (
    r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
MONEY = "USD|EUR|GBP|CHF|CNY|RMB|JPY|KRW|INR|\u5143|\u5186|\uc6d0"  # ... yuan, yen, won
NUMBER = re.compile(rf"(?:{MONEY})? ?(?P<sign>[+-]?) ?(?P<digits>[0-9.,' ]*[0-9]) ?(?P<percent>%?) ?(?:{MONEY})?")
NUMBER_FORMS = [
    re.compile(form)
    for form in (
        r"(?P<whole>[0-9]{1,3}(,[0-9]{3})+)([.](?P<part>[0-9]+))?",  # 1,234  1,234.50
        r"(?P<whole>[0-9]+)",
        r"(?P<whole>[0-9]*)[.,](?P<part>[0-9]+)",  # 12.50  12,50  .5
        r"(?P<whole>[0-9]{1,3}([.][0-9]{3})+),(?P<part>[0-9]+)",  # 1.234,50
        r"(?P<whole>[0-9]{1,3}([.][0-9]{3}){2,})",  # 1.234.567
        r"(?P<whole>[0-9]{1,3}([ '][0-9]{3})+)([.,](?P<part>[0-9]+))?",  # 1 234.50
    )
]


class Number(NamedTuple):
    value: Decimal
    percent: bool


def plain(text: str) -> str:
    """NFKC, with each run of white space one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def words(text: str) -> list[str]:
    """The normalised words: NFKC, case folded, without punctuation, symbols and articles, zero..twenty as digits.

    An apostrophe joins (`it's` is `its`); a point or comma between digits (3.5) and a minus before one (-3) stay; a
    thousands comma goes (1,000). Text of which nothing would be left keeps what it had: `A` is a word, and so is `+`.
    """
    folded = unicodedata.normalize("NFKC", plain(text).casefold())
    joined = re.sub(r"(?<=\w)['\u2019](?=\w)", "", folded)
    joined = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", joined)
    padded = f" {joined} "
    bare = "".join(
        char if unicodedata.category(char)[0] not in "PS" or _is_in_number(before, char, after) else " "
        for before, char, after in zip(padded, padded[1:], padded[2:], strict=False)
    )
    found = bare.split() or folded.split()
    return [DIGITS.get(word, word) for word in found if word not in ARTICLES] or found


def _is_in_number(before: str, char: str, after: str) -> bool:
    return after.isdecimal() and (before.isdecimal() if char in ".," else char == "-" and before.isspace())


def yes_or_no(text: str) -> str | None:
    """`yes` or `no`, whichever of the two words the text has; None when it has neither or both."""
    said = {"yes", "no"} & set(words(text))
    return said.pop() if len(said) == 1 else None


def read_number(text: str) -> Number | None:
    """The value of a text that is one number or price and nothing else, or None.

    Currency signs and names, white space and thousands separators are ignored: `$1,234.50`, `1.234,50 EUR`, `1 234.5`.
    A comma before exactly three digits groups thousands, any other single point or comma is the decimal sign. A leading
    zero (007) or groups of another length (a date, a telephone number) make a text, not a number. A percent sign is
    kept: 5 % is not 5.
    """
    signless = "".join(char for char in plain(text) if unicodedata.category(char) != "Sc")
    whole_text = NUMBER.fullmatch(signless.strip())
    if whole_text is None:
        return None
    for form in NUMBER_FORMS:
        match = form.fullmatch(whole_text["digits"])
        if match:
            break
    else:
        return None
    whole = re.sub("[^0-9]", "", match["whole"])
    if len(whole) > 1 and whole[0] == "0":
        return None
    part = match.groupdict().get("part")
    return Number(Decimal(f"{whole_text['sign']}{whole or 0}.{part or 0}"), bool(whole_text["percent"]))


def similarity(left: str, right: str) -> float:
    """1 - Levenshtein distance / length of the longer, over code points of `plain` text; 1.0 for two blank texts."""
    return Levenshtein.normalized_similarity(plain(left), plain(right))


def split_cjk(tokens: list[str]) -> list[str]:
    """The words, each CJK character a word of its own."""
    return [piece for token in tokens for piece in re.findall(f"[{CJK}]|[^{CJK}]+", token)]


def has_content(text: str) -> bool:
    """Whether there is a letter or a digit."""
    return any(char.isalnum() for char in text)
