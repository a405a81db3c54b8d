"""What a model computes on the way to an answer, as numpy, in one form for every engine: to hold engines together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shipvlm.runtime.inputs import Request, encode
from shipvlm.runtime.model import Features, Model


@dataclass(frozen=True)
class VisionFeatures:
    """Of all pictures of a batch, one after the other: `image` and each of `deepstack` float32 [tokens, hidden]."""

    image: np.ndarray
    deepstack: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Trace:
    """A run of a batch with everything that it computed.

    `features` are the model's own (None where no request has a picture). `tokens` int64 [rows, n] are those that were
    appended or chosen. `prefill` is float32 [S, vocabulary] of every request, the logits at each place of its prompt;
    `decode` float32 [n - 1, rows, vocabulary]. `cache` has for each layer keys and values float32
    [rows, kv_heads, length, head_dim] after the last step: a row's tokens begin at 0, and are followed by zeros up to
    the longest row's length.
    """

    features: VisionFeatures | None
    tokens: np.ndarray
    prefill: tuple[np.ndarray, ...]
    decode: np.ndarray
    cache: list[tuple[np.ndarray, np.ndarray]]


def trace(
    model: Model,
    requests: Sequence[Request],
    answers: Sequence[Sequence[int]] | int,
    change: Callable[[Features], Features] | None = None,
    every: bool = True,
) -> Trace:
    """Run `requests` as one batch: prefill, then a decode step for every token of `answers` but the last.

    `answers` are token ids, n >= 1 for every request, or a number n: then they are the model's own, chosen greedily,
    end tokens like any other. n tokens make n - 1 steps: the last prefill logits predict the first token, step i
    predicts token i + 1. `change` makes the picture features that the decoder is given from the model's own. Without
    `every`, `prefill` has the last place of each prompt only: with a vocabulary of 150,000 that of all places takes
    0.6 GB for each thousand tokens.
    """
    batch = encode(model.processor, requests)
    features = model.vision(batch)
    given = change(features) if change else features
    count = answers if isinstance(answers, int) else len(answers[0])
    places = [range(0 if every else len(ids) - 1, len(ids)) for ids in batch.input_ids]
    logits, decoding = model.prefill(batch, given, count, places)
    prefill = np.split(logits, np.cumsum([len(row) for row in places])[:-1])
    steps = [np.stack([each[-1] for each in prefill])]
    tokens = np.empty((len(prefill), count), np.int64) if isinstance(answers, int) else np.array(answers, np.int64)
    for place in range(count):
        if isinstance(answers, int):
            tokens[:, place] = steps[-1].argmax(-1)
        if place < count - 1:
            steps.append(decoding.step(tokens[:, place]).copy())
    return Trace(
        features=_read(model, features) if len(batch.pixel_values) else None,
        tokens=tokens,
        prefill=tuple(prefill),
        decode=np.stack(steps)[1:],
        cache=decoding.cache(),
    )


def forced_logits(model: Model, request: Request, answer_ids: Sequence[int]) -> np.ndarray:
    """Logits float32 [answer tokens, vocabulary] that predict each of `answer_ids`, all tokens before it given.

    One prefill of prompt and answer together; the answer has at least one token.
    """
    [logits] = forced_batch(model, [request], [answer_ids])
    return logits


def forced_batch(model: Model, requests: Sequence[Request], answers: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """`forced_logits` of several requests, each with its own answer, in one prefill."""
    batch = encode(model.processor, requests)
    wholes = [
        np.concatenate([prompt, np.asarray(ids[:-1], np.int64)])
        for prompt, ids in zip(batch.input_ids, answers, strict=True)
    ]
    places = [range(len(prompt) - 1, len(whole)) for prompt, whole in zip(batch.input_ids, wholes, strict=True)]
    logits, _ = model.prefill(replace(batch, input_ids=tuple(wholes)), model.vision(batch), 0, places)
    return np.split(logits, np.cumsum([len(each) for each in places])[:-1])


def without_deepstack(model: Model, features: Features) -> Features:
    """The same picture features with DeepStack's as zeros: what is left is what the last vision layer says."""
    zeros = (np.zeros_like(model.read(level)) for level in features.deepstack)
    return replace(features, deepstack=tuple(model.write(level) for level in zeros))


def _read(model: Model, features: Features) -> VisionFeatures:
    return VisionFeatures(model.read(features.image), tuple(model.read(level) for level in features.deepstack))
