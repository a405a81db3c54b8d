"""A folder that is no usable checkpoint is refused with one message that names the fault."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.processor import load_processor
from shipvlm.folder import WEIGHTS_INDEX, check_folder, copy_side_files, make_folder, weight_files, written_whole


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


def nested(key: str, value: object, name: str = "config.json") -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / name, extra=[{"deep": {key: value}}])


def kernel_in_the_text_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["attn_implementation"] = "owner/repo"
    (folder / "config.json").write_text(json.dumps(config))


def no_picture_settings(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen3VLProcessor"}))


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
    (nested("auto_map", {"AutoModel": "evil.Evil"}), "has auto_map"),
    (nested("auto_map", {}, "tokenizer_config.json"), "tokenizer_config.json: has auto_map"),
    (lambda folder: edit_json(folder / "config.json", attn_implementation="owner/repo"), "has attn_implementation"),
    (lambda folder: edit_json(folder / "config.json", _attn_implementation="sdpa"), "has _attn_implementation"),
    (kernel_in_the_text_config, "config.json: has attn_implementation"),
    (nested("experts_implementation", "owner/repo"), "has experts_implementation"),
    (nested("_experts_implementation", {"": "owner/repo"}), "has _experts_implementation"),
    (nested("attn_implementation", "a/b", "generation_config.json"), "generation_config.json: has attn_implementation"),
    (
        lambda folder: edit_json(folder / "config.json", configuration_files=["config.4.0.0.json"]),
        "configuration_files",
    ),
    (lambda folder: (folder / "adapter_config.json").write_text("{}"), "merge the adapter"),
    (shard_missing, "model-00001-of-00001.safetensors"),
    (shard_outside, "stray.safetensors"),
    (lambda folder: (folder / WEIGHTS_INDEX).write_text("{}"), "no weight_map"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "missing tokenizer.json"),
    (lambda folder: (folder / "preprocessor_config.json").unlink(), "missing preprocessor_config.json"),
    (no_picture_settings, "missing preprocessor_config.json"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_refuses(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=message):
        check_folder(folder)


def test_accepts_and_returns_the_config(tiny_checkpoint: Path) -> None:
    assert check_folder(tiny_checkpoint)["architectures"] == ["Qwen3VLForConditionalGeneration"]
    assert weight_files(tiny_checkpoint) == [tiny_checkpoint / "model.safetensors"]


def test_picture_settings_may_be_inside_the_processor_config(folder: Path) -> None:
    wanted = load_processor(folder).image_processor.to_dict()
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Qwen3VLProcessor", "image_processor": settings})
    )
    check_folder(folder)
    assert load_processor(folder).image_processor.to_dict() == wanted


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "target"
    with pytest.raises(ZeroDivisionError), written_whole(target) as work:
        (work / "half").write_text("half")
        raise ZeroDivisionError
    assert list(target.parent.iterdir()) == []
    for text in ("first", "second"):
        with written_whole(target) as work:
            (work / text).write_text(text)
            assert not (target / text).exists()
        assert [path.name for path in target.iterdir()] == [text]
    assert list(target.parent.iterdir()) == [target]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"file.*cannot be made"):
            make_folder(place)
    with pytest.raises(InputError, match="cannot be made"), written_whole(tmp_path / "file" / "below"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match="may not be written"):
        make_folder(tmp_path / "locked")


def test_only_the_files_of_a_checkpoint_are_copied(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "copy of it").mkdir()
    copy_side_files(folder, tmp_path / "copy of it")
    copied = {path.name for path in (tmp_path / "copy of it").iterdir()}
    assert copied == {path.name for path in folder.iterdir()} - {"notes.txt", "model.safetensors"}
