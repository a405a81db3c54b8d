"""A folder that is no usable checkpoint is refused with one message that names the fault."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shipvlm.errors import InputError
from shipvlm.folder import WEIGHTS_INDEX, check_folder, weight_files


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def remote_code_in_config(folder: Path) -> None:
    edit_json(folder / "config.json", auto_map={"AutoModel": "modeling_evil.Evil"})


def remote_code_in_tokenizer(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})


def shard_missing(folder: Path) -> None:
    (folder / WEIGHTS_INDEX).write_text(
        json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}})
    )


def shard_outside(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "stray.safetensors")
    (folder / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": "../stray.safetensors"}}))


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "no such folder"),
    (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    (lambda folder: (folder / "config.json").write_text("{"), "not readable as JSON"),
    (lambda folder: (folder / "config.json").write_text("[1]"), "one JSON object"),
    (lambda folder: edit_json(folder / "config.json", model_type="llava"), "model_type is 'llava'"),
    (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    (only_pickle, r"pickle files \(pytorch_model.bin\)"),
    (remote_code_in_config, "auto_map"),
    (remote_code_in_tokenizer, "auto_map"),
    (shard_missing, "model-00001-of-00001.safetensors"),
    (shard_outside, "stray.safetensors"),
    (lambda folder: (folder / WEIGHTS_INDEX).write_text("{}"), "no weight_map"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "missing tokenizer.json"),
    (lambda folder: (folder / "preprocessor_config.json").unlink(), "missing preprocessor_config.json"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_refuses(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=message):
        check_folder(folder)


def test_accepts_and_returns_the_config(tiny_checkpoint: Path) -> None:
    assert check_folder(tiny_checkpoint)["architectures"] == ["Qwen3VLForConditionalGeneration"]
    assert weight_files(tiny_checkpoint) == [tiny_checkpoint / "model.safetensors"]
