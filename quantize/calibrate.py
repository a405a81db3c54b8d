"""Shows the whole model real pictures and conversations, and counts what the Linears of its text decoder read."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import nn

from calib_data.records import Record, picture
from quantize.histogram import Histogram
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.grid import image_tokens
from shipvlm.runtime.checkpoint import Checkpoint
from shipvlm.runtime.inputs import Request, encode
from shipvlm.stages import Progress


@dataclass
class Site:
    """A tensor that one or several Linears read, and what was seen of it.

    The largest |x| is kept apart for the tokens of pictures and for all others: pictures are where a calibration on
    text alone goes wrong.
    """

    layers: tuple[str, ...]
    histogram: Histogram = field(default_factory=Histogram)
    largest_image: float = 0.0
    largest_text: float = 0.0


@dataclass(frozen=True)
class Calibration:
    """What one pass over the records saw: every site, and how many tokens went through each of them."""

    sites: tuple[Site, ...]
    records: int
    image_tokens: int
    text_tokens: int


@dataclass
class _Tokens:
    """Which positions of the batch in flight are tokens of a picture and which are words: bool [B, S]. The rest is
    padding."""

    image: torch.Tensor
    text: torch.Tensor


def calibrate(
    checkpoint: Checkpoint,
    records: Sequence[Record],
    groups: Sequence[tuple[str, ...]],
    batch_size: int,
    progress: Progress,
) -> Calibration:
    """Run `checkpoint` over `records` and count |x| at the input of each group of Linears.

    A record is a conversation as the model meets it: its picture and prompt in the chat format, and then its first
    reference answer, so that what is seen while an answer is written is counted too (the end of the answer is not: it
    is never read). Nothing is ever cut; padding is not counted. Records of similar size share a batch; the result
    depends on the records, their order and `batch_size` alone.

    Raises InputError for an empty set, a record whose picture does not arrive in its prompt whole, one that is longer
    than the model can read or says a special token, and for an activation that is not finite.
    """
    if not records:
        raise InputError("the calibration data holds no records")
    sites = tuple(Site(group) for group in groups)
    counts = torch.zeros(2, dtype=torch.int64)
    order = sorted(range(len(records)), key=lambda index: _size(records[index]))
    done = 0
    with _observed(checkpoint.model, sites) as tokens:
        for start in range(0, len(order), batch_size):
            batch = [records[index] for index in order[start : start + batch_size]]
            counts += _run(checkpoint, batch, tokens)
            done += len(batch)
            progress("calibrate", done, len(records))
    image_tokens, text_tokens = counts.tolist()
    return Calibration(sites, len(records), image_tokens, text_tokens)


def _run(checkpoint: Checkpoint, records: Sequence[Record], tokens: _Tokens) -> torch.Tensor:
    """One forward pass. Returns how many tokens of pictures and how many others it had: int64 [2]."""
    prompts = encode(checkpoint.processor, [Request(record.prompt, (picture(record),)) for record in records])
    config = checkpoint.model.config
    rows = []
    for record, prompt, grids in zip(records, prompts.input_ids, prompts.grids, strict=True):
        found = int((prompt == config.image_token_id).sum())
        wanted = sum(image_tokens(grid, config.vision_config.spatial_merge_size) for grid in grids)
        if found != wanted:
            raise InputError(
                f"record {record.id}: {found} picture tokens arrive in the prompt, its picture has {wanted}: "
                "the checkpoint's chat template or tokenizer leaves them out"
            )
        row = np.concatenate([prompt, _answer_ids(checkpoint, record)])
        longest = config.text_config.max_position_embeddings
        if len(row) > longest:
            raise InputError(
                f"record {record.id}: {len(row)} tokens are more than the {longest} that the model reads, and nothing "
                "is cut: take it out, or lower the size of pictures in preprocessor_config.json"
            )
        rows.append(row)
    batch = replace(prompts, input_ids=tuple(rows))
    tokens.image, tokens.text = _kinds(rows, config.image_token_id, checkpoint.model.device)
    checkpoint.prefill(batch, checkpoint.vision(batch), 0)
    return torch.stack([tokens.image.sum(), tokens.text.sum()]).cpu()


def _kinds(rows: Sequence[np.ndarray], image_token: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Which positions of the batch are tokens of pictures, and which are others; `prefill` pads on the left."""
    longest = max(len(row) for row in rows)
    image = torch.zeros(len(rows), longest, dtype=torch.bool)
    word = torch.zeros_like(image)
    for index, row in enumerate(rows):
        image[index, longest - len(row) :] = torch.from_numpy(row == image_token)
        word[index, longest - len(row) :] = torch.from_numpy(row != image_token)
    return image.to(device), word.to(device)


def _answer_ids(checkpoint: Checkpoint, record: Record) -> np.ndarray:
    tokenizer = checkpoint.processor.tokenizer
    for token in tokenizer.all_special_tokens:
        if token in record.answers[0]:
            raise InputError(f"record {record.id}: its answer contains the special token {token!r}: remove it")
    return np.array(tokenizer(record.answers[0], add_special_tokens=False)["input_ids"], np.int64)


@contextmanager
def _observed(model: nn.Module, sites: Sequence[Site]) -> Iterator[_Tokens]:
    """Inside the `with`, whatever the first Linear of each site reads is counted: the others read the same tensor."""
    tokens = _Tokens(torch.empty(0), torch.empty(0))
    handles = [
        model.get_submodule(site.layers[0]).register_forward_pre_hook(
            lambda _, inputs, site=site: _count(site, inputs[0], tokens)
        )
        for site in sites
    ]
    try:
        yield tokens
    finally:
        for handle in handles:
            handle.remove()


def _count(site: Site, values: torch.Tensor, tokens: _Tokens) -> None:
    """Add one batch, float [B, S, width], to what was seen."""
    try:
        site.largest_image = max(site.largest_image, site.histogram.add(values[tokens.image].float()))
        site.largest_text = max(site.largest_text, site.histogram.add(values[tokens.text].float()))
    except ValueError as error:
        raise InputError(
            f"{site.layers[0]}: reads an activation that is not finite ({error}): the checkpoint is damaged, "
            "or does not work in float32"
        ) from error


def _size(record: Record) -> tuple[int, int]:
    with Image.open(io.BytesIO(record.image)) as opened:
        return opened.width * opened.height, len(record.prompt)
