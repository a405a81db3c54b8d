"""Says before any work what a recipe would build, and what is wrong with it: from configs and headers, in seconds."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.layers import decoder_groups
from shipvlm.families.qwen3_vl.shape import Shape, read_shape
from shipvlm.folder import check_folder, weight_files
from shipvlm.ignore import split_layers
from shipvlm.lock import check_finished
from shipvlm.plan_checks import (
    Merging,
    Problem,
    awaited,
    data_problems,
    fetch_problems,
    merge_problems,
    target_problems,
)
from shipvlm.recipe import Recipe
from shipvlm.schemes import DEVICES, RUNTIMES, SCALES, lookup
from shipvlm.sizes import FLOAT_BYTES, Header, check_tensors, quantized_bytes, side_bytes

LIBRARIES_BYTES = 600e6  # torch, transformers and onnxruntime in memory, before any model
# Measured at the height of a stage, libraries left out, with a checkpoint of 260 million parameters in one file: in
# multiples of its float32 bytes, calibrating or running it quantized, and converting it with parity; in multiples of
# the bytes of its file, packing weights.
RUN_TIMES, CONVERT_TIMES, PACK_TIMES = 1.75, 2.1, 2.6
# Measured on one layer (12288 x 4096): in multiples of its float32 bytes, for two DoRA; one LoRA takes 3.5.
MERGE_TIMES = 6.5


@dataclass(frozen=True)
class Step:
    """One stage: its folder, what it makes there, bytes on disk, and the memory that it needs at its height."""

    name: str
    folder: str
    makes: str
    disk_bytes: int
    memory_bytes: int


def plan(
    recipe: Recipe,
    out: Path,
    records: Mapping[str, int | str | None],
    until: str = "bench",
    merging: Merging | str | None = None,
) -> dict[str, Any]:
    """What `shipvlm run` would do with `recipe` and `out`, as JSON.

    `until` is the last stage to run. `records`: for each data set that the recipe names its number of records, None
    where that takes reading it, or the reason why it cannot be had. `merging`: the same of the recipe's adapters, None
    when it has none. Sizes are computed from the headers; memory is an estimate. Of a checkpoint that is still to be
    fetched nothing is known. Problems come sorted, those that stop the run first. Nothing is raised for a bad recipe,
    that is what is reported.
    """
    target = lookup(recipe.quantize.scheme, recipe.target.runtime, recipe.target.device)
    problems = [*target_problems(recipe, target), *data_problems(recipe, records)]
    problems += [*fetch_problems(recipe.model, until), *merge_problems(merging)]
    model, steps = None, []
    if not awaited(recipe.model):
        try:
            shape, headers = _read(recipe.model.path)
        except InputError as error:
            problems.append(Problem("model.path", str(error)))
        else:
            layers, wrong = _layers(recipe, shape, headers)
            problems += wrong
            model = _describe(recipe, shape, headers, layers)
            steps = _steps(recipe, headers, layers, until, merging)
            problems += _machine_problems(steps, out)
    return {
        "schema_version": 1,
        "recipe": recipe.model_dump(mode="json"),
        "out": str(out),
        "model": model,
        "stages": [asdict(step) for step in steps],
        "target": {**asdict(target), "devices": [recipe.target.device]},
        "loads_in": [
            {"runtime": runtime, "device": device, "verdict": line.verdict, "reason": line.reason}
            for runtime in RUNTIMES
            for device in DEVICES
            for line in [lookup(recipe.quantize.scheme, runtime, device)]
        ],
        "problems": [asdict(problem) for problem in sorted(problems, key=lambda problem: not problem.stops)],
    }


def _read(folder: Path) -> tuple[Shape, dict[str, Header]]:
    """The shape and the tensors of a checkpoint. Raises `InputError` for one that is no source of a build."""
    check_finished(folder)
    config = check_folder(folder)
    if "quantization_config" in config:
        raise InputError(f"{folder}: is quantized already; start from its 16- or 32-bit original")
    shape = read_shape(config)
    return shape, check_tensors(folder, shape)


def _layers(recipe: Recipe, shape: Shape, headers: Mapping[str, Header]) -> tuple[dict[str, Header], list[Problem]]:
    """The Linears that become integers, and what is wrong with the choice of them."""
    scheme, groups = recipe.quantize.scheme, decoder_groups(shape.text.layers)
    problems = []
    try:
        groups, _ = split_layers(groups, recipe.quantize.ignore)
    except InputError as error:
        problems.append(Problem("quantize.ignore", str(error)))
    layers = {name: headers[f"{name}.weight"] for group in groups for name in group}
    if columns := SCALES[scheme].group:
        odd = [f"{name} ({header.shape[1]})" for name, header in layers.items() if header.shape[1] % columns]
        if odd:
            more = f" and {len(odd) - 1} more layers" if len(odd) > 1 else ""
            message = f"groups of {columns} columns do not divide the width of {odd[0]}{more}; take w8a16"
            problems.append(Problem("quantize.scheme", message))
    return layers, problems


def _steps(
    recipe: Recipe,
    headers: Mapping[str, Header],
    layers: Mapping[str, Header],
    until: str,
    merging: Merging | str | None,
) -> list[Step]:
    if until == "fetch":
        return []
    scheme, side = recipe.quantize.scheme, side_bytes(recipe.model.path)
    whole = sum(header.values * FLOAT_BYTES[header.dtype] for header in headers.values()) + side
    small = quantized_bytes(headers, layers, SCALES[scheme]) + side
    floats = 4 * sum(header.values for header in headers.values())
    largest = max(path.stat().st_size for path in weight_files(recipe.model.path))
    run, convert, pack = (
        round(LIBRARIES_BYTES + height) for height in (RUN_TIMES * floats, CONVERT_TIMES * floats, PACK_TIMES * largest)
    )
    steps = []
    if isinstance(merging, Merging):
        merge = round(LIBRARIES_BYTES + MERGE_TIMES * 4 * merging.largest)
        steps.append(Step("merge", "merged", "checkpoint, its adapters merged", whole, merge))
    steps.append(
        Step("quantize", "quantized", f"checkpoint, {scheme}", small, run if SCALES[scheme].activations else pack)
    )
    if recipe.convert and until != "quantize":
        precision = recipe.convert.precision
        steps.append(Step("baseline", "onnx-baseline", f"graphs of the original, {precision}", whole, convert))
        steps.append(Step("convert", "artifact", f"graphs, {scheme} {precision}", small, convert))
    return [*steps, Step("bench", "report", "report", 0, run)] if until == "bench" else steps


def _describe(
    recipe: Recipe, shape: Shape, headers: Mapping[str, Header], layers: Mapping[str, Header]
) -> dict[str, Any]:
    text = shape.text
    return {
        "parameters": sum(header.values for header in headers.values()),
        "stored_bytes": sum(header.values * FLOAT_BYTES[header.dtype] for header in headers.values()),
        "types": sorted({header.dtype for header in headers.values()}),
        "decoder_layers": text.layers,
        "deepstack_levels": len(shape.vision.deepstack),
        "quantized_linears": len(layers),
        "quantized_share": sum(header.values for header in layers.values()) / sum(h.values for h in headers.values()),
        # Of the graphs, which keep it in the type that they compute in.
        "kv_cache_bytes_a_token": 2
        * text.layers
        * text.kv_heads
        * text.head_dim
        * (2 if recipe.convert is None or recipe.convert.precision == "fp16" else 4),
    }


def _machine_problems(steps: list[Step], out: Path) -> list[Problem]:
    there = next(folder for folder in [out.absolute(), *out.absolute().parents] if folder.exists())
    free, needed = shutil.disk_usage(there).free, sum(step.disk_bytes for step in steps)
    problems = []
    if needed > free:
        problems.append(Problem("-o", f"{there}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if large := [step for step in steps if step.memory_bytes > memory]:
        needs = ", ".join(f"{step.name} needs about {step.memory_bytes / 1e9:.0f} GB" for step in large)
        message = f"{needs} of memory, this machine has {memory / 1e9:.0f} GB; take a machine with more"
        if "quantize" in (before := [step.name for step in steps[: steps.index(large[0])]]):
            message += f", or end before it: shipvlm run --until {before[-1]}"
        problems.append(Problem("model.path", message))
    return problems
