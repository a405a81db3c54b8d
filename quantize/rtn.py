"""Round-to-nearest: the data-free baseline of weight quantization.

The rounding is compressed-tensors' own, so that what is measured here is what a server computes after loading
the written checkpoint. For `b` bits, symmetric, per output channel or per group of input columns:

    scale = max|w| / ((2^b - 1) / 2)          q = clamp(round_half_even(w / scale), -2^(b-1), 2^(b-1) - 1)

(compressed_tensors 0.19, `quantization/utils/helpers.py:calculate_qparams` and `quantization/quant_args.py`).
"""

from collections.abc import Mapping

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from torch import nn

from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.layers import DECODER_LAYERS


def weight_args(bits: int, group_size: int | None) -> QuantizationArgs:
    """The compressed-tensors description of symmetric integer weights.

    `group_size` None means one scale an output channel, else one scale for that many input columns.
    Raises InputError for a width outside 2..8 bits or a group size below 1.
    """
    if not 2 <= bits <= 8:
        raise InputError(f"weights can be rounded to 2..8 bits, not {bits}")
    if group_size is None:
        return QuantizationArgs(num_bits=bits, strategy=QuantizationStrategy.CHANNEL)
    if group_size < 1:
        raise InputError(f"a group is at least one column wide, not {group_size}; leave it out for one scale a channel")
    return QuantizationArgs(num_bits=bits, strategy=QuantizationStrategy.GROUP, group_size=group_size)


def weight_scale(weight: torch.Tensor, args: QuantizationArgs) -> torch.Tensor:
    """Scales of `weight` [out, in], any float dtype: float32 [out, 1] a channel or [out, in / group_size] a group."""
    columns = args.group_size or weight.shape[1]
    low, high = weight.float().unflatten(1, (-1, columns)).aminmax(dim=2)
    scale, _ = calculate_qparams(low, high, args)
    return scale


def decoder_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The Linear layers of the text decoder by their names in the checkpoint, in model order.

    The vision tower, the embedding and the head are left out: rounding them costs accuracy and saves little.
    Raises InputError when the model has no such layer.
    """
    linears = {
        name: module
        for name, module in model.named_modules()
        if name.startswith(DECODER_LAYERS) and isinstance(module, nn.Linear)
    }
    if not linears:
        raise InputError(f"no Linear layer under '{DECODER_LAYERS}*': is this a Qwen-VL style checkpoint?")
    return linears


def check_groups(widths: Mapping[str, int], group_size: int | None) -> None:
    """Raises InputError naming the first layer whose input width is not a whole number of groups."""
    for name, width in widths.items():
        if group_size and width % group_size:
            raise InputError(
                f"{name} has {width} input columns, which {group_size} does not divide: "
                "choose a group size that divides every layer, or per-channel scales"
            )


@torch.no_grad()
def round_to_nearest(model: nn.Module, bits: int, group_size: int | None) -> int:
    """Rounds the text decoder's Linear weights of a loaded model in place (they stay dense, in their own dtype).

    Returns how many layers were rounded. Raises InputError as `weight_args` and `check_groups` do, before any change.
    """
    args = weight_args(bits, group_size)
    linears = decoder_linears(model)
    check_groups({name: linear.in_features for name, linear in linears.items()}, group_size)
    for linear in linears.values():
        weight = linear.weight.float()
        scale = weight_scale(weight, args)
        linear.weight.copy_(fake_quantize(weight, scale, torch.zeros_like(scale), args))
    return len(linears)
