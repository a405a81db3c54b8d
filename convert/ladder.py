"""The rungs from pictures to answers, what each must hold, and what it hints at when it does not."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from convert.measures import Rows, joined, root_mean_square, rounded, summary
from shipvlm.errors import GateError
from shipvlm.recipe import ParitySection

# What is compared with the checkpoint in FP32. fp32: FP32 graphs. int8: FP32 graphs that, like the checkpoint, round
# activations to INT8. fp16: FP16 graphs.
Kind = Literal["fp32", "int8", "fp16"]
# exact: the recipe's cosine. noise: exact, or no further from the checkpoint than the recipe's multiple of its rounding
# noise (convert.engines.rounding_noise). top1: the recipe's agreement. equal: the very same tokens.
Gate = Literal["exact", "noise", "top1", "equal"]

VISION, LEVEL, PREFILL, ABLATION = "vision features", "DeepStack level", "prefill logits", "DeepStack ablation"
DECODE, KEYS, VALUES = "decode logits", "keys of layer", "values of layer"
GREEDY, ANSWERS = "greedy tokens", "answer tokens"

# Why INT8 is not held to top-1 at every place of a prompt: an activation half-way between two integers goes one way or
# the other with the last bit of the arithmetic, and layers amplify it. A quantized checkpoint under another kernel of
# attention does not agree with itself at every place either, least inside pictures, where no token is likely.
GATES: dict[Kind, dict[str, Gate]] = {
    "fp32": {
        **dict.fromkeys((VISION, LEVEL, PREFILL, DECODE, KEYS, VALUES), "exact"),
        GREEDY: "equal",
    },
    "int8": {
        **dict.fromkeys((VISION, LEVEL), "exact"),
        **dict.fromkeys((PREFILL, DECODE, KEYS, VALUES), "noise"),
        ANSWERS: "top1",
    },
    "fp16": {ANSWERS: "top1"},
}
TIE = 0.1  # nats: the checkpoint itself holds its own best token for at most 11 % likelier than the other
UNWIRED = 1e-4  # relative change of the logits: rounding makes less, features that are read make far more

HINTS = {
    VISION: "look at the vision graph, the tables of a picture's grid, and the order of patches and pictures",
    LEVEL: "look at its merger and the layer that it is taken after; are levels exchanged?",
    ABLATION: "the decoder graph does not read that level, or the checkpoint's own features are nothing",
    DECODE: "prompts are read right: look at the positions after them, and where a step writes its keys and values",
    GREEDY: "the logits hold: look at the loop that makes answers, and for a tie between two tokens",
    ANSWERS: "the graphs choose other words than the checkpoint",
}


class ParityError(GateError):
    """The graphs do not follow their checkpoint. `ladder` is the whole result, with all rungs."""

    def __init__(self, message: str, ladder: dict[str, Any]) -> None:
        super().__init__(message)
        self.ladder = ladder


def numbers_rung(
    name: str, parts: Mapping[str, Rows], noise: Mapping[str, Rows], kind: Kind, section: ParitySection
) -> dict[str, Any]:
    """A rung of vectors or logits. `parts` are its rows by case; `noise` those of the checkpoint against itself, in
    some of the cases."""
    rows = joined(list(parts.values()))
    worst = max(parts, key=lambda case: np.nan_to_num(parts[case]["error"], nan=np.inf).max())
    rung: dict[str, Any] = {"rung": name, **summary(rows), "worst": worst}
    gate = GATES[kind].get(_rung_kind(name))
    if gate is None:
        return rung
    # For vectors of equal length cosine = 1 - error^2 / 2: so the limit of the one is that of the other.
    largest = math.sqrt(2 * (1 - section.cosine_min))
    limits = {"cosine": section.cosine_min, "max_error": rounded(largest)}
    passed = bool(rows["cosine"].min() >= section.cosine_min and rows["error"].max() <= largest)
    if gate == "noise":
        own = root_mean_square(joined(list(noise.values()))["error"])
        found = root_mean_square(rows["error"])
        rung |= {"noise_rms_error": rounded(own), "noise_ratio": rounded(found / own) if own else None}
        limits["noise_ratio"] = section.noise_max
        passed = passed or found <= section.noise_max * own
    return rung | {"limits": limits, "passed": passed}


def ablation_rung(changes: Sequence[float]) -> dict[str, Any]:
    """`changes`: of the prefill logits when each DeepStack level is zeros, relative (root mean square)."""
    return {
        "rung": ABLATION,
        "rms_change": [rounded(change) for change in changes],
        "limits": {"rms_change": UNWIRED},
        "passed": all(change > UNWIRED for change in changes),
    }


def greedy_rung(answers: Mapping[str, tuple[Sequence[int], Sequence[int]]], kind: Kind) -> dict[str, Any]:
    """`answers`: by name, the checkpoint's own and the graphs' own, free running."""
    different = {name: pair for name, pair in answers.items() if pair[0] != pair[1]}
    rung: dict[str, Any] = {
        "rung": GREEDY,
        "rows": sum(len(left) for left, _ in answers.values()),
        "answers": len(answers),
        "equal": len(answers) - len(different),
    }
    if different:
        name, (left, right) = next(iter(different.items()))
        same = (place for place, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1])
        rung |= {"worst": name, "differs_at": next(same, min(len(left), len(right)))}
    return rung | ({"passed": not different} if GREEDY in GATES[kind] else {})


def answers_rung(rows: Rows, section: ParitySection) -> dict[str, Any]:
    """Answer tokens: the same most likely one, or one that the checkpoint holds for nearly as likely (a tie)."""
    ties = ~rows["same"] & (rows["margin"] < TIE)
    agreement = float((rows["same"] | ties).mean())
    needed = tokens_needed(section.top1_min)
    return {
        "rung": ANSWERS,
        **summary(rows),
        "ties": int(ties.sum()),
        "agreement": rounded(agreement),
        "limits": {"agreement": section.top1_min, "rows": needed},
        "passed": len(ties) >= needed and agreement >= section.top1_min,
    }


def tokens_needed(top1_min: float) -> int:
    """How many tokens must be compared so that a single one does not decide; a thousand for the strictest limits."""
    return round(1 / (1 - min(top1_min, 0.999)))


def broken(rungs: Sequence[Mapping[str, Any]]) -> str | None:
    """The first rung that does not hold, its number, its limit, and what that hints at; None where all hold."""
    failed = next((rung for rung in rungs if rung.get("passed") is False), None)
    if failed is None:
        return None
    name = failed["rung"]
    hint = _cache_hint(rungs) if _rung_kind(name) in (PREFILL, KEYS, VALUES) else HINTS[_rung_kind(name)]
    return f"parity breaks first at {name}: {_what_failed(failed)}; {hint}"


def _what_failed(rung: Mapping[str, Any]) -> str:
    limits = rung.get("limits", {})
    match rung["rung"]:
        case "DeepStack ablation":
            change = rung["rms_change"]
            level = next(level for level, found in enumerate(change) if found is None or not found > UNWIRED)
            return f"zeros in place of level {level} change the logits by {change[level]} (more than {UNWIRED} wanted)"
        case "greedy tokens":
            equal = f"{rung['equal']} of {rung['answers']} answers are equal"
            return f"{equal}, {rung['worst']} differs from token {rung['differs_at']} on (counted from 0)"
        case "answer tokens" if rung["rows"] < limits["rows"]:
            return (
                f"INCONCLUSIVE: the answers have {rung['rows']} tokens, an agreement of {limits['agreement']} takes "
                f"{limits['rows']} to decide, so set convert.parity.answers higher, or give more records"
            )
        case "answer tokens":
            return f"agreement {rung['agreement']} of {rung['rows']} tokens (at least {limits['agreement']})"
    cosine = f"cosine {rung['cosine']} (at least {limits['cosine']})"
    error = f"relative error {rung['max_error']} (at most {limits['max_error']}), worst in {rung['worst']}"
    if "noise_ratio" not in limits:
        return f"{cosine}, {error}"
    return f"{rung['noise_ratio']} times the rounding noise of the checkpoint itself (at most {limits['noise_ratio']})"


def _cache_hint(rungs: Sequence[Mapping[str, Any]]) -> str:
    """Where the decoder leaves the checkpoint: the first layer whose cache does not hold."""
    caches = [rung for rung in rungs if _rung_kind(rung["rung"]) in (KEYS, VALUES)]
    failed = [rung["rung"] for rung in caches if rung.get("passed") is False]
    if not failed:
        return "the cache holds in every layer: look at the last layer's attention and MLP, the last norm, and the head"
    layer = int(failed[0].split()[-1])
    if layer:
        return (
            f"the cache holds up to layer {layer - 1}: look at that layer's attention and MLP (scales, where it is "
            f"quantized) and at where DeepStack level {layer - 1} is added"
        )
    if f"{VALUES} 0" in failed:
        return "the cache differs from layer 0 on: look at the embedding, and where picture features are put"
    return "keys of layer 0 differ and its values do not: look at positions and rotation"


def _rung_kind(name: str) -> str:
    """The name without the number of its level or layer."""
    return name.rstrip(" 0123456789")
