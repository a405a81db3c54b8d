"""The largest context and batch that fit a card: calculated, not tried (bench.fit tries).

    weights + reserve + max(pictures, prompts) <= memory of the card
    pictures = patches of all rows x bytes a patch                 while the vision tower runs, all pictures at once
    prompts  = tokens of all rows x (cache + activations a token)  while the prompts are read, all rows at once
             + patches of all rows x features a patch
             + rows x logits of a row

Features are what the decoder gets of a picture: (1 + DeepStack levels) x hidden values for each image token, which
merge x merge patches become. They lie in memory until all prompts are read. Rows are taken to be of one length. The
logits are made when most of the activations are gone: to count both is on the safe side.

The activations are those of transformers 5.17 where they are largest: of the decoder in the MLP of its last layer,
when the cache is full; of the tower in its MLP or its rotation, which is in FP32. Profiled on the CPU, stage by stage
as `shipvlm.runtime.checkpoint` runs them, prompts without logits hold within 1 %; pictures are at most 1 % too small
and 5 % too large (tests). bitsandbytes and compiled models are taken as transformers.

That is what torch gives out. The free parts of its blocks it cannot give back, so a share of what is left beside the
weights goes into the reserve (LOST). It is taken from one model and one size: of an 8B model in FP16 that had 24 GB of
an H100, 9 to 20 % of what it needed beside the weights came on top, and RESERVE
(docs/results/qwen3-vl-8b-h100-fit-original.json).

For graphs only weights and cache are counted, the cache once: it is written in place. What ONNX Runtime takes beside
them is not calculated. Its arena grows in powers of two. Its CUDA attention is one of three kernels, by card, type and
head size (onnxruntime/core/providers/cuda/llm/attention.cc), and one of them holds the scores of all tokens against
all. The values alive at once in the graph are far too few.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bench.counts import FLOATS, count, stored_type
from bench.work import Work
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.shape import Shape, read_shape
from shipvlm.folder import GRAPHS, check_folder, check_side_files
from shipvlm.runtime.model import Engine
from shipvlm.sizes import read_headers

GIB = 2**30
# GiB that CUDA says a card has in all; the driver keeps 0.4 to 0.9 for itself. The least that public logs tell, of the
# H100 what one told.
_GIBS = {
    "t4": 14.56,
    "rtx3090": 23.56,
    "rtx4090": 23.51,
    "a10": 22.06,
    "l4": 22.03,
    "l40s": 44.34,
    "a100-40": 39.38,
    "a100-80": 79.14,
    "h100": 79.18,
    "h200": 139.72,
}
CARDS = {card: int(gibs * GIB) for card, gibs in _GIBS.items()}  # bytes
RESERVE = GIB  # CUDA's context and workspaces of libraries: an allowance, not measured
LOST = 5  # one part in as many
SPAN = 512  # tokens of the prompt from whose count a token's share of the cache is taken


@dataclass(frozen=True)
class Activations:
    """Bytes: of activations for each token of a prompt; of a picture for each of its patches, its features and all
    that the tower takes; of the logits of each row."""

    prefill_a_token: int
    features_a_patch: int
    vision_a_patch: int
    logits_a_row: int


@dataclass(frozen=True)
class Needs:
    """Bytes: of the weights; of the cache for each token; of activations, None where they are not calculated.
    `max_length` is the most tokens of a row that the model reads."""

    weights: int
    cache_a_token: int
    max_length: int
    activations: Activations | None


def needs(folder: Path, dtype: str | None = None, engine: Engine = "transformers") -> Needs:
    """Of the model in `folder`; `dtype` and `engine` as in `bench.counts.count`, and raises as it does."""
    graphs = (folder / GRAPHS).is_file()
    config = check_side_files(folder) if graphs else check_folder(folder)
    shape, most = read_shape(config), config["text_config"].get("max_position_embeddings")
    if not isinstance(most, int) or most < 1:
        raise InputError(f"{folder / 'config.json'}: text_config.max_position_embeddings is {most!r}, no whole number")
    counted = count(folder, Work(1, 4 * SPAN, SPAN, 2), dtype, engine)
    weights = counted["vision"].resident + counted["decode"].resident
    cache = counted["prefill"].cache // SPAN
    if graphs:
        return Needs(weights, cache, most, None)
    item = FLOATS[dtype or stored_type(read_headers(folder))][1]
    return Needs(weights, cache, most, activations(shape, item))


def activations(shape: Shape, item: int) -> Activations:
    """What transformers takes in a float type of `item` bytes.

    A token: gate, up and their product; five times hidden (the embeddings, the same with pictures in them, and in the
    layer its input, the residual and what is normed); cos and sin. A patch: its pixels in FP32, cast where that is
    another type; the tower's MLP or rotation, of which the factors were found by profiling; cos and sin in FP32; the
    DeepStack features. Logits: in their type and in FP32.
    """
    text, tower = shape.text, shape.vision
    features = item * text.hidden // tower.merge**2
    levels = len(tower.deepstack)
    pixels = tower.patch_width * (4 if item == 4 else 4 + item)
    widest = max((36 + 2 * item) * tower.hidden, item * (2 * tower.intermediate + 4 * tower.hidden))
    return Activations(
        prefill_a_token=item * (3 * text.intermediate + 5 * text.hidden + 2 * text.head_dim),
        features_a_patch=(1 + levels) * features,
        vision_a_patch=pixels + widest + 8 * tower.head_dim + levels * features,
        logits_a_row=(item + 4) * text.vocab,
    )


def capacity(found: Needs, card: str | int, *, context: int, patches: int = 0) -> dict[str, Any]:
    """What fits on `card`, a name of CARDS or bytes.

    `free` is what is left beside the weights and the `reserve`. `largest_context` is the longest row, with a picture of
    `patches`; `largest_batch` how many rows of `context` tokens with such a picture each; 0 where not one does, None
    where that is not calculated (`Needs.activations`) and the weights fit. `limit` says what each ends at: memory, or
    the model's own longest row (`model`). All sizes are in bytes.

    Raises `InputError` for another name.
    """
    if isinstance(card, str) and card not in CARDS:
        raise InputError(f"no card {card!r} is known: give its memory in bytes, or one of {', '.join(CARDS)}")
    memory = CARDS[card] if isinstance(card, str) else card
    left = memory - RESERVE - found.weights
    reserve = RESERVE + (max(0, left) // LOST if found.activations else 0)
    free = memory - reserve - found.weights
    taken = asdict(found)
    return {
        "card": card if isinstance(card, str) else None,
        "memory": memory,
        "reserve": reserve,
        **(taken.pop("activations") or dict.fromkeys(each.name for each in fields(Activations))),
        **taken,
        "context": context,
        "patches": patches,
        "free": max(0, free),
        **_largest(found, free, context, patches),
        "calculated": True,
    }


def _largest(found: Needs, free: int, context: int, patches: int) -> dict[str, Any]:
    taken = found.activations
    if taken is None:
        size, limit = (None, None) if free > 0 else (0, "memory")
        keys = ("largest_context", "largest_batch")
        return {**dict.fromkeys(keys, size), "limit": dict.fromkeys(keys, limit)}
    token = found.cache_a_token + taken.prefill_a_token
    once = taken.logits_a_row + patches * taken.features_a_patch
    picture = patches * taken.vision_a_patch
    longest = (free - once) // token if picture <= free else 0
    rows = free // max(context * token + once, picture)
    return {
        "largest_context": max(0, min(longest, found.max_length)),
        "largest_batch": max(0, rows) if context <= found.max_length else 0,
        "limit": {
            "largest_context": "model" if longest > found.max_length else "memory",
            "largest_batch": "model" if context > found.max_length else "memory",
        },
    }
