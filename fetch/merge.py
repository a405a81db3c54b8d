"""Merges LoRA adapters into a checkpoint, which is written anew: never more than one layer in memory.

Each layer is merged by PEFT's own layer, so rsLoRA, DoRA, patterns of ranks and several adapters are what PEFT makes
of them. A shard keeps its layout: it is copied, and the bytes of what was merged are written over.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import dispatch_default
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import safe_open
from torch import nn

from fetch.adapter_fit import Shapes, check_adapters, notes
from fetch.adapters import CONFIG, PREFIX, WEIGHTS, Adapter, adapter_digest, read_adapter
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.parameters import parameter_shapes
from shipvlm.families.qwen3_vl.shape import read_shape
from shipvlm.folder import WEIGHTS_INDEX, check_folder, copy_side_files, weight_files
from shipvlm.lock import origin
from shipvlm.sizes import check_tensors
from shipvlm.stages import Progress

Tensors = dict[str, torch.Tensor]


def merge(base: Path, folders: Sequence[Path], out: Path, progress: Progress) -> dict[str, Any]:
    """Write the checkpoint in `base` with the adapters in `folders` merged, in this order, to the empty folder `out`.

    All that no adapter changes is copied bit for bit; a merged tensor keeps its type and its place.
    Returns what was merged: `adapters`, with the sha256 and what each is, and `notes` for a person to read.
    Raises `InputError`, before anything is written, for a base or an adapter that is unfit or quantized, adapters that
    do not fit the base or each other, and numbers that are not finite; for merged weights that are not finite too.
    """
    config = check_folder(base)
    if "quantization_config" in config:
        raise InputError(f"{base}: is quantized; adapters are merged into its 16- or 32-bit original")
    shape = read_shape(config)
    check_tensors(base, shape)
    shapes = parameter_shapes(shape)
    adapters = [read_adapter(folder) for folder in folders]
    check_adapters(adapters, shapes)
    configs = [lora_config(adapter) for adapter in adapters]
    files = {name: path for path in weight_files(base) for name in _offsets(path)}
    for adapter, chosen in zip(adapters, configs, strict=True):
        _check_targets(adapter, chosen, shapes)
        _check_values(adapter, files)

    changes = _changes(adapters)
    done = 0
    for path in weight_files(base):
        shutil.copyfile(path, out / path.name)
        with (out / path.name).open("r+b") as file:
            for name, offset in _offsets(path).items():
                if name in changes:
                    file.seek(offset)
                    file.write(_bytes(_merged(name, adapters, configs, files)))
                    progress("merge", done := done + 1, len(changes))
    copy_side_files(base, out)
    if (base / WEIGHTS_INDEX).is_file():
        shutil.copyfile(base / WEIGHTS_INDEX, out / WEIGHTS_INDEX)
    return {"adapters": [_facts(adapter) for adapter in adapters], "notes": notes(base, adapters)}


def lora_config(adapter: Adapter) -> LoraConfig:
    """PEFT's own configuration, of the fields that we know and nothing else. Raises `InputError` where PEFT does."""
    config = adapter.config
    fields = config.model_dump(exclude={"bias", "base_model_name_or_path"}, exclude_none=True)
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    # PEFT takes fan_in_fan_out for false where a layer is a Linear or a convolution; others are refused.
    fields |= {"fan_in_fan_out": False, "init_lora_weights": False, "inference_mode": True}
    try:
        return LoraConfig(**fields)
    except (ValueError, TypeError) as error:
        raise InputError(f"{adapter.folder / CONFIG}: PEFT refuses it: {error}") from error


def _facts(adapter: Adapter) -> dict[str, Any]:
    return {
        "digest": adapter_digest(adapter.folder),
        "kind": adapter.config.kind,
        "rank": sorted({adapter.rank(module) for module in adapter.modules}),
        "alpha": sorted({adapter.alpha(module) for module in adapter.modules}),
        "modules": len(adapter.modules),
        "replaced": len(adapter.replaced),
        "trained_on": adapter.trained_on,
        "source": origin(adapter.folder),
    }


def _check_targets(adapter: Adapter, config: LoraConfig, shapes: Shapes) -> None:
    """Refuse an adapter that lacks a module of its `target_modules`, or has another: it is not all there."""
    modules = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) > 1]
    try:
        wanted = {module for module in modules if check_target_module_exists(config, module)}
    except (re.error, TypeError) as error:
        raise InputError(f"{adapter.folder / CONFIG}: target_modules cannot be understood ({error})") from error
    if wrong := sorted(wanted ^ adapter.modules.keys()):
        kind = "lacks" if wrong[0] in wanted else "has"
        raise InputError(
            f"{adapter.folder}: {WEIGHTS} {kind} {wrong[0]} ({len(wrong)} modules differ from what its {CONFIG} "
            "targets in this checkpoint); it is cut off, or was trained on another model"
        )


