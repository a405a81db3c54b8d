"""Hold a graph set against the checkpoint that it was made from, rung by rung, on real pictures.

The checkpoint runs first, on transformers in FP32, and is let go; then the graphs are forced along its words. What is
kept in between are its numbers: for each token of the prompts 4 bytes x (vocabulary + what the KV cache has of it).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calib_data.records import Record
from convert.cases import make_cases
from convert.engines import (
    answer_lengths,
    changes_without_levels,
    compare_answers,
    compare_engines,
    distance,
    greedy,
    record_answers,
    record_traces,
    rounding_noise,
)
from convert.ladder import (
    ANSWERS,
    PREFILL,
    Kind,
    ParityError,
    ablation_rung,
    answers_rung,
    broken,
    greedy_rung,
    numbers_rung,
    tokens_needed,
)
from convert.measures import joined
from convert.quantized import scheme_of
from shipvlm.errors import InputError
from shipvlm.folder import GRAPHS, check_folder
from shipvlm.recipe import ParitySection
from shipvlm.runtime.model import open_model
from shipvlm.stages import Progress


def check_parity(
    source: Path,
    graphs: Path,
    records: Sequence[Record],
    section: ParitySection,
    progress: Progress,
    reference: Path | None = None,
) -> dict[str, Any]:
    """Compare the graph set `graphs` with the checkpoint `source`, on `section.items` of the records for every rung.

    Which rungs must hold what is in `convert.ladder.GATES`. Where top-1 agreement decides (INT8, FP16), answers to
    further records are compared until there are enough tokens. With `reference`, the checkpoint that `source` was
    quantized from, its distance to `source` is told too; here it is judged by nothing.

    Returns the ladder as JSON: no times, no paths, 6 significant digits. Raises `ParityError`, which names the first
    rung that does not hold and has the whole ladder; `InputError` when `graphs` were made of another checkpoint, or
    there is no record.
    """
    kind = _kind(source, graphs)
    cases, more = make_cases(records, section.items)
    words = section.decode_steps + 1

    model = open_model(source)
    traces = record_traces(model, cases, words, progress)
    # Every other case is enough to know how large the noise is, and the distance to the reference.
    noise = rounding_noise(model, cases[::2], traces[::2], progress) if kind == "int8" else {}
    answers = []
    if kind != "fp32":
        found = sum(sum(answer_lengths(taken, model.end_ids)) for taken in traces[:-1])
        answers = record_answers(model, more, words, tokens_needed(section.top1_min) - found, progress)
    del model

    model = open_model(graphs)
    measured = compare_engines(model, cases, traces, "parity: graphs", progress)
    spoken = measured.pop(ANSWERS)
    del spoken[cases[-1].name]  # the batch repeats what was asked alone
    forced = compare_answers(model, answers, progress)
    changes = changes_without_levels(model, cases[0], traces[0])
    chosen = greedy(model, cases, traces)
    del model

    rungs = []
    for name, parts in measured.items():
        rungs.append(numbers_rung(name, parts, noise.get(name, {}), kind, section))
        if name == PREFILL and changes:
            rungs.append(ablation_rung(changes))
    rungs.append(greedy_rung(chosen, kind))
    if kind != "fp32":
        rungs.append(answers_rung(joined([*spoken.values(), *forced]), section))
    problem = broken(rungs)
    ladder: dict[str, Any] = {
        "kind": kind,
        "cases": [case.name for case in cases],
        "passed": problem is None,
        "rungs": rungs,
    }
    if reference is not None:
        ladder["reference"] = distance(open_model(reference), cases[::2], traces[::2], progress)
    if problem:
        raise ParityError(problem, ladder)
    return ladder


def _kind(source: Path, graphs: Path) -> Kind:
    config = check_folder(source)
    if (source / "config.json").read_bytes() != (graphs / "config.json").read_bytes():
        raise InputError(f"{graphs}: its config.json is not that of {source}; convert that checkpoint again")
    if json.loads((graphs / GRAPHS).read_text(encoding="utf-8"))["precision"] == "fp16":
        return "fp16"
    scheme = scheme_of(config)
    return "int8" if scheme and scheme.static else "fp32"
