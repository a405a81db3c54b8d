"""The longest request, and the most requests at once, that fit into a memory: tried with one engine.

bench.capacity calculates this of checkpoints. What ONNX Runtime takes beside the weights of graphs is not calculated,
so there it is tried, with whole requests of one length. Sizes double in one fresh process (bench.fit_worker) until one
does not fit. What an engine takes depends on what it ran before, so that only says where to look: every size that is
reported was tried in a process of its own. From there on up or down, and then HALVINGS times the middle between the
largest that fitted and the smallest that did not.

An engine that has room takes more than it needs. So of a GPU all but the memory that is meant is taken first: the
engine meets the end of it, as on a card of that size.

No size is told that was not seen. Larger ones may fit all the same: ONNX Runtime's arena grows by powers of two, so
what it takes jumps, and may fall where more is asked.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench import capacity, process, smaller_card
from bench.environment import describe_weights, machine, model_digest, stack
from bench.fit_tries import FitJob, Tried, Try
from bench.job import Packed
from bench.markdown import lined
from bench.variants import Variant
from bench.words import size
from bench.workloads import CASES, ONE_AT_A_TIME, requests
from calib_data.records import Record
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.processor import load_processor
from shipvlm.runtime.inputs import encode
from shipvlm.stages import Say

MOST_ROWS = 1024
HALVINGS = 3
REASON = 160  # characters of what an engine says that are shown
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
) -> Iterator[dict[str, Any]]:
    """Tries what fits into `memory` bytes, with requests of a case of bench.workloads made of `record`.

    `context`: one request, of `most_tokens` or as many as the model reads at most; `batch`: requests of the case's
    length, up to MOST_ROWS. Of each `fits` and `fails`: the largest that fitted and the smallest that did not, as
    bench.fit_tries.Tried (null where there is none); and `limit`, what it ends at: `memory`, the `model`'s longest row,
    or what was `tried`. `taken`: bytes of the GPU that were kept from the engine. `calculated`: bench.capacity of the
    same, for a checkpoint on CUDA, else null. And what was measured on what. Gives the result twice: with `batch` null,
    and whole. `say` is told each try.

    Raises InputError for an unknown case and one with a batch, a checkpoint whose integers are only simulated, and
    lengths that the model does not read; as smaller_card.only; and what the engine's process raised.
    """
    if case not in ONE_AT_A_TIME:
        raise InputError(f"case {case!r}: give one of {', '.join(ONE_AT_A_TIME)}")
    if not variant.timed:
        raise InputError(
            f"{variant.folder}: transformers turns the integers of a quantized checkpoint into floats, which take as "
            "much as the original's: give the original, or the artifact"
        )
    needed = capacity.needs(variant.folder, variant.loaded_dtype, variant.engine)
    processor = load_processor(variant.folder)
    one = encode(processor, requests(CASES[case], [record], processor.tokenizer, ""))
    tokens, patches = len(one.input_ids[0]) + CASES[case].answer_tokens, math.prod(one.grids[0][0])
    if tokens > needed.max_length:
        raise InputError(f"case {case} takes {tokens} tokens, and {variant.folder} reads {needed.max_length}")
    most = needed.max_length if most_tokens is None else most_tokens
    if not tokens <= most <= needed.max_length:
        raise InputError(f"{most} tokens: give from {tokens}, of case {case}, to {needed.max_length}, the model's most")
    job = FitJob(
        **variant.opening,
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
            if not tried.fits:
                return  # how a process ends that got no memory is its own affair

    room = None
    if needed.activations and variant.device == "cuda":
        room = capacity.capacity(needed, memory, context=tokens, patches=patches)
    end = "model" if most == needed.max_length else "tried"
    with smaller_card.only(memory, variant.device) as taken:
        found = {
            "schema_version": 1,
            "variant": variant.name,
            "engine": variant.engine,
            "device": variant.device,
            "digest": model_digest(variant.folder),
            "weights": describe_weights(variant.folder),
            "memory": memory,
            "taken": taken,
            "case": CASES[case].model_dump(),
            "tokens": tokens,
            "patches": patches,
            "max_length": needed.max_length,
            "context": largest(tries, lambda n: Try(rows=1, tokens=n), tokens, most, end),
            "batch": None,
            "calculated": room,
            "command": command,
            "machine": machine(),
            "libraries": stack(),
        }
        yield found
        yield found | {"batch": largest(tries, lambda n: Try(rows=n, tokens=tokens), 1, MOST_ROWS, "tried")}


def largest(tries: Tries, make: Callable[[int], Try], least: int, most: int, end: str) -> dict[str, Any]:
    """The largest of `make(least)` to `make(most)` that was seen to fit, the smallest above it that was seen not to,
    and `limit`: `memory`, or `end` where `most` fits."""
    fits: dict[int, Tried] = {}
    fails: dict[int, Tried] = {}

    def fit(number: int) -> bool:
        (tried,) = tries([make(number)])
        (fits if tried.fits else fails)[number] = tried
        return tried.fits

    sizes = doubled(least, most)
    place = max(0, sum(tried.fits for tried in tries([make(number) for number in sizes])) - 1)
    while not fit(sizes[place]) and place:
        place -= 1
    while not fails and place + 1 < len(sizes):
        place += 1
        fit(sizes[place])
    for _ in range(HALVINGS):
        if fits and fails and max(fits) + 1 < min(fails):
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
    return f"{asked}: does not fit ({tried.reason[:REASON] or size(tried.peak)})"


def markdown(found: dict[str, Any]) -> str:
    """A result of `measure_fit`, for a terminal or a page."""
    where = f"{found['variant']} on {found['device']} in {size(found['memory'])}"
    picture = f"a picture of {found['case']['width']} x {found['case']['height']}"
    rows = [
        ("longest request, tokens", found["context"], "tokens"),
        (f"requests of {found['tokens']:,} tokens at once", found["batch"], "rows"),
    ]
    cells = [[name, _fits(each, unit), _peak(each), _fails(each, unit)] for name, each, unit in rows if each]
    lines = [
        f"{where}, each request with {picture}",
        "",
        lined([["", "seen to fit", "memory", "seen not to fit"], *cells]),
    ]
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
