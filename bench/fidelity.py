"""How close a model stays to its baseline, token by token: far tighter evidence than task scores.

Teacher-forced: the baseline's own greedy answer is put after the prompt, and both models say at each of its tokens
what should come there. Only answer tokens count, the end token among them where the answer ended by itself; the
tokens that end an answer count as one.

    same       both have the same most likely token
    KL         sum over v of p_baseline(v) (log p_baseline(v) - log p_model(v)), in nats
    delta-p    p_model(t) - p_baseline(t) for the token t of the baseline's answer

What the baseline said is kept as its most likely KEPT tokens and one bucket for all others. KL over these parts is
never above the KL over the whole vocabulary, by the log sum inequality: a lower bound, exact where all is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from shipvlm.runtime.inputs import Request
from shipvlm.runtime.model import Model
from shipvlm.runtime.probe import forced_batch

KEPT = 256
WHOLE = 1024  # a vocabulary up to this size is kept whole
FIELDS = ("ids", "logp", "wanted")


@dataclass(frozen=True)
class Forced:
    """An answer to put after a prompt: its tokens, and whether an end token came after them."""

    token_ids: tuple[int, ...]
    ended: bool


@dataclass(frozen=True)
class Reference:
    """What the baseline says at each token of its answer. `ids` int32 [tokens, kept]: the most likely first; `logp`
    float32 [tokens, kept + 1]: their log probabilities, and that of all others (minus infinity where there are none);
    `wanted` float32 [tokens]: that of the answer's token."""

    ids: np.ndarray
    logp: np.ndarray
    wanted: np.ndarray


@dataclass(frozen=True)
class Fidelity:
    """Of each token of one answer; see the module. `kept` tokens apart, `whole` where those are all."""

    kl: tuple[float, ...]
    same: tuple[bool, ...]
    delta_p: tuple[float, ...]
    kept: int
    whole: bool


def forced(model: Model, requests: Sequence[Request], answers: Sequence[Forced]) -> list[np.ndarray]:
    """Logits float32 [tokens, vocabulary] of each request at each token of its answer, all before it given, as one
    batch. An answer has at least one token, or ended."""
    end = min(model.end_ids)
    return forced_batch(
        model, requests, [[*each.token_ids, end][: len(each.token_ids) + each.ended] for each in answers]
    )


def reference(logits: np.ndarray, answer: Forced, end_ids: Sequence[int], whole: bool = False) -> Reference:
    """What is kept of the baseline's `logits` [tokens, vocabulary] at the tokens of its own `answer`; all with
    `whole`."""
    vocabulary = logits.shape[1]
    kept = vocabulary if whole or vocabulary <= WHOLE else KEPT
    ids = np.argsort(-logits, -1, kind="stable")[:, :kept].astype(np.int32)
    return Reference(ids, _parts(logits, ids), _wanted(logits, answer, end_ids))


def hold(made: Reference, logits: np.ndarray, answer: Forced, end_ids: Sequence[int]) -> Fidelity:
    """A model's `logits` [tokens, vocabulary] at the tokens of the baseline's `answer`, beside what that said."""
    found, kept = _parts(logits, made.ids).astype(float), made.logp.astype(float)
    p = np.exp(kept)
    with np.errstate(invalid="ignore"):  # nothing in the bucket of the others, on either side
        kl = np.where(p > 0, p * (kept - found), 0.0).sum(-1).clip(0)
    ends = np.isin([made.ids[:, 0], logits.argmax(-1)], list(end_ids))
    same = (made.ids[:, 0] == logits.argmax(-1)) | ends.all(0)
    delta_p = np.exp(_wanted(logits, answer, end_ids).astype(float)) - np.exp(made.wanted.astype(float))
    width = made.ids.shape[1]
    return Fidelity(
        tuple(float(f"{value:.6g}") for value in kl),
        tuple(same.tolist()),
        tuple(float(f"{value:.6g}") for value in delta_p),
        width,
        width == logits.shape[1],
    )


def save(path: Path, run: str, references: Mapping[str, Reference]) -> None:
    """Write `references` by id to `path`; it appears whole or not at all."""
    parts = {
        f"{field}_{place}": getattr(each, field) for place, each in enumerate(references.values()) for field in FIELDS
    }
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, run=np.array(run), names=np.array(list(references)), **parts)
    partial.replace(path)


def read(path: Path, run: str) -> dict[str, Reference] | None:
    """What `save` wrote for `run`; None where it is not there, damaged, or of another run."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["run"]) != run:
                return None
            return {
                str(name): Reference(*(file[f"{field}_{place}"] for field in FIELDS))
                for place, name in enumerate(file["names"])
            }
    except (OSError, ValueError, KeyError, BadZipFile):
        return None


def _parts(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Log probabilities float32 [tokens, kept + 1] of `ids`, and of all other tokens together."""
    logp = _log_softmax(logits)
    kept = np.take_along_axis(logp, ids, -1)
    np.put_along_axis(logp, ids, -np.inf, -1)
    with np.errstate(divide="ignore"):  # no others
        others = np.log(np.exp(logp).sum(-1, keepdims=True))
    return np.concatenate([kept, others], -1).astype(np.float32)


def _wanted(logits: np.ndarray, answer: Forced, end_ids: Sequence[int]) -> np.ndarray:
    """Log probability float32 [tokens] of each token of `answer`; of its end that of all tokens that end one."""
    sets = [[token] for token in answer.token_ids] + ([list(end_ids)] if answer.ended else [])
    found = [np.exp(row[ids]).sum() for row, ids in zip(_log_softmax(logits), sets, strict=True)]
    with np.errstate(divide="ignore"):
        return np.log(found).astype(np.float32)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64; not scipy's, which cannot be imported where a worker has no torch (bench.serve)."""
    shifted = logits.astype(float) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
