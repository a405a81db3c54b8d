"""The largest context and batch that fit a card: calculated, not tried.

    weights + reserve + max(pictures, prompts) <= memory of the card
    pictures = patches of all rows x bytes a patch               while the vision tower runs, all pictures at once
    prompts  = tokens of all rows x (cache + activations a token) while the prompts are read, all rows at once

For a checkpoint in transformers the activations are those at the widest place of a layer: the decoder's MLP, of the
tower its MLP or its rotation, which is in FP32. They were found by torch's memory profiler for transformers 5.17 and
hold to a few percent (tests). For graphs all values are counted that are alive at once, as no operator is fused: that
is too much rather than too little. bitsandbytes and compiled models are taken as transformers.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.counts import FLOATS, count, stored_type
from bench.graph_counts import live_bytes, read_graph
from bench.work import Work
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.shape import Shape, read_shape
from shipvlm.folder import GRAPHS, check_folder, check_side_files
from shipvlm.runtime.model import Engine
from shipvlm.sizes import read_headers

MIB, GIB = 2**20, 2**30
# Memory in bytes, as the driver counts it.
CARDS = {
    "t4": 15360 * MIB,
    "rtx3090": 24576 * MIB,
    "rtx4090": 24564 * MIB,
    "a10": 23028 * MIB,
    "l4": 23034 * MIB,
    "l40s": 46068 * MIB,
    "a100-40": 40960 * MIB,
    "a100-80": 81920 * MIB,
    "h100": 81559 * MIB,
    "h200": 143771 * MIB,
}
RESERVE = GIB  # CUDA's context, workspaces of libraries, what an allocator cannot use: an allowance, not measured
SPAN = 512  # tokens or patches between the two sizes from which a graph's bytes a token are taken


@dataclass(frozen=True)
class Needs:
    """Bytes: of the weights; of the cache and of activations for each token of a prompt; of each patch of a picture;
    of the logits of each row. `max_length` is the most tokens of a row that the model reads."""

    weights: int
    cache_a_token: int
    prefill_a_token: int
    vision_a_patch: int
    logits_a_row: int
    max_length: int


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
        return Needs(weights, cache, *_of_graphs(folder), 4 * shape.text.vocab, most)
    item = FLOATS[dtype or stored_type(read_headers(folder))][1]
    return Needs(weights, cache, *activations(shape, item), (item + 4) * shape.text.vocab, most)


def activations(shape: Shape, item: int) -> tuple[int, int]:
    """Bytes that transformers takes for each token of a prompt, and for each patch of a picture, in a float type of
    `item` bytes. A picture's pixels come in FP32, and are cast where that is another type."""
    text, tower = shape.text, shape.vision
    token = item * (3 * text.intermediate + 4 * text.hidden + 2 * text.head_dim)
    pixels = tower.patch_width * (4 if item == 4 else 4 + item)
    widest = max(44 * tower.hidden, item * (2 * tower.intermediate + 4 * tower.hidden) + 8 * tower.head_dim)
    return token, pixels + widest + item * len(tower.deepstack) * tower.out_hidden // tower.merge**2


def capacity(
    found: Needs, card: str | int, *, context: int, patches: int = 0, reserve: int = RESERVE
) -> dict[str, Any]:
    """What fits on `card`, a name of CARDS or bytes.

    `largest_context` is the longest row, `largest_batch` how many rows of `context` tokens with a picture of `patches`
    each; 0 where not one does. `limit` says what each ends at: memory, or the model's own longest row (`model`). All
    sizes are in bytes.

    Raises `InputError` for another name.
    """
    if isinstance(card, str) and card not in CARDS:
        raise InputError(f"no card {card!r} is known: give its memory in bytes, or one of {', '.join(CARDS)}")
    memory = CARDS[card] if isinstance(card, str) else card
    free = memory - reserve - found.weights
    token = found.cache_a_token + found.prefill_a_token
    picture = patches * found.vision_a_patch
    longest = (free - found.logits_a_row) // token if picture <= free else 0
    rows = free // max(context * token + found.logits_a_row, picture)
    return {
        "card": card if isinstance(card, str) else None,
        "memory": memory,
        "reserve": reserve,
        **asdict(found),
        "context": context,
        "patches": patches,
        "largest_context": max(0, min(longest, found.max_length)),
        "largest_batch": max(0, rows) if context <= found.max_length else 0,
        "limit": {
            "largest_context": "model" if longest > found.max_length else "memory",
            "largest_batch": "model" if context > found.max_length else "memory",
        },
        "calculated": True,
    }


def line(found: Mapping[str, Any]) -> str:
    """What `capacity` found, in a sentence."""
    where = found["card"] or f"{found['memory'] / 1e9:.1f} GB"
    if not found["largest_context"]:
        return (
            f"{where}: does not fit: the weights take {found['weights'] / 1e9:.1f} GB of {found['memory'] / 1e9:.1f} "
            f"GB, and {found['reserve'] / 1e9:.1f} GB are set aside (calculated)"
        )
    return (
        f"{where}: one row of up to {found['largest_context']:,} tokens, or {found['largest_batch']:,} rows of "
        f"{found['context']:,} (calculated: weights {found['weights'] / 1e9:.1f} GB, "
        f"{found['cache_a_token'] / 1e3:.0f} kB of cache a token)"
    )


def _of_graphs(folder: Path) -> tuple[int, int]:
    """As `activations`, of the graphs in `folder`."""
    decoder, vision = read_graph(folder / "decoder.onnx"), read_graph(folder / "vision.onnx")
    rows = {"batch": 1, "rows": 1, "image_tokens": SPAN}
    token = [live_bytes(decoder, rows | {"sequence": size, "max_length": size}) for size in (SPAN, 2 * SPAN)]
    patch = [live_bytes(vision, {"patches": size}) for size in (4 * SPAN, 8 * SPAN)]
    return (token[1] - token[0]) // SPAN, (patch[1] - patch[0]) // (4 * SPAN)
