"""The longest request, and the most requests at once, that fit into a memory: tried with one engine.

bench.capacity calculates this of checkpoints. What ONNX Runtime takes beside the weights of graphs is not calculated,
so there it is tried: a picture through the tower, a prompt through the decoder, and one decode step. Sizes double in
one fresh process (bench.fit_worker) until one does not fit. What an engine keeps of earlier tries counts there too, so
from that size on each try has a process of its own: upwards if it does fit alone, else thrice the middle between the
largest that fitted and the smallest that did not. A result is a size that was seen to fit, at most an eighth too small.

What counts is `bench.memory.peak`. An engine that has room takes more than it needs: on a smaller card, of which the
memory here is a part, somewhat more may fit than is said.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench import capacity, process
from bench.environment import describe_weights, machine, model_digest, stack
from bench.fit_tries import NEW, FitJob, Tried, Try
from bench.job import Packed
from bench.markdown import lined
from bench.variants import Variant
from bench.words import size
from bench.workloads import CASES, requests
from calib_data.records import Record
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.processor import load_processor
from shipvlm.runtime.inputs import encode
from shipvlm.stages import Say

MOST_ROWS = 1024
HALVINGS = 3
Tries = Callable[[Sequence[Try]], Iterator[Tried]]


def measure_fit(
    variant: Variant,
    record: Record,
    *,
    memory: int,
    case: str = "vqa-small",
    most_tokens: int | None = None,
    command: str = "",
    say: Say | None = None,
) -> dict[str, Any]:
    """Tries what fits into `memory` bytes, with requests of a case of bench.workloads made of `record`.

    `context`: one request, of `most_tokens` or as many as the model reads at most; `batch`: requests of the case's
    length, up to MOST_ROWS. Of each `fits` and `fails`: the largest that fitted and the smallest that did not, as
    bench.fit_tries.Tried (null where there is none); and `limit`, what it ends at: `memory`, the `model`'s longest row,
    or what was `tried`.
    `calculated`: bench.capacity of the same, for a checkpoint on CUDA, else null. And what was measured on what.
    `say` is told each try. Raises InputError for an unknown case and one that is longer than the model reads, and what
    the engine's process raised.
    """
    if case not in CASES:
        raise InputError(f"case {case!r} is none: give one of {', '.join(CASES)}")
    dtype = variant.dtype or ("float32" if variant.device == "cpu" else None)
    needed = capacity.needs(variant.folder, dtype, variant.engine)
    processor = load_processor(variant.folder)
    one = encode(processor, requests(CASES[case], [record], processor.tokenizer, ""))
    shortest, patches = len(one.input_ids[0]), math.prod(one.grids[0][0])
    tokens = shortest + CASES[case].answer_tokens
    if tokens > needed.max_length:
        raise InputError(f"case {case} takes {tokens} tokens, and {variant.folder} reads {needed.max_length}")
    most = min(needed.max_length, max(tokens, most_tokens or needed.max_length))
    job = FitJob(
        folder=variant.folder.resolve(),
        engine=variant.engine,
        device=variant.device,
        dtype=variant.dtype,
        memory=memory,
        case=CASES[case],
        record=Packed(**dict(record)),
        tries=(),
    )

    def tries(asked: Sequence[Try]) -> Iterator[Tried]:
        named = job.model_copy(update={"tries": tuple(asked)})
        for line in process.lines("bench.fit_worker", named, f"fit of {variant.name}"):
            tried = Tried.model_validate_json(line)
            if say:
                say(words(tried))
            yield tried

    room = None
    if needed.activations and variant.device == "cuda":
        room = capacity.capacity(needed, memory, context=tokens, patches=patches)
    return {
        "schema_version": 1,
        "variant": variant.name,
        "engine": variant.engine,
        "device": variant.device,
        "digest": model_digest(variant.folder),
        "weights": describe_weights(variant.folder),
        "memory": memory,
        "case": CASES[case].model_dump(),
        "tokens": tokens,
        "patches": patches,
        "max_length": needed.max_length,
        "context": largest(
            tries,
            lambda n: Try(rows=1, tokens=n),
            shortest + NEW,
            most,
            "model" if most == needed.max_length else "tried",
        ),
        "batch": largest(tries, lambda n: Try(rows=n, tokens=tokens), 1, MOST_ROWS, "tried"),
        "calculated": room,
        "command": command,
        "machine": machine(),
        "libraries": stack(),
    }


def largest(tries: Tries, make: Callable[[int], Try], least: int, most: int, end: str) -> dict[str, Any]:
    """The largest of `make(least)` to `make(most)` that fits, within an eighth. Where `most` does, `limit` is `end`."""
    fits: dict[int, Tried] = {}
    fails: dict[int, Tried] = {}

    def fit(*numbers: int) -> bool:
        for number, tried in zip(numbers, list(tries([make(each) for each in numbers])), strict=False):
            (fits if tried.fits else fails)[number] = tried
        return not fails

    sizes = doubled(least, most)
    if not fit(*sizes) and fits:
        fails.clear()
        for number in sizes:
            if number > max(fits) and not fit(number):
                break
        for _ in range(HALVINGS):
            if fails and max(fits) + 1 < min(fails):
                fit((max(fits) + min(fails)) // 2)
    return {
        "fits": fits[max(fits)].model_dump() if fits else None,
        "fails": fails[min(fails)].model_dump() if fails else None,
        "limit": "memory" if fails else end,
    }


def doubled(least: int, most: int) -> list[int]:
    """least, twice that and so on, and `most`."""
    found = [least]
    while found[-1] < most:
        found.append(min(2 * found[-1], most))
    return found


def words(tried: Tried) -> str:
    """One try, for a terminal."""
    asked = f"{tried.rows:,} x {tried.tokens:,} tokens"
    if tried.fits:
        return f"{asked}: {size(tried.peak)}"
    return f"{asked}: does not fit ({tried.reason or size(tried.peak)})"


def markdown(found: dict[str, Any]) -> str:
    """A result of `measure_fit`, for a terminal or a page."""
    where = f"{found['variant']} on {found['device']} in {size(found['memory'])}"
    picture = f"a picture of {found['case']['width']} x {found['case']['height']}"
    rows = [
        ("longest request, tokens", found["context"], "tokens"),
        (f"requests of {found['tokens']:,} tokens at once", found["batch"], "rows"),
    ]
    cells = [[name, _fits(each, unit), _peak(each), _fails(each, unit)] for name, each, unit in rows]
    lines = [f"{where}, each request with {picture}", "", lined([["", "fits", "memory", "does not fit"], *cells])]
    if room := found["calculated"]:
        lines += [
            "",
            f"Calculated: {room['largest_context']:,} tokens; {room['largest_batch']:,} at once, with "
            f"{size(room['reserve'])} set aside.",
        ]
    return "\n".join(lines) + "\n"


def _fits(each: dict[str, Any], unit: str) -> str:
    if each["fits"] is None:
        return "none"
    end = {"memory": "", "model": ", the model's most", "tried": ", more was not tried"}[each["limit"]]
    return f"{each['fits'][unit]:,}{end}"


def _peak(each: dict[str, Any]) -> str:
    return size(each["fits"] and each["fits"]["peak"])


def _fails(each: dict[str, Any], unit: str) -> str:
    return f"{each['fails'][unit]:,}" if each["fails"] else "-"
