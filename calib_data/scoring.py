"""How an answer is scored: each answer alone, so that two models can be compared item by item.

An empty or unparsable answer scores 0 and says so in `Score.parsed`: it is counted, not hidden.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, NamedTuple

from shipvlm.errors import InputError

if TYPE_CHECKING:  # a training machine scores without pydantic
    from calib_data.records import Task

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


@dataclass(frozen=True)
class Score:
    """`value` in [0, 1] is the task's score; `similarity` in [0, 1] is how near a wrong reading came (ocr only)."""

    value: float
    parsed: Literal["ok", "empty", "unparsable"]
    similarity: float | None = None


class Number(NamedTuple):
    value: Decimal
    percent: bool


def score(task: Task, answer: str, references: Sequence[str], relative_tolerance: float = 0.0) -> Score:
    """Scores one answer by its task's rule (`score_vqa` and so on), the best over the references.

    `relative_tolerance` is for numbers read by ocr only; 0, the default, asks for the same value.
    Raises InputError for an unknown task, no reference, or a reference that nothing could match.
    """
    if task not in RULES:
        raise InputError(f"unknown task {task!r}: one of {', '.join(RULES)}")
    if not references or not all(reference.strip() for reference in references):
        raise InputError(f"{task}: an answer is scored against at least one reference, and none may be blank")
    if not answer.strip():
        return Score(0.0, "empty", 0.0 if task == "ocr" else None)
    if task == "ocr":
        return score_ocr(answer, references, relative_tolerance)
    return RULES[task](answer, references)


def score_vqa(answer: str, references: Sequence[str]) -> Score:
    """1 when the normalised words (`words`) are those of a reference, else 0. No letter or digit: unparsable."""
    match = any(words(answer) == words(reference) for reference in references)
    return Score(float(match), "ok" if match or _has_content(answer) else "unparsable")


def score_consistency(answer: str, references: Sequence[str]) -> Score:
    """1 when the answer's yes or no is a reference's. An answer with neither, or with both, is unparsable."""
    expected = {yes_or_no(reference) for reference in references}
    if len(expected) != 1 or None in expected:
        raise InputError(f"consistency: references must all say yes or all say no, got {list(references)!r}")
    said = yes_or_no(answer)
    return Score(float(said in expected), "unparsable" if said is None else "ok")


def score_caption(answer: str, references: Sequence[str]) -> Score:
    """Token F1: 2 |common| / (|answer| + |reference|) over multisets of normalised words, best over the references.

    CJK characters are words by themselves. No letter or digit: unparsable.
    """
    said = Counter(_split_cjk(words(answer)))
    value = 0.0
    for reference in references:
        meant = Counter(_split_cjk(words(reference)))
        value = max(value, 2 * (said & meant).total() / (said.total() + meant.total()))
    return Score(value, "ok" if value or _has_content(answer) else "unparsable")


def score_ocr(answer: str, references: Sequence[str], relative_tolerance: float = 0.0) -> Score:
    """Reading. A reference that is a number or a price: 1 for the same value, however it is written (`read_number`).

    The value must be equal, not near: a chart's height may be estimated, but 12.60 for 12.50 on a receipt is misread.
    `relative_tolerance` t accepts |answer - reference| <= t |reference|. An answer that is no number is unparsable.
    Any other reference: 1 for the same text after NFKC and white-space normalisation, letter case included.
    `similarity` is 1 - Levenshtein distance / length of the longer text, after the same normalisation.
    """
    results = [_read(answer, reference, relative_tolerance) for reference in references]
    parsed: Literal["ok", "unparsable"] = "ok" if any(result.parsed == "ok" for result in results) else "unparsable"
    return Score(
        max(result.value for result in results), parsed, max(similarity(answer, reference) for reference in references)
    )


def _read(answer: str, reference: str, relative_tolerance: float) -> Score:
    expected = read_number(reference)
    if expected is None:
        return Score(float(plain(answer) == plain(reference)), "ok")
    said = read_number(answer)
    if said is None:
        return Score(0.0, "unparsable")
    near = abs(said.value - expected.value) <= Decimal(relative_tolerance) * abs(expected.value)
    return Score(float(near and said.percent == expected.percent), "ok")


RULES: dict[str, Callable[[str, Sequence[str]], Score]] = {
    "vqa": score_vqa,
    "caption": score_caption,
    "consistency": score_consistency,
    "ocr": score_ocr,
}


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
    left, right = plain(left), plain(right)
    longer = max(len(left), len(right))
    return 1.0 - edit_distance(left, right) / longer if longer else 1.0


def edit_distance(left: str, right: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions of one character."""
    previous = list(range(len(right) + 1))
    for row, char in enumerate(left, start=1):
        current = [row]
        for column, other in enumerate(right, start=1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (char != other)))
        previous = current
    return previous[-1]


def _split_cjk(tokens: Sequence[str]) -> list[str]:
    return [piece for token in tokens for piece in re.findall(f"[{CJK}]|[^{CJK}]+", token)]


def _has_content(text: str) -> bool:
    return any(char.isalnum() for char in text)
