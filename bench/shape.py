"""Times decoder graphs of one shape with random weights beside each other: how fast a size would be, without it.

All are loaded in one process and take turns, there and back (A B B A ...). A round gives one ratio for each part; the
result is their median with its exact 95 % interval. Only the layers in the graphs are timed, with the head after
them: no time of a whole model is computed from that. Where the rounds were disturbed (bench.conditions) the result
says by what, and its ratios are AMBIGUOUS.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from bench import conditions
from bench.environment import describe_weights, machine, stack
from bench.timing import median_of
from bench.words import judged, megabytes, milliseconds, ratio
from shipvlm.families.qwen3_vl.shape import Shape
from shipvlm.runtime.decoder import GraphDecoder
from shipvlm.runtime.graphs import load_decoder
from shipvlm.runtime.inputs import Batch
from shipvlm.stages import Progress

WARMUP = 2  # rounds before the clock counts
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
    """Times the decoder graphs in `folders`, by name, the first of them the baseline: one request of random tokens
    without a picture, on the CPU. `shape` is that of the graphs; size `name` has `total_layers`.

    Returns for each name `seconds` of each part (prefill; decode: one step), and for each but the baseline `ratio`,
    baseline / other: medians over rounds with n, value, low and high (null under 6 rounds); the rounds, whether they
    were `clean`, or the `reasons`, their conditions, the machine.
    Raises as `shipvlm.runtime.graphs.load_decoder`.
    """
    baseline, *others = folders
    decoders = {key: load_decoder(folder, shape, threads=threads) for key, folder in folders.items()}
    ids = np.random.default_rng(0).integers(0, shape.text.vocab, prompt_tokens)
    ids[ids == shape.image_token_id] = 0
    measured: list[dict[str, Seconds]] = []
    watch = conditions.Watch("cpu")
    for number in range(-WARMUP, rounds):
        order = list(folders) if number % 2 == 0 else [*others[::-1], baseline]
        if number == 0:
            watch.go()
        times = {key: _once(decoders[key], ids, decode_tokens) for key in order}
        if number >= 0:
            measured.append(times)
        if progress:
            progress(f"time {name}", WARMUP + number + 1, WARMUP + rounds)
    watch.pause()
    seen = watch.conditions()
    reasons = conditions.disturbed(seen)
    parts = list(measured[0][baseline])
    return {
        "schema_version": 3,
        "name": name,
        "layers": shape.text.layers,
        "total_layers": total_layers,
        "prompt_tokens": prompt_tokens,
        "decode_tokens": decode_tokens,
        "threads": threads,
        "machine": machine(),
        "libraries": stack(),
        "weights": {key: describe_weights(folder) for key, folder in folders.items()},
        "seconds": {
            key: {part: median_of([times[key][part] for times in measured]).as_dict() for part in parts}
            for key in folders
        },
        "ratio": {
            key: {
                part: median_of([times[baseline][part] / times[key][part] for times in measured]).as_dict()
                for part in parts
            }
            for key in others
        },
        "rounds": measured,
        "clean": not reasons,
        "reasons": list(reasons),
        "conditions": seen.model_dump(mode="json"),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The result as one table, and what it is of."""
    baseline, *others = seconds = result["seconds"]
    table = [["", f"{baseline}, ms"], ["---"] * 2]
    table += [[part, milliseconds(found)] for part, found in seconds[baseline].items()]
    for key in others:
        table[0] += [f"{key}, ms", "speed-up"]
        table[1] += ["---"] * 2
        for row in table[2:]:
            found = result["ratio"][key][row[0]]
            words = ratio(found) if result["clean"] else judged({"word": "AMBIGUOUS", **found})
            row += [milliseconds(seconds[key][row[0]]), words]
    files = ", ".join(f"{key} {megabytes(entry['bytes'])} MB" for key, entry in result["weights"].items())
    caption = (
        f"{result['name']}, {result['layers']} of its {result['total_layers']} decoder layers and the head, which "
        f"counts more beside fewer layers; random weights. {result['prompt_tokens']} tokens of prompt, batch 1, on "
        f"{result['machine']['cpu']}, {result['machine']['cores']} cores. Files: {files}. "
        f"Speed-up: against {baseline}. Brackets: 95 % interval over alternating rounds of one run."
    )
    said = [] if result["clean"] else [f"AMBIGUOUS, the rounds were disturbed: {'; '.join(result['reasons'])}.", ""]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in table), "", *said, caption]) + "\n"


def _once(decoder: GraphDecoder, ids: np.ndarray, steps: int) -> Seconds:
    batch = Batch((ids,), ((),), np.zeros((0, 0), np.float32))
    start = perf_counter()
    logits, decoding = decoder.prefill(batch, decoder.no_features(), steps)
    marks = [perf_counter()]
    for _ in range(steps):
        logits = decoding.step(logits.argmax(-1))
        marks.append(perf_counter())
    return {"prefill": marks[0] - start, "decode": median(np.diff(marks).tolist())}
