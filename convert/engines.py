"""Runs the two engines over the same cases, and compares what they say, case by case."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from convert.cases import Case
from convert.ladder import ANSWERS, DECODE, KEYS, LEVEL, PREFILL, VALUES, VISION
from convert.measures import Rows, compare, compare_logits, joined, root_mean_square, summary
from shipvlm.errors import ExecutionError
from shipvlm.runtime.generate import generate
from shipvlm.runtime.inputs import Request
from shipvlm.runtime.model import Features, Model
from shipvlm.runtime.probe import Trace, forced_logits, trace
from shipvlm.runtime.sampling import Sampling
from shipvlm.stages import Progress

# Relative. About a hundred times what two engines differ by in FP32, so that in every prompt some activation goes to
# the integer on the other side, as it does sooner or later anyway; more than that changes the numbers hardly more.
JITTER = 1e-4


@dataclass(frozen=True)
class Answer:
    """A greedy answer, its end token included, and the logits that chose its tokens, float32 [tokens, vocabulary]."""

    request: Request
    token_ids: list[int]
    logits: np.ndarray


Measured = dict[str, dict[str, Rows]]  # of each rung, in order, its rows by the name of the case


def record_traces(model: Model, cases: Sequence[Case], length: int, progress: Progress) -> list[Trace]:
    """What `model` computes for each case while it says `length` tokens of its own."""
    traces = []
    for done, case in enumerate(cases):
        progress("parity: checkpoint", done, len(cases))
        traces.append(trace(model, case.requests, length))
    return traces


def record_answers(model: Model, cases: Sequence[Case], length: int, needed: int, progress: Progress) -> list[Answer]:
    """What `model` answers, case after case until these have `needed` answer tokens."""
    answers: list[Answer] = []
    found = 0
    for case in cases:
        if found >= needed:
            break
        progress("parity: answers", found, needed)
        taken = trace(model, case.requests, length, every=False)
        lengths = answer_lengths(taken, model.end_ids)
        for row, (request, tokens) in enumerate(zip(case.requests, lengths, strict=True)):
            ids = taken.tokens[row, :tokens].tolist()
            answers.append(Answer(request, ids, _answer_logits(taken, row, tokens)))
        found += sum(lengths)
    return answers


def compare_engines(
    model: Model,
    cases: Sequence[Case],
    traces: Sequence[Trace],
    what: str,
    progress: Progress,
    change: Callable[[Features], Features] | None = None,
) -> Measured:
    """Force `model` along the words of `traces`, the other engine's, and compare it with them on all rungs.

    `change` makes the picture features that its decoder reads from its own.
    """
    measured: Measured = {}
    for done, (case, left) in enumerate(zip(cases, traces, strict=True)):
        progress(what, done, len(cases))
        right = trace(model, case.requests, left.tokens.tolist(), change)
        for rung, rows in _rungs(left, right, model.end_ids).items():
            measured.setdefault(rung, {})[case.name] = rows
    return measured


def rounding_noise(model: Model, cases: Sequence[Case], traces: Sequence[Trace], progress: Progress) -> Measured:
    """How far `model` is from its own `traces` when the picture features that its decoder reads are changed by JITTER:
    what rounding alone may do to a checkpoint that rounds its activations to integers."""
    return compare_engines(model, cases, traces, "parity: rounding noise", progress, partial(_jittered, model))


def compare_answers(model: Model, answers: Sequence[Answer], progress: Progress) -> list[Rows]:
    """Compare the logits of `model` with those that chose the tokens of `answers`, prompt and answer read at once."""
    rows = []
    for done, each in enumerate(answers):
        progress("parity: answers of the graphs", done, len(answers))
        rows.append(compare_logits(each.logits, forced_logits(model, each.request, each.token_ids)))
    return rows


def changes_without_levels(model: Model, case: Case, taken: Trace) -> list[float]:
    """How much zeros in place of each DeepStack level change the prefill logits: root mean square of the relative
    change. `case` has a picture; `taken` has the words."""
    first = taken.tokens[:, :1].tolist()
    whole = np.concatenate(trace(model, case.requests, first).prefill)
    assert taken.features
    changes = []
    for level in range(len(taken.features.deepstack)):
        without = trace(model, case.requests, first, partial(_without_level, model, level)).prefill
        changes.append(root_mean_square(compare(whole, np.concatenate(without))["error"]))
    return changes


def greedy(model: Model, cases: Sequence[Case], traces: Sequence[Trace]) -> dict[str, tuple[list[int], list[int]]]:
    """What the engine of `traces` answers to each request and what `model` does, free running, end token left out."""
    answers = {}
    for case, taken in zip(cases, traces, strict=True):
        try:
            made = generate(model, case.requests, Sampling(taken.tokens.shape[1]), len(case.requests))
            found = [each.token_ids for each in made]
        except ExecutionError:  # its logits are no numbers: no answer, and an earlier rung says where that begins
            found = [[] for _ in case.requests]
        for row, (left, right) in enumerate(zip(taken.tokens.tolist(), found, strict=True)):
            ended = (place for place, token in enumerate(left) if token in model.end_ids)
            answers[f"{case.name}, row {row}"] = left[: next(ended, None)], right
    return answers


def distance(model: Model, cases: Sequence[Case], traces: Sequence[Trace], progress: Progress) -> dict[str, Any]:
    """How far the engine of `traces` is from `model`, which it was quantized from, on its own words."""
    parts: dict[str, list[Rows]] = {PREFILL: [], ANSWERS: []}
    for done, (case, taken) in enumerate(zip(cases, traces, strict=True)):
        progress("parity: reference", done, len(cases))
        own = trace(model, case.requests, taken.tokens.tolist())
        parts[PREFILL].append(compare_logits(np.concatenate(own.prefill), np.concatenate(taken.prefill)))
        parts[ANSWERS].append(_answer_rows(own, taken, answer_lengths(taken, model.end_ids)))
    return {name: summary(joined(rows)) for name, rows in parts.items()}


def answer_lengths(taken: Trace, end_ids: Sequence[int]) -> list[int]:
    """How many tokens each row's answer has, its end token included."""
    ends = np.isin(taken.tokens, end_ids)
    return np.where(ends.any(1), ends.argmax(1) + 1, taken.tokens.shape[1]).tolist()