def _check_values(adapter: Adapter, files: Mapping[str, Path]) -> None:
    """Refuse numbers that are not finite, and copies of the base's parameters that are not the base's."""
    for name in (*(f"{module}.{part}" for module, parts in adapter.modules.items() for part in parts), *adapter.whole):
        if not torch.isfinite(_read(adapter.folder / WEIGHTS, PREFIX + name)).all():
            raise InputError(f"{adapter.folder}: {name} has numbers that are not finite; take an earlier adapter")
    for name, stored in adapter.copies.items():
        own = _read(files[name], name)
        if not torch.equal(own, _read(adapter.folder / WEIGHTS, PREFIX + stored).to(own.dtype)):
            raise InputError(
                f"{adapter.folder}: brings {name} of the model that it was trained on, which is not that of this "
                f"checkpoint ({adapter.trained_on or 'it does not say which model'}); fetch that model"
            )


def _changes(adapters: Sequence[Adapter]) -> set[str]:
    """The parameters of the checkpoint that are not what they were."""
    weights = {f"{module}.weight" for adapter in adapters for module in adapter.modules}
    biases = {f"{module}.bias" for adapter in adapters if adapter.config.lora_bias for module in adapter.modules}
    return weights | biases | {name for adapter in adapters for name in adapter.replaced}


@torch.no_grad()
def _merged(
    name: str, adapters: Sequence[Adapter], configs: Sequence[LoraConfig], files: Mapping[str, Path]
) -> torch.Tensor:
    """One parameter of the new checkpoint, in the type that it has in the old one."""
    for adapter in adapters:
        if name in adapter.replaced:
            with safe_open(files[name], "pt") as file:
                dtype = file.get_slice(name)[:0].dtype
            return _finite(name, _read(adapter.folder / WEIGHTS, PREFIX + name).to(dtype))
    module, _, kind = name.rpartition(".")
    names = {part: f"{module}.{part}" for part in ("weight", "bias") if f"{module}.{part}" in files}
    layer = _layer({part: _read(files[full], full) for part, full in names.items()})
    tuned: Any = None
    loaded = {f"base_layer.{part}": value for part, value in layer.state_dict().items()}
    for number, (adapter, config) in enumerate(zip(adapters, configs, strict=True)):
        if module not in adapter.modules:
            continue
        own, sizes = f"adapter{number}", {"r": adapter.rank(module), "lora_alpha": adapter.alpha(module)}
        if tuned is None:
            tuned = dispatch_default(layer, own, config, None, **sizes)
        else:
            tuned.update_layer(own, config=config, **sizes)
        loaded |= _lora(adapter, module, own)
    tuned.load_state_dict(loaded, assign=True)
    tuned.merge(adapter_names=list(tuned.lora_A))
    return _finite(name, getattr(tuned.get_base_layer(), kind))


def _layer(parameters: Tensors) -> nn.Module:
    """A Linear [out, in] or a convolution [out, in, t, h, w] that holds these parameters."""
    rows, columns, *kernel = parameters["weight"].shape
    bias = "bias" in parameters
    if kernel:
        time, height, width = kernel
        layer: nn.Module = nn.Conv3d(columns, rows, (time, height, width), bias=bias, device="meta")
    else:
        layer = nn.Linear(columns, rows, bias=bias, device="meta")
    layer.load_state_dict(parameters, assign=True)
    return layer.requires_grad_(False)


def _lora(adapter: Adapter, module: str, own: str) -> Tensors:
    """The tensors of one module by PEFT's names in a layer, in float32, in which PEFT has them too."""
    found = {}
    for part in adapter.modules[module]:
        kind, _, rest = part.partition(".")
        tensor = _read(adapter.folder / WEIGHTS, f"{PREFIX}{module}.{part}")
        found[f"{kind}.{own}.{rest or 'weight'}"] = tensor.float()
    return found


def _finite(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(tensor).all():
        raise InputError(f"{name}: merged, it has numbers that {tensor.dtype} cannot hold; check the adapters' alpha")
    return tensor


def _read(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


def _offsets(path: Path) -> dict[str, int]:
    """Where in a safetensors file the bytes of each tensor begin, in their order."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    begins = {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
    return dict(sorted(begins.items(), key=lambda item: item[1]))


def _bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor as it lies in a file."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data
