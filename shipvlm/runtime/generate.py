"""The one loop that makes answers, whatever engine computes the logits: preprocess, vision, prefill, decode steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from shipvlm.errors import InputError
from shipvlm.runtime.clock import Clock, HostClock
from shipvlm.runtime.inputs import Batch, Request, encode
from shipvlm.runtime.model import Model
from shipvlm.runtime.sampling import Sampling, choose
from shipvlm.runtime.text import certain, cut

OnText = Callable[[int, str], None]
GREEDY = Sampling()


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of the stages of the batch that a request was answered in, its device synchronised after each.

    Laps without gaps, so for a row that ends last their sum is the time from the start of the batch to its texts:
    `preprocess` chat template, tokens, pictures to patches; `vision` the tower over all pictures of the batch, with
    the tables of their grids; `prefill` from there until the first token of every row is chosen; `decode[i]` until
    token i + 2 is chosen; `detokenise` the texts of all rows. Choosing, stop strings and `on_text` are in the lap of
    their token. Time to first token = preprocess + vision + prefill.
    """

    preprocess: float
    vision: float
    prefill: float
    decode: tuple[float, ...]
    detokenise: float


@dataclass(frozen=True)
class Answer:
    """`text` is what `token_ids` say, up to the stop string where one was found.

    `token_ids` are the generated tokens before the end token, prompt excluded. `finish` is why they end there: an end
    token came, a stop string came, or `max_new_tokens` were made. `seconds` takes no part in comparisons.
    """

    text: str
    token_ids: list[int]
    finish: Literal["end", "length", "stop"]
    seconds: StageSeconds = field(compare=False)
    events: StageSeconds | None = field(compare=False, default=None)


def generate(
    model: Model,
    requests: Sequence[Request],
    settings: Sampling = GREEDY,
    batch_size: int = 8,
    on_text: OnText | None = None,
) -> list[Answer]:
    """Answer `requests`, in their order, `batch_size` at a time. In FP32 the batch size does not change the answers.

    Sampling settings in the folder's `generation_config.json` are not used, its end tokens are. Every request draws
    from its own random numbers, made from `settings.seed` and its place in `requests`. `on_text(place, piece)` is
    called as text becomes certain; the pieces of a request, joined, are its answer's text.
    Raises `InputError` as `shipvlm.runtime.inputs.encode`, and for a prompt that with `max_new_tokens` is longer than
    the model reads; `ExecutionError` as `shipvlm.runtime.sampling.choose`.
    """
    # Requests of similar size share a batch, so that little of it is padding.
    order = sorted(range(len(requests)), key=lambda place: _size(requests[place]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        made = _generate_batch(model, [requests[place] for place in places], places, settings, on_text)
        answers |= zip(places, made, strict=True)
    return [answers[place] for place in range(len(requests))]


def _generate_batch(
    model: Model, requests: Sequence[Request], places: Sequence[int], settings: Sampling, on_text: OnText | None
) -> list[Answer]:
    device_clock = model.device_clock()
    clocks: list[Clock] = [HostClock(), *([device_clock] if device_clock else [])]
    _mark(clocks)
    batch = encode(model.processor, requests)
    _refuse_too_long(model, batch, settings.max_new_tokens)
    _mark(clocks)
    features = model.vision(batch)
    _mark(clocks)
    logits, decoding = model.prefill(batch, features, settings.max_new_tokens)
    del features
    rows = [_Row(model, settings, place, ids, on_text) for place, ids in zip(places, batch.input_ids, strict=True)]
    running = rows
    while True:
        tokens = choose(logits, [row.ids for row in running], settings, [row.draw for row in running])
        for row, token in zip(running, tokens.tolist(), strict=True):
            if row.finish is None:
                row.add(token)
        _mark(clocks)
        going = [index for index, row in enumerate(running) if row.finish is None]
        if not going:
            break
        if 2 * len(going) <= len(running):  # the cache is copied, so not for every row that ends
            decoding.keep(going)
            running, tokens = [running[index] for index in going], tokens[going]
        logits = decoding.step(tokens)
    texts = [row.text() for row in rows]
    _mark(clocks)
    laps = [clock.laps() for clock in clocks]
    return [row.answer(text, *laps) for row, text in zip(rows, texts, strict=True)]


def _mark(clocks: Sequence[Clock]) -> None:
    for clock in clocks:
        clock.mark()


def _refuse_too_long(model: Model, batch: Batch, new_tokens: int) -> None:
    longest = max(len(ids) for ids in batch.input_ids)
    if longest + new_tokens > model.max_length:
        raise InputError(
            f"{longest} tokens of prompt and {new_tokens} new ones are more than the {model.max_length} that the model "
            "reads (max_position_embeddings), and nothing is cut: lower max_new_tokens, shorten the prompt, or give "
            "fewer or smaller pictures"
        )


class _Row:
    """One answer in the making."""

    def __init__(
        self, model: Model, settings: Sampling, place: int, prompt: np.ndarray, on_text: OnText | None
    ) -> None:
        self.ids = prompt.tolist()  # prompt and answer, as the repetition penalty sees them
        self.draw = np.random.default_rng([settings.seed, place])
        self.finish: Literal["end", "length", "stop"] | None = None
        self._start = len(self.ids)
        self._chosen = 0
        self._sent = 0
        self._place, self._on_text, self._settings = place, on_text, settings
        self._tokenizer: Any = model.processor.tokenizer
        self._end = () if settings.ignore_end else tuple(model.end_ids)
        self._stop = () if settings.ignore_end else settings.stop

    def add(self, token: int) -> None:
        """Take the chosen token; sets `finish` where the answer ends with it or before it."""
        self._chosen += 1
        if token in self._end:
            self.finish = "end"
        else:
            self.ids.append(token)
            if self._chosen == self._settings.max_new_tokens:
                self.finish = "length"
            if self._stop and cut(self._decode(), self._stop)[1]:
                self.finish = "stop"
        if self._on_text:
            text = self.text() if self.finish else certain(self._decode(), self._stop).lstrip()
            if len(text) > self._sent:
                self._on_text(self._place, text[self._sent :])
                self._sent = len(text)

    def answer(self, text: str, laps: Sequence[float], device_laps: Sequence[float] | None = None) -> Answer:
        assert self.finish
        seconds = self._stages(laps)
        events = self._stages(device_laps) if device_laps else None
        return Answer(text, self.ids[self._start :], self.finish, seconds, events)

    def _stages(self, laps: Sequence[float]) -> StageSeconds:
        preprocess, vision, prefill, *decode = laps[: 2 + self._chosen]
        return StageSeconds(preprocess, vision, prefill, tuple(decode), laps[-1])

    def _decode(self) -> str:
        return self._tokenizer.decode(self.ids[self._start :], skip_special_tokens=True)

    def text(self) -> str:
        return cut(self._decode(), self._stop)[0].strip()


def _size(request: Request) -> tuple[int, int]:
    return sum(image.width * image.height for image in request.images), len(request.prompt)
