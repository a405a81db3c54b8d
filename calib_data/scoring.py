"""How an answer is scored: each answer alone, so that two models can be compared item by item.

An empty or unparsable answer scores 0 and says so in `Score.parsed`: it is counted, not hidden.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from rapidfuzz.distance import Levenshtein

from calib_data.texts import has_content, plain, read_number, similarity, split_cjk, words, yes_or_no
from shipvlm.errors import InputError

if TYPE_CHECKING:  # a training machine scores without pydantic
    from calib_data.records import Task

RELAXED = 0.05  # of a chart's number
# `answer is B`, `option (C)`; a capital that begins a sentence (A cat, I think) is no choice.
NAMED_CHOICE = re.compile(r"(?i:\b(?:answer|option|choice)(?: is)?:? ?)[(\[]?(?![AI] [a-z])([A-Z])(?![\w'\u2019])")


@dataclass(frozen=True)
class Score:
    """`value` in [0, 1] is the task's score; `similarity` in [0, 1] is how near a wrong reading came (ocr only)."""

    value: float
    parsed: Literal["ok", "empty", "unparsable"]
    similarity: float | None = None


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
    return Score(float(match), "ok" if match or has_content(answer) else "unparsable")


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
    said = Counter(split_cjk(words(answer)))
    value = 0.0
    for reference in references:
        meant = Counter(split_cjk(words(reference)))
        value = max(value, 2 * (said & meant).total() / (said.total() + meant.total()))
    return Score(value, "ok" if value or has_content(answer) else "unparsable")


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


def score_choice(answer: str, references: Sequence[str]) -> Score:
    """Multiple choice: 1 when the answer names the letter of the right choice (`choice_letter`), or is its text.

    `references` are the letter and, if it is known, the text. An answer that is neither a letter nor the right
    choice's text is unparsable.
    """
    said = choice_letter(answer)
    if said is not None:
        return Score(float(said in references), "ok")
    match = any(words(answer) == words(reference) for reference in references if len(reference) > 1)
    return Score(float(match), "ok" if match else "unparsable")


def choice_letter(answer: str) -> str | None:
    """The one letter that an answer to a multiple-choice question names: `B`, `(b)`, `B. a cat`, `The answer is B.`

    None where it names none or several. A word is no letter: neither the first of `A cat` nor that of `I think so`.
    """
    text = plain(answer).replace("*", "").strip()
    alone = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:,]*", text)
    if alone:
        return alone[1].upper()
    first = re.match(r"[(\[]?([A-Z])[)\].:]+ ", text)
    found = {first[1]} if first else set()
    found |= set(NAMED_CHOICE.findall(text))
    return found.pop() if len(found) == 1 else None


def score_document(answer: str, references: Sequence[str]) -> Score:
    """ANLS: 1 - Levenshtein distance / length of the longer text where that is above 0.5, else 0; the best over the
    references. Letter case and runs of white space do not count. (Biten et al., "Scene Text Visual Question
    Answering", ICCV 2019.)
    """
    said = _lowered(answer)
    near = max(Levenshtein.normalized_similarity(said, _lowered(reference)) for reference in references)
    return Score(near if near > 0.5 else 0.0, "ok")


def score_chart(answer: str, references: Sequence[str]) -> Score:
    """Relaxed accuracy: 1 for a number within 5 % of a reference that is one, or for the reference's text, letter case
    left out. `5%` is 0.05. (Masry et al., "ChartQA", ACL Findings 2022, section 5.1.)
    """
    return Score(float(any(_relaxed(answer.strip(), reference.strip()) for reference in references)), "ok")


def score_contains(answer: str, references: Sequence[str]) -> Score:
    """1 when a reference stands in the answer, letter case left out. No letter or digit: unparsable. (Liu et al.,
    "OCRBench", 2023.)
    """
    found = any(_lowered(reference) in _lowered(answer) for reference in references)
    return Score(float(found), "ok" if found or has_content(answer) else "unparsable")


def score_formula(answer: str, references: Sequence[str]) -> Score:
    """As `score_contains` for formulas in LaTeX: letter case counts, white space does not."""
    found = any("".join(reference.split()) in "".join(answer.split()) for reference in references)
    return Score(float(found), "ok" if found or has_content(answer) else "unparsable")


def _lowered(text: str) -> str:
    return " ".join(text.lower().split())


def _relaxed(said: str, meant: str) -> bool:
    value, target = _float(said), _float(meant)
    if value is None or not target:  # of 0 there is no share
        return said.lower() == meant.lower()
    return abs(value - target) <= RELAXED * abs(target)


def _float(text: str) -> float | None:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


RULES: dict[str, Callable[[str, Sequence[str]], Score]] = {
    "vqa": score_vqa,
    "caption": score_caption,
    "consistency": score_consistency,
    "ocr": score_ocr,
    "choice": score_choice,
    "document": score_document,
    "chart": score_chart,
    "contains": score_contains,
    "formula": score_formula,
}
