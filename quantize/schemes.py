"""The schemes, in the words of compressed-tensors: what becomes integers, and which layers."""

import difflib
from collections.abc import Sequence

from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    QuantizationStrategy,
)
from compressed_tensors.utils import match_name

from quantize.rtn import weight_args
from shipvlm.errors import InputError
from shipvlm.recipe import Scheme
from shipvlm.schemes import SCALES
from shipvlm.sizes import ignored

# What the family never quantizes. Servers rename modules, and a pattern is not renamed with them: these two match
# `lm_head` and `model.visual.*` of transformers as well as `language_model.lm_head` and `visual.*` of vLLM.
FAMILY_IGNORE = ("re:.*lm_head", "re:.*visual.*")


def quantization_scheme(name: Scheme) -> QuantizationScheme:
    """The scheme of that name: symmetric integers, one scale a tensor for activations."""
    scale = SCALES[name]
    activations = QuantizationArgs(num_bits=8, strategy=QuantizationStrategy.TENSOR) if scale.activations else None
    return QuantizationScheme(
        targets=["Linear"],
        weights=weight_args(scale.bits, scale.group),
        input_activations=activations,
        format=CompressionFormat.int_quantized if scale.activations else CompressionFormat.pack_quantized,
    )


def quantization_config(scheme: QuantizationScheme, left: Sequence[str]) -> QuantizationConfig:
    """What config.json says: `scheme` on every Linear except those of the family and the layers named in `left`."""
    return QuantizationConfig(
        config_groups={"group_0": scheme},
        format=scheme.format,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=[*FAMILY_IGNORE, *left],
    )


def is_quantized(layer: str, config: QuantizationConfig) -> bool:
    """Whether a reader of config.json takes the Linear `layer` for quantized."""
    return not any(match_name(layer, pattern) for pattern in config.ignore or ())


def split_layers(
    groups: Sequence[tuple[str, ...]], ignore: Sequence[str]
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """The groups of layers to quantize, and the names of the layers that `ignore` leaves as they are.

    An entry of `ignore` is the name of a layer, or `re:` and a pattern for the beginning of names. Raises InputError
    for an entry that matches nothing, a broken pattern, a group that is matched in part (its layers read the same
    input, and servers fuse them), and when nothing is left to quantize.
    """
    names = [name for group in groups for name in group]
    found = ignored(names, ignore)
    for entry, matched in found.items():
        if not matched:
            raise InputError(f"quantize.ignore: '{entry}' matches no layer of the text decoder{_hint(entry, names)}")
    left = {name for matched in found.values() for name in matched}
    for group in groups:
        missed = [name for name in group if name not in left]
        if 0 < len(missed) < len(group):
            raise InputError(
                f"quantize.ignore: {', '.join(name for name in group if name in left)} and {', '.join(missed)} read "
                "the same input and are quantized together or not at all: add the missing ones, or take these out"
            )
    if len(left) == len(names):
        raise InputError("quantize.ignore: leaves nothing to quantize")
    quantized = [group for group in groups if group[0] not in left]
    return quantized, tuple(name for name in names if name in left)


def _hint(entry: str, names: list[str]) -> str:
    if entry.startswith("re:"):
        return f": a pattern is matched from the beginning of a name such as {names[0]}"
    return f": did you mean {difflib.get_close_matches(entry, names, n=1, cutoff=0.0)[0]}?"
