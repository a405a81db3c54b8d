"""How the next token is chosen from logits, in numpy: one definition for every engine.

Same meaning and same order as in transformers' `generate`: repetition penalty, temperature, top-k, top-p, draw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shipvlm.errors import ExecutionError, InputError

PIECE = 64


@dataclass(frozen=True)
class Sampling:
    """How answers are made. The defaults are greedy: the token of the highest logit.

    `temperature` 0 is greedy, `top_p` 1 and `top_k` 0 keep all tokens, `repetition_penalty` 1 is none. An answer ends
    before the first of the strings in `stop`. With `ignore_end` every answer has `max_new_tokens` tokens, end tokens
    and stop strings notwithstanding (to measure latency). Raises `InputError` for a value out of its range.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    ignore_end: bool = False

    def __post_init__(self) -> None:
        for name, good, range_ in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0"),
            ("seed", self.seed >= 0, "0 or more"),
            ("stop", isinstance(self.stop, tuple) and all(self.stop), "a tuple of strings that are not empty"),
        ):
            if not good:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be {range_}")


def choose(
    logits: np.ndarray, seen: Sequence[Sequence[int]], settings: Sampling, draws: Sequence[np.random.Generator]
) -> np.ndarray:
    """The next token of each row, int64 [rows], from its `logits` float32 [rows, vocabulary].

    `seen` are the tokens of each row so far, prompt included (read only where there is a repetition penalty); `draws`
    is each row's own source of random numbers. Raises `ExecutionError` where a logit is not a number, or the highest is
    infinite.
    """
    if settings.repetition_penalty != 1:
        logits = np.stack(
            [penalise(row, ids, settings.repetition_penalty) for row, ids in zip(logits, seen, strict=True)]
        )
    tokens = logits.argmax(-1)  # the place of a NaN, where there is one
    if not np.isfinite(logits[np.arange(len(tokens)), tokens]).all():
        raise ExecutionError("the model's logits are NaN or infinite; compute in a wider type, such as float32")
    if settings.temperature == 0:
        return tokens
    return np.array([_draw(warp(row, settings), draw) for row, draw in zip(logits, draws, strict=True)], np.int64)


def penalise(logits: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:
    """Logits [vocabulary] of the tokens in `seen` divided by `penalty`, or multiplied where negative (CTRL, 2019)."""
    scores = logits.copy()
    ids = np.asarray(seen, np.int64)
    found = scores[ids]
    scores[ids] = np.where(found < 0, found * np.float32(penalty), found / np.float32(penalty))
    return scores


def warp(logits: np.ndarray, settings: Sampling) -> np.ndarray:
    """Scores float64 [vocabulary] to draw from, 0 the highest: temperature, then top-k, then top-p; minus infinity for
    what is left out.

    Top-p keeps the smallest set of most likely tokens whose probabilities sum to `top_p` or more (Holtzman, 2019).
    Tokens of equal score stay or go together.
    """
    with np.errstate(over="ignore"):  # of a tiny temperature only the highest logits are left
        scores = (logits.astype(np.float64) - logits.max()) / settings.temperature
    if 0 < settings.top_k < len(scores):
        scores[scores < _kth_largest(scores, settings.top_k)] = -np.inf
    if settings.top_p < 1:
        ordered = np.sort(scores[scores > -np.inf])
        unlikely = np.cumsum(_softmax(ordered)) <= 1 - settings.top_p
        scores[scores < ordered[min(unlikely.sum(), len(ordered) - 1)]] = -np.inf
    return scores


def _kth_largest(scores: np.ndarray, k: int) -> np.float64:
    # The k-th largest of the maxima of many pieces cannot lie above it, and leaves few scores of a large vocabulary.
    maxima = scores[: len(scores) // PIECE * PIECE].reshape(-1, PIECE).max(-1)
    if len(maxima) > k:
        scores = scores[scores >= np.partition(maxima, -k)[-k]]
    return np.partition(scores, -k)[-k]


def _draw(scores: np.ndarray, draw: np.random.Generator) -> int:
    candidates = np.flatnonzero(scores > -np.inf)
    edges = np.cumsum(_softmax(scores[candidates]))
    place = np.searchsorted(edges, draw.random() * edges[-1], side="right")
    return int(candidates[min(place, len(candidates) - 1)])


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()
