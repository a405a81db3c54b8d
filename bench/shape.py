"""Times two decoder graphs of one shape with random weights beside each other: how fast a size would be, without it.

Both are loaded in one process and take turns, there and back (A B B A ...). A round gives one ratio for each part; the
result is their median with its exact 95 % interval.

A few layers stand for all of them. With p and d the seconds of prefill and of one decode step, t those of one token
through the layers alone, without the head, and L of the size's N layers in the graph:

    head = d - t        prefill of all layers = (p - head) N / L + head        decode likewise
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np

from bench.environment import LIBRARIES, RUNTIMES, describe_weights, libraries, machine
from bench.table import megabytes, milliseconds, ratio
from bench.timing import median_of
from shipvlm.families.qwen3_vl.shape import Shape
from shipvlm.runtime.decoder import GraphDecoder
from shipvlm.runtime.graphs import load_decoder
from shipvlm.runtime.inputs import Batch
from shipvlm.stages import Progress

WARMUP = 2  # rounds before the clock counts
PAUSE = 0.02  # seconds in which the threads of the model that ran before stop spinning
Seconds = dict[str, float]


def measure_shape(
    folders: Mapping[str, Path],
    shape: Shape,
    *,
    name: str,
    total_layers: int,
    prompt_tokens: int = 256,
    decode_tokens: int = 16,
    rounds: int = 10,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Times the decoder graphs in two `folders`, by name, the first of them the baseline: one request of random tokens
    without a picture, on the CPU. `shape` is that of the graphs; size `name` has `total_layers`.

    Returns `seconds` of each part (prefill, decode: one step; both also of all layers) for each name, `ratio` baseline
    / other, each a median over rounds with n, value, low and high (null under 6 rounds); the rounds, the machine.
    Raises as `shipvlm.runtime.graphs.load_decoder`.
    """
    baseline, other = folders
    decoders = {key: load_decoder(folder, shape, threads=threads) for key, folder in folders.items()}
    ids = np.random.default_rng(0).integers(0, shape.text.vocab, prompt_tokens)
    ids[ids == shape.image_token_id] = 0
    measured: list[dict[str, Seconds]] = []
    for number in range(-WARMUP, rounds):
        order = [baseline, other] if number % 2 == 0 else [other, baseline]
        times = {key: _once(decoders[key], ids, decode_tokens, total_layers) for key in order}
        if number >= 0:
            measured.append(times)
        if progress:
            progress(f"time {name}", WARMUP + number + 1, WARMUP + rounds)
    parts = list(measured[0][baseline])
    return {
        "schema_version": 1,
        "name": name,
        "layers": shape.text.layers,
        "total_layers": total_layers,
        "prompt_tokens": prompt_tokens,
        "decode_tokens": decode_tokens,
        "threads": threads,
        "machine": machine(),
        "libraries": libraries([*LIBRARIES, *RUNTIMES]),
        "weights": {key: describe_weights(folder) for key, folder in folders.items()},
        "seconds": {
            key: {part: median_of([times[key][part] for times in measured]).as_dict() for part in parts}
            for key in folders
        },
        "ratio": {
            part: median_of([times[baseline][part] / times[other][part] for times in measured]).as_dict()
            for part in parts
        },
        "rounds": measured,
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The result as one table, and what it is of."""
    baseline, other = result["seconds"]
    rows = [
        f"| {part} | {milliseconds(result['seconds'][baseline][part])} | "
        f"{milliseconds(result['seconds'][other][part])} | {ratio(found)} |"
        for part, found in result["ratio"].items()
    ]
    files = ", ".join(f"{key} {megabytes(entry['bytes'])} MB" for key, entry in result["weights"].items())
    caption = (
        f"{result['name']}, {result['layers']} of its {result['total_layers']} decoder layers and the head, random "
        f"weights; 'of all layers' is computed from that. {result['prompt_tokens']} tokens of prompt, batch 1, on "
        f"{result['machine']['cpu']}, {result['machine']['cores']} cores. Files: {files}. Brackets: 95 % interval over "
        "alternating rounds of one run."
    )
    return "\n".join([f"| | {baseline}, ms | {other}, ms | speed-up |", "|---|---|---|---|", *rows, "", caption]) + "\n"


def _once(decoder: GraphDecoder, ids: np.ndarray, steps: int, total_layers: int) -> Seconds:
    sleep(PAUSE)
    start = perf_counter()
    logits, decoding = decoder.prefill(_prompt(ids), decoder.no_features(), steps)
    prefill = perf_counter() - start
    marks = [perf_counter()]
    for _ in range(steps):
        logits = decoding.step(logits.argmax(-1))
        marks.append(perf_counter())
    decode = median(np.diff(marks).tolist())
    head = max(0.0, decode - median(_layers_alone(decoder, ids[:1]) for _ in range(steps)))
    scale = total_layers / decoder.shape.text.layers
    return {
        "prefill": prefill,
        "decode": decode,
        "prefill of all layers": (prefill - head) * scale + head,
        "decode of all layers": (decode - head) * scale + head,
    }


def _layers_alone(decoder: GraphDecoder, ids: np.ndarray) -> float:
    """Seconds of one token through the layers, no logits asked for."""
    start = perf_counter()
    decoder.prefill(_prompt(ids), decoder.no_features(), 0, [[]])
    return perf_counter() - start


def _prompt(ids: np.ndarray) -> Batch:
    return Batch((ids,), ((),), np.zeros((0, 0), np.float32))
