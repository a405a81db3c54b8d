"""Other ways to run a checkpoint with transformers: compiled by torch, or quantized by bitsandbytes as it is loaded.

bitsandbytes takes the Linears of the text decoder; the vision tower, the embeddings and the head stay as they are.
    bnb-int8    LLM.int8: rows of weights and of activations in INT8, activations above 6 in 16 bits
    bnb-nf4     4 bits in blocks of 64, computed in the checkpoint's own type
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, Qwen3VLForConditionalGeneration

from shipvlm.errors import ExecutionError, InputError, SetupError
from shipvlm.runtime.model import Engine

KEPT = ["model.visual", "lm_head"]  # by transformers' rule: names that begin so

# Picture features are put where a mask says, and pictures are cut where their lengths say: without the first two torch
# leaves such a function uncompiled and says nothing. So it does past its limit of forms, without the last two. Numbers
# such as an epsilon never change: as inputs they would make torch read each form twice.
COMPILING = {
    "capture_dynamic_output_shape_ops": True,
    "capture_scalar_outputs": True,
    "specialize_float": True,
    "recompile_limit": 64,
    "fail_on_recompile_limit_hit": True,
}


def on_loading(engine: Engine, folder: Path, config: dict[str, Any], dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` for `engine`.

    Raises `SetupError` where what the engine needs is not installed, `InputError` where the checkpoint in `folder` is
    quantized already.
    """
    if engine not in ("bnb-int8", "bnb-nf4"):
        return {}
    if "quantization_config" in config:
        raise InputError(f"{folder}: is quantized already; {engine} takes the checkpoint that it was made from")
    if find_spec("bitsandbytes") is None:
        raise SetupError(f"{engine} needs the package bitsandbytes; install the extra cuda, or leave this variant out")
    chosen: dict[str, Any] = {"load_in_8bit": True}
    if engine == "bnb-nf4":
        chosen = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    # It quantizes on the device; a model that it made cannot be moved.
    return {
        "quantization_config": BitsAndBytesConfig(**chosen, llm_int8_skip_modules=KEPT),
        "device_map": {"": device},
        "dtype": dtype,
    }


def after_loading(engine: Engine, model: Qwen3VLForConditionalGeneration) -> None:
    """Make a loaded `model` run as `engine` says, in place; what torch compiles it compiles at the first request.

    Raises `ExecutionError` where bitsandbytes left out or took other layers than it was asked for.
    """
    if engine == "compile":
        _compile(model)
    elif engine in ("bnb-int8", "bnb-nf4"):
        _check_layers(model)


def _compile(model: Qwen3VLForConditionalGeneration) -> None:
    """Compile the layers of the vision tower, and the decoder whole, for any length."""
    for name, value in COMPILING.items():
        setattr(torch._dynamo.config, name, value)
    for block in model.model.visual.blocks:
        block.compile(dynamic=True)
    model.model.language_model.compile(dynamic=True, fullgraph=True)


def _check_layers(model: Qwen3VLForConditionalGeneration) -> None:
    wanted = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.language_model.")
    }
    found = {name for name, module in model.named_modules() if type(module).__name__ in ("Linear8bitLt", "Linear4bit")}
    if found != wanted:
        other = sorted(found ^ wanted)
        raise ExecutionError(
            f"bitsandbytes was to quantize the decoder's Linears; it differs in {', '.join(other[:3])}"
        )
