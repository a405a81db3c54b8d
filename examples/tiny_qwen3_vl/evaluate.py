"""Every number of the model card, from one command:

    python -m examples.tiny_qwen3_vl.evaluate

Scores on the shipped evaluation and held-out sets, the public easy-VQA test with and without its pictures, what
DeepStack, picture size and M-RoPE positions are worth, and whether rounding the weights ever more coarsely shows.
Answers are kept in build/, so a run continues where it was cut off. On a machine that is busy with other work set
OMP_WAIT_POLICY=PASSIVE: torch's threads otherwise wait for each other by spinning, and a run takes many times longer.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers.utils import logging

from bench import accuracy
from bench.accuracy import BATCH_SIZE, MAX_NEW_TOKENS, ItemResult, progress_bar
from bench.environment import (
    describe_data,
    describe_weights,
    libraries,
    machine,
    model_digest,
    run_key,
)
from bench.plan import sample
from bench.together import measure, summarise
from bench.vision import shared_vision
from calib_data.load import load_records
from calib_data.records import digest
from examples.tiny_qwen3_vl.ablations import with_coarse_pictures, with_text_positions, without_deepstack
from examples.tiny_qwen3_vl.failures import save_failures
from examples.tiny_qwen3_vl.public_benchmark import easy_vqa_test
from examples.tiny_qwen3_vl.verdict import ROUNDED, verdict
from quantize.rtn import round_to_nearest
from shipvlm.errors import ShipvlmError
from shipvlm.runtime.checkpoint import Checkpoint, load

FOLDER = Path(__file__).parent
BUILD = Path("build/tiny_qwen3_vl")
BASELINE = "fp32"
ABLATIONS: dict[str, Callable[[Checkpoint], Checkpoint]] = {
    "no-deepstack": without_deepstack,
    "text-positions": with_text_positions,
    "coarse-pictures": with_coarse_pictures,
}


def evaluate(
    folder: Path,
    out: Path,
    build: Path = BUILD,
    limit: int | None = None,
    ablation_items: int = 100,
    easy_vqa: bool = True,
) -> dict[str, Any]:
    """Measures the checkpoint in `folder`; writes `out` (JSON) and pictures of failures beside it; returns the JSON.

    `limit` records a task of each set (all when None), `ablation_items` records a task for the ablations.
    """
    checkpoint = load(folder)
    identity = model_digest(folder)
    sets = {name: load_records(name) for name in ("calibration", "evaluation", "heldout")}
    used = {name: sample(sets[name], limit) for name in ("evaluation", "heldout")}
    settings = json.dumps([BATCH_SIZE, MAX_NEW_TOKENS, libraries()])
    keys = {name: partial(run_key, identity, digest(sets[name]), settings) for name in used}

    def run(which: str, checkpoints: Mapping[str, Checkpoint], limit: int | None = None) -> dict[str, list[ItemResult]]:
        runs = {name: keys[which](name) for name in checkpoints}
        models = [each.model for each in checkpoints.values()]
        with progress_bar() as progress, shared_vision(models):
            return measure(
                checkpoints, sample(used[which], limit), build / which, runs, BATCH_SIZE, MAX_NEW_TOKENS, progress
            )

    rounded = run("evaluation", {BASELINE: checkpoint, **{name: _rounded(folder, name) for name in ROUNDED}})
    removed = {BASELINE: checkpoint, **{name: change(checkpoint) for name, change in ABLATIONS.items()}}
    ablated = run("evaluation", removed, ablation_items)
    unseen = run("heldout", {BASELINE: checkpoint})
    public = easy_vqa_test(checkpoint, build, partial(run_key, identity, settings), limit) if easy_vqa else None
    rows = {name: summarise(items, rounded[BASELINE]) for name, items in rounded.items()}
    results = {
        "schema_version": 1,
        "limit": limit,
        "checkpoint": {
            "digest": identity,
            "parameters": sum(parameter.numel() for parameter in checkpoint.model.parameters()),
            "weights": describe_weights(folder),
        },
        "data": {name: describe_data(records) for name, records in sets.items()},
        "evaluation": scores(rounded[BASELINE]),
        "heldout": scores(unseen[BASELINE]),
        "easy_vqa_test": public,
        "ablations": {name: summarise(items, ablated[BASELINE]) for name, items in ablated.items()},
        "quantization": {"rows": rows, "verdict": verdict(rows)},
        "failures": save_failures(rounded[BASELINE], used["evaluation"], out.parent / "failures"),
        "machine": machine(),
        "libraries": libraries(),
    }
    out.write_text(json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return results


def scores(items: Sequence[ItemResult]) -> dict[str, Any]:
    """By task, the easy-VQA rows apart from the other questions; and by source."""
    return {
        "tasks": accuracy.summarise(items, _task),
        "sources": accuracy.summarise(items, lambda item: f"{item.task} {item.source}"),
    }


def _task(item: ItemResult) -> str:
    if item.task != "vqa":
        return item.task
    return "vqa (easy-VQA)" if item.source == "easy-vqa" else "vqa (scenes)"


def _rounded(folder: Path, name: str) -> Checkpoint:
    checkpoint = load(folder)
    round_to_nearest(checkpoint.model, *ROUNDED[name])
    return checkpoint


def main(
    limit: Annotated[int | None, typer.Option(min=1, help="Records a task, for a quick look.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: results.json here; with --limit, in build/.")] = None,
    model: Annotated[Path, typer.Option(help="Checkpoint folder.")] = FOLDER,
    easy_vqa_full: Annotated[bool, typer.Option(help="The public easy-VQA test (package easy-vqa).")] = True,
) -> None:
    """Measure the default model: every number of its card."""
    if out is None:
        out = FOLDER / "results.json" if limit is None else BUILD / "results.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    start = time.perf_counter()
    try:
        results = evaluate(model, out, limit=limit, easy_vqa=easy_vqa_full)
    except ShipvlmError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    print(json.dumps(results["quantization"]["verdict"], indent=2))
    print(f"{out}: {(time.perf_counter() - start) / 60:.1f} minutes; the card: python -m examples.tiny_qwen3_vl.card")


if __name__ == "__main__":
    typer.run(main)
