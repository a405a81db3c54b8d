"""Look at a checkpoint folder before anything is loaded from it, and refuse what cannot or must not be loaded."""

import json
from pathlib import Path
from typing import Any

from shipvlm.errors import InputError

MODEL_TYPE = "qwen3_vl"
# Without these a checkpoint has weights but no way in: words and pictures cannot be turned into its inputs.
PROCESSOR_FILES = ("preprocessor_config.json", "tokenizer_config.json", "tokenizer.json")
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"


def check_folder(folder: Path) -> dict[str, Any]:
    """Check that `folder` is a Qwen3-VL checkpoint in Hugging Face layout and return its parsed `config.json`.

    Raises `InputError` for a folder that is missing or is no checkpoint, another `model_type`, a configuration that
    asks for remote code, weights that are missing or only pickled, and missing processor files.
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
    _refuse_remote_code(folder)
    weight_files(folder)
    missing = [name for name in PROCESSOR_FILES if not (folder / name).is_file()]
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


def _refuse_remote_code(folder: Path) -> None:
    for path in sorted(folder.glob("*config.json")):
        if "auto_map" in _read_object(path):
            raise InputError(
                f"{path}: has auto_map, it asks to run code that came with the checkpoint; this is refused. "
                "Use a checkpoint of a class that transformers itself has"
            )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold one JSON object")
    return value
