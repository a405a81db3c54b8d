"""Holds LoRA adapters against the parameters of the checkpoint that they are to be merged into: headers only."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from fetch.adapters import CONFIG, OTHERWISE, WEIGHTS, Adapter
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.parameters import EMBEDDING, HEAD, VISION
from shipvlm.lock import LOCK, read_lock
from shipvlm.sizes import Header

TABLES = {EMBEDDING, f"{VISION}pos_embed.weight"}  # looked up, not multiplied with
Shapes = Mapping[str, tuple[int, ...]]


def check_adapters(adapters: Sequence[Adapter], shapes: Shapes) -> None:
    """Hold adapters against the parameters of their base, name -> shape; a head that is tied is not among them.

    Raises `InputError` naming the first tensor that does not fit, and where adapters are in each other's way.
    """
    for adapter in adapters:
        for module, parts in adapter.modules.items():
            _check_module(adapter, module, parts, shapes)
        _check_whole(adapter, shapes)
    for index, adapter in enumerate(adapters):
        for place, other in enumerate(adapters):
            changed = {f"{module}.weight" for module in other.modules} | (other.replaced if place > index else set())
            if both := sorted(adapter.replaced & changed):
                raise InputError(
                    f"{adapter.folder}: replaces {both[0]} (modules_to_save), which {other.folder} changes too"
                )


def notes(base: Path, adapters: Sequence[Adapter]) -> list[str]:
    """What is odd, but no error: an adapter that names another base than the one that was fetched."""
    if not (base / LOCK).is_file():
        return []
    repo = read_lock(base / LOCK).repo
    return [
        f"adapter {number} was trained on {adapter.trained_on}, the base is {repo}"
        for number, adapter in enumerate(adapters, 1)
        if adapter.trained_on and _last(adapter.trained_on) != _last(repo)
    ]


def largest_change(adapters: Sequence[Adapter], shapes: Shapes) -> int:
    """Values of the largest parameter that is computed anew."""
    return max(math.prod(shapes[f"{module}.weight"]) for adapter in adapters for module in adapter.modules)


def _check_module(adapter: Adapter, module: str, parts: Mapping[str, Header], shapes: Shapes) -> None:
    weight = f"{module}.weight"
    if weight == HEAD and HEAD not in shapes:
        raise InputError(f"{adapter.folder}: changes lm_head, which is the embedding in this model; {OTHERWISE}")
    if weight not in shapes:
        raise InputError(
            f"{adapter.folder}: changes {module}, which this checkpoint does not have; it was trained on another "
            f"model ({adapter.trained_on or 'it does not say which'})"
        )
    shape = shapes[weight]
    if weight in TABLES or len(shape) == 1:
        raise InputError(f"{adapter.folder}: changes {module}, which is no Linear; {OTHERWISE}")
    if adapter.config.lora_bias and f"{module}.bias" not in shapes:
        raise InputError(f"{adapter.folder}: lora_bias is set, but {module} has no bias to merge it into")
    wanted = _tensor_shapes(adapter, module, shape)
    if parts.keys() != wanted.keys():
        names = ", ".join(sorted(parts.keys() ^ wanted.keys()))
        raise InputError(f"{adapter.folder}: {module}: {names} is missing or has no use; save the adapter again")
    for part, header in parts.items():
        if header.shape != wanted[part]:
            raise InputError(
                f"{adapter.folder}: {module}.{part} is {list(header.shape)}; by {CONFIG} (rank "
                f"{adapter.rank(module)}) and the checkpoint ({list(shape)}) it must be {list(wanted[part])}"
            )


def _tensor_shapes(adapter: Adapter, module: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The tensors that PEFT saves for a Linear [out, in], or a convolution [out, in, ...]."""
    rank, ones = adapter.rank(module), (1,) * len(shape[2:])
    wanted = {"lora_A.weight": (rank, *shape[1:]), "lora_B.weight": (shape[0], rank, *ones)}
    if adapter.config.use_dora:
        wanted["lora_magnitude_vector"] = (1, shape[0], *ones) if ones else (shape[0],)
    if adapter.config.lora_bias:
        wanted["lora_B.bias"] = (shape[0],)
    return wanted


def _check_whole(adapter: Adapter, shapes: Shapes) -> None:
    """`modules_to_save` must be there as a whole; what else is there as a whole must be the base's own."""
    for name in sorted(name for name in shapes if adapter.saves(name) and name not in adapter.replaced):
        raise InputError(f"{adapter.folder}: {WEIGHTS} lacks {name} of modules_to_save; save the adapter again")
    if EMBEDDING in adapter.replaced and HEAD not in shapes:
        raise InputError(f"{adapter.folder}: replaces the embedding, which is the head too in this model; {OTHERWISE}")
    for name, stored in {**{name: name for name in adapter.replaced}, **adapter.copies}.items():
        found, wanted = adapter.whole[stored].shape, shapes.get(name)
        if wanted is None:
            raise InputError(f"{adapter.folder}: has {name}, which this checkpoint does not have; {OTHERWISE}")
        if found != wanted:
            raise InputError(
                f"{adapter.folder}: {name} is {list(found)}, in the checkpoint {list(wanted)}; {OTHERWISE}"
            )


def _last(name: str) -> str:
    return name.rpartition("/")[2].lower()
