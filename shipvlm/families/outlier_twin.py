"""The outlier twin: a Qwen3-VL that computes the same and has the activation outliers of a large model.

Large language models carry a few channels whose activations are tens of times the others; small ones hardly do, so a
static quantizer that works on a small model says little. Here chosen channels are multiplied by `strength` where an
activation is made and divided by it where it is read, which leaves the function as it was (the same identity that
SmoothQuant, arXiv:2211.10438 eq. 3, uses the other way round):

    norm weight * s         q, k, v or gate, up columns / s
    v_proj rows * s         o_proj columns / s   (every query head of the group reads the same value head)
    up_proj rows * s        down_proj columns / s

The inputs of all seven Linears of a decoder layer then have outliers. The channels behind the norms are the same in
every layer, as in the models where outliers were found; the vision tower and the head are left alone.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLTextConfig

from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.layers import DECODER_LAYERS
from shipvlm.folder import WEIGHTS_INDEX, check_folder, copy_side_files, weight_files, written_whole


@dataclass(frozen=True)
class Scaling:
    """Multipliers of one tensor: `rows` [out] and `columns` [in], float32; None leaves that side as it is."""

    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """Return `weight` ([out], or [out, in]) multiplied, in float32."""
        scaled = weight.float()
        if self.rows is not None:
            scaled = scaled * self.rows.to(scaled.device).reshape(-1, *[1] * (scaled.ndim - 1))
        if self.columns is not None:
            scaled = scaled * self.columns.to(scaled.device)
        return scaled


def outlier_twin(model: nn.Module, strength: float, channels: int, seed: int) -> None:
    """Turn a loaded Qwen3-VL `model` into its outlier twin, in place.

    `channels` channels, drawn by `seed`, get activations `strength` times as large. Logits stay equal to rounding in
    FP32, and bit for bit equal where `strength` is a power of two. A model in a 16-bit dtype is rounded to it.
    Raises `InputError` for a strength of 1 or less, a channel count that does not fit, or an unexpected layout.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, Qwen3VLConfig):
        raise InputError(f"an outlier twin can be made of a Qwen3-VL model, not of {type(model).__name__}")
    parameters = dict(model.named_parameters())
    scalings = _scalings(config.text_config, strength, channels, seed)
    _check_names(scalings, set(parameters), "the model")
    with torch.no_grad():
        for name, scaling in scalings.items():
            if name in parameters:
                parameters[name].copy_(scaling.apply(parameters[name]))


def outlier_twin_folder(source: Path, target: Path, strength: float, channels: int, seed: int) -> None:
    """Write the outlier twin of the checkpoint in `source` to the new folder `target`.

    Changed tensors are stored in float32, so that the twin loses nothing; the others keep their dtype. The files of
    the checkpoint beside its weights are copied byte for byte, except the weights index, whose total size changes.
    `target` appears complete or not at all. Raises `InputError` as `outlier_twin` does, for an unfit `source`, and
    when `target` exists.
    """
    config = check_folder(source)
    if "quantization_config" in config:
        raise InputError(f"{source}: is quantized; make the twin of its 16- or 32-bit original, then quantize the twin")
    if target.exists():
        raise InputError(f"{target}: exists already; give the name of a new folder")
    shards = weight_files(source)
    names: set[str] = set()
    for shard in shards:
        try:
            with safe_open(shard, "pt") as tensors:
                names |= set(tensors.keys())
        except SafetensorError as error:
            raise InputError(f"{shard}: not readable as safetensors ({error}); fetch it again") from error
    text_config = Qwen3VLConfig.from_pretrained(source, local_files_only=True).text_config
    scalings = _scalings(text_config, strength, channels, seed)
    _check_names(scalings, names, str(source))

    with written_whole(target) as work:
        copy_side_files(source, work)
        total_size = sum(_write_shard(shard, work / shard.name, scalings) for shard in shards)
        if (source / WEIGHTS_INDEX).is_file():
            index = json.loads((source / WEIGHTS_INDEX).read_text(encoding="utf-8"))
            index.setdefault("metadata", {})["total_size"] = total_size
            (work / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_shard(source: Path, target: Path, scalings: dict[str, Scaling]) -> int:
    """Write one shard of the twin and return the bytes of its tensors."""
    with safe_open(source, "pt") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
    tensors = {
        name: scalings[name].apply(tensor).contiguous() if name in scalings else tensor
        for name, tensor in tensors.items()
    }
    save_file(tensors, target, metadata)
    return sum(tensor.nbytes for tensor in tensors.values())


def _scalings(config: Qwen3VLTextConfig, strength: float, channels: int, seed: int) -> dict[str, Scaling]:
    """Multipliers by tensor name. Biases are listed too; a checkpoint need not have them."""
    if not (np.isfinite(strength) and strength > 1):
        raise InputError(f"strength must be a number above 1, got {strength}")
    values = config.num_key_value_heads * config.head_dim
    widest = min(config.hidden_size, values, config.intermediate_size)
    if not 1 <= channels <= widest:
        raise InputError(f"channels must be between 1 and {widest} for this model, got {channels}")
    draw = np.random.default_rng(seed)

    def multipliers(width: int) -> torch.Tensor:
        vector = torch.ones(width)
        vector[torch.from_numpy(draw.choice(width, channels, replace=False))] = strength
        return vector

    hidden = multipliers(config.hidden_size)
    scalings: dict[str, Scaling] = {}
    for layer in range(config.num_hidden_layers):
        value, up = multipliers(values), multipliers(config.intermediate_size)
        heads = value.reshape(config.num_key_value_heads, config.head_dim)
        output = heads.repeat_interleave(config.num_attention_heads // config.num_key_value_heads, dim=0).flatten()
        scalings |= {
            f"{DECODER_LAYERS}{layer}.{name}": scaling
            for name, scaling in {
                "input_layernorm.weight": Scaling(rows=hidden),
                "self_attn.q_proj.weight": Scaling(columns=1 / hidden),
                "self_attn.k_proj.weight": Scaling(columns=1 / hidden),
                "self_attn.v_proj.weight": Scaling(rows=value, columns=1 / hidden),
                "self_attn.v_proj.bias": Scaling(rows=value),
                "self_attn.o_proj.weight": Scaling(columns=1 / output),
                "post_attention_layernorm.weight": Scaling(rows=hidden),
                "mlp.gate_proj.weight": Scaling(columns=1 / hidden),
                "mlp.up_proj.weight": Scaling(rows=up, columns=1 / hidden),
                "mlp.down_proj.weight": Scaling(columns=1 / up),
            }.items()
        }
    return scalings


def _check_names(scalings: dict[str, Scaling], found: set[str], where: str) -> None:
    missing = sorted(name for name in scalings if name not in found and not name.endswith(".bias"))
    if missing:
        raise InputError(
            f"{where}: {len(missing)} decoder tensors not found, first {missing[0]}; not the layout of Qwen3-VL"
        )