def _rungs(left: Trace, right: Trace, end_ids: Sequence[int]) -> dict[str, Rows]:
    rungs: dict[str, Rows] = {}
    if left.features and right.features:
        rungs[VISION] = compare(left.features.image, right.features.image)
        levels = zip(left.features.deepstack, right.features.deepstack, strict=True)
        rungs |= {f"{LEVEL} {level}": compare(one, other) for level, (one, other) in enumerate(levels)}
    rungs[PREFILL] = compare_logits(np.concatenate(left.prefill), np.concatenate(right.prefill))
    rungs[DECODE] = compare_logits(left.decode, right.decode)
    lengths = [len(prompt) + len(left.decode) for prompt in left.prefill]
    for layer, (own, other) in enumerate(zip(left.cache, right.cache, strict=True)):
        for name, one, two in zip((KEYS, VALUES), own, other, strict=True):
            parts = [compare(one[row, :, :length], two[row, :, :length]) for row, length in enumerate(lengths)]
            rungs[f"{name} {layer}"] = joined(parts)
    rungs[ANSWERS] = _answer_rows(left, right, answer_lengths(left, end_ids))
    return rungs


def _answer_rows(left: Trace, right: Trace, lengths: Sequence[int]) -> Rows:
    """Compare the logits that predict the first tokens of each row, as many as `lengths` says."""
    sides = (
        np.concatenate([_answer_logits(side, row, tokens) for row, tokens in enumerate(lengths)])
        for side in (left, right)
    )
    return compare_logits(*sides)


def _answer_logits(taken: Trace, row: int, tokens: int) -> np.ndarray:
    return np.concatenate([taken.prefill[row][-1:], taken.decode[: tokens - 1, row]])


def _jittered(model: Model, features: Features) -> Features:
    draw = np.random.default_rng(0)

    def jitter(array: Any) -> Any:
        values = model.read(array)
        return model.write(values * (1 + JITTER * draw.standard_normal(values.shape, np.float32)))

    return Features(jitter(features.image), tuple(jitter(level) for level in features.deepstack))


def _without_level(model: Model, level: int, features: Features) -> Features:
    levels = list(features.deepstack)
    levels[level] = model.write(np.zeros_like(model.read(levels[level])))
    return replace(features, deepstack=tuple(levels))
