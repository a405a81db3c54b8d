"""Loading refuses what does not fit, and gives what was asked for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shipvlm.errors import InputError, SetupError
from shipvlm.families.qwen3_vl.processor import conversation
from shipvlm.runtime.checkpoint import load, prepare
from tests.shipvlm.made_requests import REQUESTS


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.language_model.norm.weight"]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.language_model.extra.weight"] = torch.zeros(1)


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.language_model.norm.weight"] = torch.zeros(7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "1 missing tensors, first model.language_model.norm.weight"),
        (add, "1 unexpected tensors, first model.language_model.extra.weight"),
        (reshape, "1 mismatched tensors, first .*model.language_model.norm.weight"),
    ],
)
def test_refuses_other_tensors(
    tiny_checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=message):
        load(folder)


def test_refuses_a_truncated_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="transformers cannot load it"):
        load(folder)


def test_a_checkpoint_cannot_choose_a_kernel(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "owner/repo"}))
    with pytest.raises(InputError, match="has attn_implementation"):
        load(folder)


def test_dtype_is_what_was_asked_for(tiny_checkpoint: Path) -> None:
    model = load(tiny_checkpoint, dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_refuses_cuda_where_there_is_none(tiny_checkpoint: Path) -> None:
    with pytest.raises(SetupError, match="no CUDA device"):
        load(tiny_checkpoint, device="cuda")


def test_arguments_are_those_that_the_processor_makes(tiny_checkpoint: Path) -> None:
    checkpoint = load(tiny_checkpoint)
    processor = checkpoint.processor
    for requests in (REQUESTS, REQUESTS[1:2], REQUESTS[2:4]):
        texts = [
            processor.apply_chat_template(conversation(each.prompt, len(each.images)), add_generation_prompt=True)
            for each in requests
        ]
        images = [image for each in requests for image in each.images]
        wanted = processor(text=texts, images=images or None, padding=True, return_tensors="pt")
        found = prepare(checkpoint, requests)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
