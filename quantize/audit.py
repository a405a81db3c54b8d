"""Reads a written quantized checkpoint back, from its files alone, and says what is really in it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from pydantic import ValidationError
from safetensors import safe_open

from quantize.audit_layer import check_layer, part_names
from quantize.schemes import is_quantized
from shipvlm.errors import ExecutionError
from shipvlm.families.qwen3_vl.layers import DECODER_LAYERS, LINEAR_GROUPS
from shipvlm.families.qwen3_vl.parameters import EMBEDDING
from shipvlm.folder import SIDE_FILES, weight_files


@dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint folder and the file of each, from the files themselves: an index can be wrong."""

    files: Mapping[str, Path]

    def read(self, name: str) -> torch.Tensor:
        with safe_open(self.files[name], "pt") as file:
            return file.get_tensor(name)

    def dimensions(self, name: str) -> int:
        with safe_open(self.files[name], "pt") as file:
            return len(file.get_slice(name).get_shape())


def audit(
    source: Path, out: Path, config: QuantizationConfig, left: Sequence[str], input_scales: Mapping[str, float]
) -> dict[str, Any]:
    """Compare the checkpoint in `out` with its `source`, file by file and tensor by tensor.

    Every Linear of the text decoder must be quantized as `config` says, except those named in `left`; input_scales
    has the calibrated scale of each, exactly as it is stored (empty for a weight-only scheme).
    Returns {"quantized": layer names, "left": layer names, "kept": how many tensors are bit for bit the source's,
    "largest_error_steps": the largest |weight - dequantized| in units of its scale}.
    Raises ExecutionError naming what is wrong: a tensor that is missing, too many, changed, of another type or shape;
    a weight that strays from its source by more than rounding can; a scale that is not the one of its weights or of
    the calibration, or not shared within a group; a config.json that makes a reader quantize other layers; another
    file that is not the source's byte for byte.
    """
    [scheme] = config.config_groups.values()
    assert isinstance(scheme, QuantizationScheme)
    before, after = _tensors(weight_files(source)), _tensors(sorted(out.glob("*.safetensors")))
    layers = [layer for layer in _decoder_linears(before) if layer not in left]
    kept = sorted(set(before.files) - {f"{layer}.weight" for layer in layers})
    expected = set(kept) | {f"{layer}.{part}" for layer in layers for part in part_names(scheme)}
    if expected != set(after.files):
        raise ExecutionError(f"audit: unexpected or missing tensors: {sorted(expected ^ set(after.files))[:4]}")
    for name in kept:
        if not _same_bits(before.read(name), after.read(name)):
            raise ExecutionError(f"audit: {name} should be unchanged and is not")
    _check_config(source, out, config, layers, before)
    _check_side_files(source, out)
    errors = []
    for layer in layers:
        parts = {part: after.read(f"{layer}.{part}") for part in part_names(scheme)}
        errors.append(check_layer(layer, before.read(f"{layer}.weight"), parts, scheme, input_scales.get(layer)))
    _check_shared_scales(layers, after, scheme)
    return {
        "quantized": layers,
        "left": [layer for layer in _decoder_linears(before) if layer in left],
        "kept": len(kept),
        "largest_error_steps": max(errors),
    }


def _tensors(paths: Iterable[Path]) -> Tensors:
    found: dict[str, Path] = {}
    for path in paths:
        with safe_open(path, "pt") as file:
            found.update(dict.fromkeys(file.keys(), path))
    return Tensors(found)


def _decoder_linears(tensors: Tensors) -> list[str]:
    return sorted(
        name.removesuffix(".weight")
        for name in tensors.files
        if name.startswith(DECODER_LAYERS) and name.endswith(".weight") and tensors.dimensions(name) == 2
    )


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))


def _check_config(source: Path, out: Path, config: QuantizationConfig, layers: Sequence[str], before: Tensors) -> None:
    written = json.loads((out / "config.json").read_text(encoding="utf-8"))
    try:
        found = QuantizationConfig.model_validate(written.pop("quantization_config"))
    except (KeyError, ValidationError) as error:
        raise ExecutionError(f"audit: config.json has no quantization_config that can be read: {error}") from error
    if written != json.loads((source / "config.json").read_text(encoding="utf-8")):
        raise ExecutionError("audit: config.json differs from the source's in more than quantization_config")
    for name in ("format", "quantization_status", "config_groups", "kv_cache_scheme"):
        if getattr(found, name) != getattr(config, name):
            raise ExecutionError(f"audit: config.json says {name} {getattr(found, name)}, not {getattr(config, name)}")
    linears = {
        name.removesuffix(".weight")
        for name in before.files
        if name.endswith(".weight") and name != EMBEDDING and before.dimensions(name) == 2
    }
    wrong = sorted(layer for layer in linears if is_quantized(layer, found) != (layer in layers))
    if wrong:
        raise ExecutionError(f"audit: config.json and the tensors disagree whether {wrong[0]} is quantized")


def _check_side_files(source: Path, out: Path) -> None:
    for name in SIDE_FILES:
        if name == "config.json":
            continue
        before, after = ((folder / name) for folder in (source, out))
        if before.is_file() != after.is_file() or (before.is_file() and before.read_bytes() != after.read_bytes()):
            raise ExecutionError(f"audit: {name} is not the source's, byte for byte")


def _check_shared_scales(layers: Sequence[str], after: Tensors, scheme: QuantizationScheme) -> None:
    if scheme.input_activations is None:
        return
    for layer in layers:
        for group in LINEAR_GROUPS:
            prefix = layer.removesuffix(group[0])
            if prefix == layer:
                continue
            scales = [after.read(f"{prefix}{name}.input_scale") for name in group]
            if not all(_same_bits(scales[0], scale) for scale in scales):
                raise ExecutionError(f"audit: the layers that read the input of {layer} do not share one input_scale")
