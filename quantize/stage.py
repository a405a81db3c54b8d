"""Stage: a checkpoint becomes a smaller checkpoint, in compressed-tensors format and Hugging Face layout.

vLLM and SGLang read the integers as they are; plain transformers (with compressed-tensors installed) loads them too,
static scales of activations included. Tokenizer, processor and template files are copied byte for byte.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from calib_data.records import Record
from quantize.audit import audit
from quantize.calibrate import calibrate
from quantize.rtn import check_groups
from quantize.schemes import quantization_config, quantization_scheme
from quantize.static import calibration_report, input_scales
from quantize.write import stored_dtypes, write_checkpoint
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.layers import decoder_groups
from shipvlm.families.qwen3_vl.parameters import parameter_shapes
from shipvlm.families.qwen3_vl.shape import read_shape
from shipvlm.folder import check_folder, weight_files
from shipvlm.ignore import split_layers
from shipvlm.recipe import QuantizeSection
from shipvlm.runtime.checkpoint import load
from shipvlm.stages import Progress

REPORT = "quantize.json"
SCHEMA_VERSION = 2


def run(
    source: Path,
    section: QuantizeSection,
    records: Sequence[Record] | None,
    out: Path,
    progress: Progress,
    *,
    device: str = "cpu",
    batch_size: int = 4,
) -> dict[str, Any]:
    """Write the checkpoint in `source`, quantized as `section` says, to the empty folder `out`.

    records: the calibration data; only a scheme with static activations reads it. The model then runs in float32 on
    `device`, `batch_size` records at a time (`quantize.calibrate.calibrate`). The files depend on nothing else: two
    runs on one machine write the same bytes.
    Returns what it also writes to `quantize.json`: what it used of the section, the format, the audit of what was
    written (`quantize.audit.audit`), the weight bytes of both folders and, where there was one, the calibration
    (`quantize.static.calibration_report`).
    Raises InputError for a source that is unfit or quantized already, an `ignore` that does not fit, a group size
    that does not divide a layer, and calibration data that is missing or of no use; ExecutionError when the audit
    finds another thing than was asked for.
    """
    config = check_folder(source)
    if "quantization_config" in config:
        raise InputError(f"{source} is quantized already: start from its 16- or 32-bit original")
    shape = read_shape(config)
    dtypes = stored_dtypes(source, shape)
    groups, left = split_layers(decoder_groups(shape.text.layers), section.ignore)
    layers = [layer for group in groups for layer in group]
    scheme = quantization_scheme(section.scheme)
    assert scheme.weights is not None
    widths = {layer: parameter_shapes(shape)[f"{layer}.weight"][1] for layer in layers}
    check_groups(widths, scheme.weights.group_size)

    scales: dict[str, torch.Tensor] = {}
    used = {"scheme", "ignore"} if scheme.input_activations is None else None  # the others say how to find scales
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        **section.model_dump(mode="json", include=used),
        "format": scheme.format,
    }
    if scheme.input_activations is not None:
        if records is None:
            raise InputError(f"the scheme {section.scheme} needs calibration data")
        seen = calibrate(load(source, device=device), records, groups, batch_size, progress)
        found = input_scales(seen, section, dtypes)
        scales = {layer: scale for group, scale in zip(groups, found, strict=True) for layer in group}
        report["calibration"] = calibration_report(seen, found, records, batch_size)

    quantization = quantization_config(scheme, left)
    write_checkpoint(source, out, quantization, layers, scales, progress)
    report["audit"] = audit(source, out, quantization, left, {name: float(scale) for name, scale in scales.items()})
    report["weight_bytes"] = {"source": weight_bytes(source), "out": weight_bytes(out)}
    (out / REPORT).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return report


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files of a checkpoint folder."""
    return sum(path.stat().st_size for path in weight_files(folder))
