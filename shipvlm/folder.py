"""Checkpoint folders: what may be loaded is told from what may not before anything is, and new ones appear whole."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shipvlm.errors import InputError

MODEL_TYPE = "qwen3_vl"
# Without these a checkpoint has weights but no way in: words and pictures cannot be turned into its inputs.
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
PICTURE_SETTINGS = "preprocessor_config.json"
PROCESSOR_CONFIG = "processor_config.json"  # newer checkpoints have the picture settings in here
# All that belongs to a checkpoint beside its weights.
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    PICTURE_SETTINGS,
    PROCESSOR_CONFIG,
    "video_preprocessor_config.json",
)
# Settings by which a checkpoint chooses code that transformers imports, or fetches from a hub, and runs; and the one
# that makes it read another configuration than the one that is checked here.
REFUSED_KEYS = {
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "_experts_implementation",
    "configuration_files",
}
WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"  # what a folder holds, and how it was made: see shipvlm.artifact
GRAPHS = "graphs.json"  # a folder with this file is a graph set
WEIGHTS_INDEX = "model.safetensors.index.json"


def check_folder(folder: Path) -> dict[str, Any]:
    """Check that `folder` is a Qwen3-VL checkpoint in Hugging Face layout and return its parsed `config.json`.

    Raises `InputError` as `check_side_files` does, and for weights that are missing or only pickled.
    """
    config = check_side_files(folder)
    weight_files(folder)
    return config


def check_side_files(folder: Path) -> dict[str, Any]:
    """Check all but the weights of a Qwen3-VL in Hugging Face layout and return its parsed `config.json`.

    Raises `InputError` for a folder that is missing or is no checkpoint, another `model_type`, a configuration that
    chooses code, an adapter, and missing processor files.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds the checkpoint's config.json")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: not a checkpoint, it has no config.json; give a folder in Hugging Face layout")
    config = _read_object(folder / "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise InputError(
            f"{folder}: model_type is {config.get('model_type')!r}; only {MODEL_TYPE!r} checkpoints are supported"
        )
    _refuse_chosen_code(folder)
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{folder}: has adapter_config.json, which points to another base model; "
            "merge the adapter into its base model and give the merged checkpoint"
        )
    missing = [name for name in TOKENIZER_FILES if not (folder / name).is_file()]
    if not (folder / PICTURE_SETTINGS).is_file() and not _has_picture_settings(folder / PROCESSOR_CONFIG):
        missing.append(PICTURE_SETTINGS)
    if missing:
        raise InputError(f"{folder}: missing {', '.join(missing)}; copy it from the checkpoint's source")
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of the checkpoint in `folder`, in name order.

    Raises `InputError` when there are none, when the weights are only pickled, or when the index names a file
    that is not there.
    """
    if (folder / WEIGHTS_INDEX).is_file():
        weight_map = _read_object(folder / WEIGHTS_INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f"{folder / WEIGHTS_INDEX}: has no weight_map; fetch the checkpoint again")
        names = sorted({str(name) for name in weight_map.values()})
        absent = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if absent:
            raise InputError(f"{folder}: {WEIGHTS_INDEX} names files that are not there: {', '.join(absent)}")
        return [folder / name for name in names]
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
    if pickles:
        raise InputError(
            f"{folder}: its weights are pickle files ({', '.join(pickles)}), which can run code when they are loaded; "
            "convert them to safetensors"
        )
    raise InputError(f"{folder}: no weights, neither {WEIGHTS} nor {WEIGHTS_INDEX}")


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target` to write to, which becomes `target` when the `with` ends without an exception.

    A `target` that exists is replaced then. After an exception nothing is left of the new folder; a killed process
    leaves hidden folders named `.TARGET.*.partial`, but never half a `target`.
    Raises `InputError` where no folder can be made.
    """
    work = _hidden(target)
    make_folder(work)
    try:
        yield work
        replace_folder(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def replace_folder(work: Path, target: Path) -> None:
    """Rename `work` to `target`; a `target` that exists is moved away first, and then deleted."""
    replaced = _hidden(target)
    if target.exists():
        target.rename(replaced)
    work.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it where they are missing. Raises `InputError` where it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); give the name of another folder") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: may not be written to; give the name of another folder")


def copy_side_files(source: Path, target: Path) -> None:
    """Copy those of `SIDE_FILES` that `source` has, byte for byte; whatever else lies there is not taken along."""
    for name in SIDE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _hidden(target: Path) -> Path:
    return target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"


def _refuse_chosen_code(folder: Path) -> None:
    for path in sorted(folder.glob("*config.json")):
        for key in sorted(REFUSED_KEYS & _keys(_read_object(path))):
            raise InputError(
                f"{path}: has {key}, by which a checkpoint chooses code that is fetched or imported and run; "
                "this is refused. Remove it, if the model is one that transformers itself has"
            )


def _keys(value: object) -> set[str]:
    """The keys of all objects in a parsed JSON, at any depth."""
    found: set[str] = set()
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            found.update(part)
            parts.extend(part.values())
        elif isinstance(part, list):
            parts.extend(part)
    return found


def _has_picture_settings(path: Path) -> bool:
    return path.is_file() and isinstance(_read_object(path).get("image_processor"), dict)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold one JSON object")
    return value
