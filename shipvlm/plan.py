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
from shipvlm.recipe import Recipe
from shipvlm.schemes import DEVICES, RUNTIMES, SCALES, Line, lookup, nearest
from shipvlm.sizes import FLOAT_BYTES, Header, check_tensors, quantized_bytes, side_bytes

GRAPH_RUNTIMES = ("onnxruntime", "tensorrt-rtx")
LIBRARIES_BYTES = 600e6  # torch, transformers and onnxruntime in memory, before any model
# Measured at the height of a stage, libraries left out, with a checkpoint of 260 million parameters in one file: in
# multiples of its float32 bytes, calibrating or running it quantized, and converting it with parity; in multiples of
# the bytes of its file, packing weights.
RUN_TIMES, CONVERT_TIMES, PACK_TIMES = 1.75, 2.1, 2.6


@dataclass(frozen=True)
class Problem:
    """What is wrong, where in the recipe, and whether it stops the run."""

    where: str
    message: str
    stops: bool = True


@dataclass(frozen=True)
class Step:
    """One stage: its folder, what it makes there, bytes on disk, and the memory that it needs at its height."""

    name: str
    folder: str
    makes: str
    disk_bytes: int
    memory_bytes: int


def plan(recipe: Recipe, out: Path, records: Mapping[str, int | str | None], until: str = "bench") -> dict[str, Any]:
    """What `shipvlm run` would do with `recipe` and `out`, as JSON.

    `until` is the last stage to run. `records`: for each data set that the recipe names its number of records, None
    where that takes reading it, or the reason why it cannot be had. Sizes are computed from the headers; memory is an
    estimate. Problems come sorted, those that stop the run first. Nothing is raised for a bad recipe, that is what is
    reported.
    """
    target = lookup(recipe.quantize.scheme, recipe.target.runtime, recipe.target.device)
    problems = [*_target_problems(recipe, target), *_data_problems(recipe, records)]
    model, steps = None, []
    try:
        config = check_folder(recipe.model.path)
        if "quantization_config" in config:
            raise InputError(f"{recipe.model.path}: is quantized already; start from its 16- or 32-bit original")
        shape = read_shape(config)
        headers = check_tensors(recipe.model.path, shape)
    except InputError as error:
        problems.append(Problem("model.path", str(error)))
    else:
        layers, wrong = _layers(recipe, shape, headers)
        problems += wrong
        steps = _steps(recipe, headers, layers, until)
        model = _describe(recipe, shape, headers, layers)
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


def _target_problems(recipe: Recipe, line: Line) -> list[Problem]:
    scheme, runtime, device = recipe.quantize.scheme, recipe.target.runtime, recipe.target.device
    problems = []
    if line.verdict in ("slow", "refused"):
        better = nearest(scheme, runtime, device)
        advice = f"take {better.scheme} on {better.runtime}" if better else "choose another device"
        problems.append(
            Problem("quantize.scheme", f"{scheme} is {line.verdict} on {runtime}, {device}: {line.reason}; {advice}")
        )
    if line.verdict == "unmeasured":
        problems.append(Problem("target", f"{scheme} on {runtime}, {device}: {line.reason}", stops=False))
    if device != "cpu" and recipe.bench.device == "cpu":
        note = (
            f"the report is measured on this machine's processor; on a machine with {device}: --set bench.device=cuda"
        )
        problems.append(Problem("target.device", note, stops=False))
    if recipe.convert is None and runtime in GRAPH_RUNTIMES:
        problems.append(Problem("convert", f"{runtime} loads ONNX graphs; leave out convert: null"))
    if recipe.convert and runtime not in GRAPH_RUNTIMES:
        problems.append(Problem("convert", f"{runtime} loads checkpoints, no ONNX graphs; write convert: null"))
    if not SCALES[scheme].activations:
        unused = f"{scheme} quantizes weights only: calibration and observer are not used"
        problems.append(Problem("calibration", unused, stops=False))
    return problems


def _data_problems(recipe: Recipe, records: Mapping[str, int | str | None]) -> list[Problem]:
    needs = {"bench.data": (recipe.bench.data, 1)}
    if recipe.convert:
        parity = recipe.convert.parity
        needs["convert.parity.data"] = (parity.data, max(parity.items, parity.answers))
    if SCALES[recipe.quantize.scheme].activations:
        needs["calibration.data"] = (recipe.calibration.data, recipe.calibration.samples or 1)
    problems = []
    for where, (data, count) in needs.items():
        found = records[data]
        if isinstance(found, str):
            problems.append(Problem(where, found))
        elif found is None:
            problems.append(Problem(where, f"{data}: its records are counted when it is read", stops=False))
        elif found < count:
            problems.append(Problem(where, f"{data}: it has {found} records, {count} are asked for"))
    return problems


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


def _steps(recipe: Recipe, headers: Mapping[str, Header], layers: Mapping[str, Header], until: str) -> list[Step]:
    scheme, side = recipe.quantize.scheme, side_bytes(recipe.model.path)
    whole = sum(header.values * FLOAT_BYTES[header.dtype] for header in headers.values()) + side
    small = quantized_bytes(headers, layers, SCALES[scheme]) + side
    floats = 4 * sum(header.values for header in headers.values())
    largest = max(path.stat().st_size for path in weight_files(recipe.model.path))
    run, convert, pack = (
        round(LIBRARIES_BYTES + height) for height in (RUN_TIMES * floats, CONVERT_TIMES * floats, PACK_TIMES * largest)
    )
    steps = [Step("quantize", "quantized", f"checkpoint, {scheme}", small, run if SCALES[scheme].activations else pack)]
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
        if large[0] is not steps[0]:
            message += f", or end before it: shipvlm run --until {steps[steps.index(large[0]) - 1].name}"
        problems.append(Problem("model.path", message))
    return problems
