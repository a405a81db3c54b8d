"""The stages of a recipe: what each reads, what its result depends on, and which function makes it."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shipvlm.artifact import checkpoint_digest
from shipvlm.cli.common import quiet_libraries
from shipvlm.errors import InputError
from shipvlm.folder import check_folder
from shipvlm.lock import Lock, origin
from shipvlm.recipe import Recipe
from shipvlm.schemes import SCALES
from shipvlm.stages import Done, Progress, Stage

if TYPE_CHECKING:
    from calib_data.records import Record

Until = Literal["fetch", "quantize", "convert", "bench"]
MERGED, QUANTIZED, BASELINE, ARTIFACT, REPORT = "merged", "quantized", "onnx-baseline", "artifact", "report"

RUNNING = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu")
MERGING = ("fetch.adapters", "fetch.adapter_fit", "fetch.merge", "shipvlm.families", "shipvlm.folder", "shipvlm.sizes")
FAMILY = ("shipvlm.families", "shipvlm.runtime", "shipvlm.folder", "shipvlm.schemes", "shipvlm.sizes")
RECORDS = ("calib_data.records", "calib_data.load")


@dataclass(frozen=True)
class Start:
    """The checkpoint that is quantized: its folder, its sha256, and how it came to be, for the manifests."""

    folder: Path
    digest: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self, name: str) -> dict[str, str]:
        """What a stage that reads it depends on: the bytes, and what a manifest says of where they are from."""
        if "source" not in self.provenance:
            return {name: self.digest}
        text = json.dumps(self.provenance["source"], sort_keys=True)
        return {name: self.digest, "origin": sha256(text.encode()).hexdigest()}


def start(folder: Path, verified: Lock | None = None) -> Start:
    """The checkpoint in `folder` as it is. `verified`, and what it raises: as `shipvlm.artifact.checkpoint_digest`."""
    digest, source = checkpoint_digest(folder, verified), origin(folder)
    return Start(folder, digest, {"source": source} if source else {})


def build(
    recipe: Recipe, until: Until, command: str, make: Callable[[str, Stage], Done], verified: Lock | None = None
) -> None:
    """Give the stages of `recipe` to `make`, each with the name of its folder, in order, up to `until`.

    The checkpoint has been fetched; by this process where there is its lock, `verified`: it is not hashed again then.
    `command` is how a person runs the recipe: the report says it.
    """
    scheme, source = recipe.quantize.scheme, start(recipe.model.path, verified)
    if recipe.model.adapters:
        merged = make(MERGED, merge_stage(source, recipe.model.adapters))
        source = Start(merged.folder, merged.digest, {**source.provenance, "merge": _made(merged)})
    quantized = make(QUANTIZED, quantize_stage(recipe, source))
    variants = {"original": (source.folder, source.digest), scheme: (quantized.folder, quantized.digest)}
    if until != "quantize" and recipe.convert:
        baseline = make(
            BASELINE,
            convert_stage(recipe, "baseline", source.folder, source.inputs("checkpoint"), provenance=source.provenance),
        )
        inputs = {"checkpoint": quantized.digest, "baseline": baseline.digest}
        made = {**source.provenance, "quantize": _made(quantized), "baseline": _made(baseline)}
        artifact = make(ARTIFACT, convert_stage(recipe, "convert", quantized.folder, inputs, source.folder, made))
        variants |= {
            "onnx": (baseline.folder, baseline.digest),
            f"onnx-{scheme}": (artifact.folder, artifact.digest),
        }
    if until == "bench":
        make(REPORT, bench_stage(recipe, variants, command))


def merge_stage(base: Start, adapters: Sequence[Path]) -> Stage:
    """The checkpoint with `adapters` merged into it, in this order."""
    from fetch.adapters import adapter_digest, read_adapter

    for adapter in adapters:
        read_adapter(adapter)  # what is no adapter has no digest

    def make(out: Path, progress: Progress) -> Mapping[str, Any]:
        quiet_libraries()
        from fetch.merge import merge

        return merge(base.folder, adapters, out, progress)

    digests = {f"adapter {number}": adapter_digest(folder) for number, folder in enumerate(adapters, 1)}
    return Stage(
        "merge",
        {**base.inputs("base"), **digests},
        {},
        MERGING,
        ("torch", "transformers", "peft", "safetensors"),
        make,
        base.provenance,
    )


def quantize_stage(recipe: Recipe, source: Start) -> Stage:
    """The checkpoint `source`, quantized."""
    from calib_data.records import digest

    section, calibration = recipe.quantize, recipe.calibration
    chosen: dict[str, Any] = {"quantize": section.model_dump(mode="json")}
    inputs, records = source.inputs("source"), []
    if SCALES[section.scheme].activations:
        records = spread(_records(calibration.data), calibration.samples)
        inputs["calibration"] = digest(records)
        chosen["calibration"] = {"batch_size": calibration.batch_size, "device": calibration.device}
    else:
        chosen["quantize"] = {name: chosen["quantize"][name] for name in ("scheme", "ignore")}

    def make(out: Path, progress: Progress) -> Mapping[str, Any]:
        quiet_libraries()
        from quantize.stage import run

        batch_size, device = calibration.batch_size, calibration.device
        return run(source.folder, section, records or None, out, progress, device=device, batch_size=batch_size)

    code, libraries = ("quantize", "shipvlm.ignore", *RECORDS, *FAMILY), (*RUNNING, "compressed-tensors")
    return Stage("quantize", inputs, chosen, code, libraries, make, source.provenance)


def convert_stage(
    recipe: Recipe,
    name: str,
    checkpoint: Path,
    inputs: Mapping[str, str],
    reference: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Stage:
    """The graphs of one checkpoint, held against it. `reference` is what a quantized one was made from."""
    from calib_data.records import digest

    section = recipe.convert
    assert section is not None
    parity = section.parity
    exact = section.precision == "fp32" and "quantization_config" not in check_folder(checkpoint)
    records = spread(_records(parity.data), parity.items if exact else max(parity.items, parity.answers))

    def make(out: Path, progress: Progress) -> Mapping[str, Any]:
        quiet_libraries()
        from convert.export import export_graphs
        from convert.parity import check_parity

        graphs = export_graphs(checkpoint, out, section.precision, progress)
        return {"graphs": graphs, "parity": check_parity(checkpoint, out, records, parity, progress, reference)}

    return Stage(
        name,
        {**inputs, "parity": digest(records)},
        section.model_dump(mode="json"),
        ("convert", *RECORDS, *FAMILY),
        (*RUNNING, "compressed-tensors", "onnx", "onnx-ir"),
        make,
        provenance or {},
    )


def bench_stage(recipe: Recipe, variants: Mapping[str, tuple[Path, str]], command: str) -> Stage:
    """`variants`, name -> folder and digest, held against the first of them."""
    from bench.environment import machine
    from calib_data.records import digest

    records = _records(recipe.bench.data)

    def make(out: Path, progress: Progress) -> Mapping[str, Any]:
        quiet_libraries()
        from bench.run import run
        from bench.variants import Variant

        chosen = [Variant.of(name, folder, recipe.bench.device) for name, (folder, _) in variants.items()]
        run(
            chosen,
            records,
            recipe.bench,
            out,
            gates=recipe.gates,
            command=command,
            progress=progress,
            say=lambda text: print(text, file=sys.stderr),
        )
        return {}

    return Stage(
        "bench",
        {"data": digest(records), **{name: digest for name, (_, digest) in variants.items()}},
        {**recipe.bench.model_dump(mode="json"), "gates": recipe.gates.model_dump(mode="json"), "machine": machine()},
        ("bench", "calib_data", *FAMILY),
        (*RUNNING, "compressed-tensors", "scipy"),
        make,
        resumes=True,
    )


def spread(records: Sequence["Record"], count: int | None) -> list["Record"]:
    """`count` records, evenly spaced over the tasks and over the records of each; all, in order, when it is None.

    Raises `InputError` when there are fewer.
    """
    if count is None:
        return list(records)
    if count > len(records):
        raise InputError(f"{count} records are asked for, the data set has {len(records)}: ask for fewer, or for null")
    by_task = sorted(records, key=lambda record: record.task)
    return [by_task[(2 * index + 1) * len(by_task) // (2 * count)] for index in range(count)]


def _records(data: str) -> list["Record"]:
    from calib_data.load import load_records

    return load_records(data)


def _made(done: Done) -> dict[str, Any]:
    """What a manifest says of its own stage. The digests of its files are in what was made of them."""
    left = ("files", "provenance", "schema_version")
    return {name: value for name, value in done.manifest.items() if name not in left}
