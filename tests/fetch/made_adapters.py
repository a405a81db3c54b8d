"""Adapters as PEFT writes them, on the tiny checkpoint, with random numbers; and what PEFT itself makes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import Qwen3VLForConditionalGeneration

TEXT = ["q_proj", "down_proj"]


def model_of(base: Path) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(base, dtype="auto")


def made_base(source: Path, folder: Path, dtype: torch.dtype = torch.float32, shards: str = "5GB") -> Path:
    """`source` with its weights in `dtype`, in files of at most the size `shards`."""
    from shipvlm.folder import copy_side_files

    folder.mkdir(parents=True)
    Qwen3VLForConditionalGeneration.from_pretrained(source, dtype=dtype).save_pretrained(folder, max_shard_size=shards)
    config = (folder / "config.json").read_bytes()
    copy_side_files(source, folder)
    (folder / "config.json").write_bytes(config)
    return folder


def made_adapter(base: Path, folder: Path, seed: int = 0, **fields: Any) -> Path:
    """A LoRA on `base`, saved by PEFT, with every number of it random."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TEXT, **fields})
    tuned = get_peft_model(model_of(base), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_magnitude_vector" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
            elif parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(str(folder))
    return folder


def merged_by_peft(base: Path, adapters: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The whole model, loaded and merged by PEFT: name in the checkpoint -> tensor."""
    names = [f"a{number}" for number in range(len(adapters))]
    tuned = PeftModel.from_pretrained(model_of(base), adapters[0], adapter_name=names[0])
    for name, adapter in list(zip(names, adapters, strict=True))[1:]:
        tuned.load_adapter(adapter, name)
    return tuned.merge_and_unload(adapter_names=names).state_dict()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
