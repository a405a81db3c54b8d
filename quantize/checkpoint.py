"""A checkpoint folder becomes a quantized checkpoint folder: same layout, compressed-tensors `pack-quantized` weights.

vLLM and SGLang read the integers as they are; plain transformers (with compressed-tensors installed) unpacks them.
Tokenizer, processor and template files are copied byte for byte, never re-saved.
"""

import json
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor, compress_module
from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationScheme,
    initialize_module_for_quantization,
)
from torch import nn

from quantize.audit import audit
from quantize.rtn import check_groups, decoder_linears, weight_args, weight_scale
from shipvlm.errors import InputError
from shipvlm.folder import check_folder, copy_side_files, weight_files, written_whole
from shipvlm.runtime.checkpoint import load

# bits and group size (None: one scale an output channel)
SCHEMES: dict[str, tuple[int, int | None]] = {"w8a16": (8, None), "w4a16": (4, 128)}
REPORT = "quantize.json"


def quantize_checkpoint(source: Path, scheme: str, out: Path) -> dict[str, Any]:
    """Writes `source` quantized by `scheme` (a key of `SCHEMES`, weights only, no data needed) to the folder `out`.

    Returns what it also writes as `quantize.json`: scheme, bits, group_size, the audit of the written file
    (`quantize.audit.audit`) and the weight bytes of both folders. `out` appears complete or not at all; an earlier
    result of this function is replaced.
    Raises InputError for an unknown scheme, an unfit source, an `out` that is something else or holds the source, or a
    layer width that the group size does not divide; ExecutionError when the audit finds another thing than was asked
    for.
    """
    bits, group_size = _scheme(scheme)
    _check_source(source)
    _check_out(source, out)
    with written_whole(out) as work:
        _write(source, weight_args(bits, group_size), work)
        report = {
            "schema_version": 1,
            "scheme": scheme,
            "bits": bits,
            "group_size": group_size,
            "format": CompressionFormat.pack_quantized.value,
            "audit": audit(source, work, bits, group_size),
            "weight_bytes": {"source": weight_bytes(source), "out": weight_bytes(work)},
        }
        (work / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    return report


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files of a checkpoint folder."""
    return sum(path.stat().st_size for path in weight_files(folder))


def _scheme(name: str) -> tuple[int, int | None]:
    if name not in SCHEMES:
        raise InputError(f"unknown scheme '{name}': choose one of {', '.join(sorted(SCHEMES))}")
    return SCHEMES[name]


def _check_source(source: Path) -> None:
    if "quantization_config" in check_folder(source):
        raise InputError(f"{source} is quantized already: start from its 16- or 32-bit original")


def _check_out(source: Path, out: Path) -> None:
    if source.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{out}: the result cannot be written over its source {source}: give another folder")
    if out.exists() and not (out / REPORT).is_file():
        raise InputError(f"{out} exists and was not written by this command: remove it or give another folder")


def _write(source: Path, args: QuantizationArgs, work: Path) -> None:
    model = load(source, dtype="auto").model
    linears = decoder_linears(model)
    check_groups(linears, args.group_size)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=CompressionFormat.pack_quantized)
    for linear in linears.values():
        _compress(linear, scheme)
    compressor = ModelCompressor.from_pretrained_model(model)
    model.save_pretrained(work)
    (work / "generation_config.json").unlink()  # of the loaded model, which always is greedy
    copy_side_files(source, work)
    compressor.update_config(str(work))


@torch.no_grad()
def _compress(linear: nn.Linear, scheme: QuantizationScheme) -> None:
    """Replaces the weight of one layer by packed integers and scales.

    The arithmetic is float32, on scales that the file's dtype holds exactly: the integers then are the nearest ones
    to the scales that a server will read back.
    """
    assert scheme.weights is not None
    dtype = linear.weight.dtype
    linear.weight.data = linear.weight.data.float()
    initialize_module_for_quantization(linear, scheme, force_zero_point=False)
    linear.weight_scale.data = weight_scale(linear.weight, scheme.weights.model_copy(update={"scale_dtype": dtype}))
    compress_module(linear)
    linear.weight_scale.data = linear.weight_scale.data.to(dtype)
