"""The schemes, in the words of compressed-tensors: what becomes integers, and what never does."""

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
from shipvlm.recipe import Scheme
from shipvlm.schemes import SCALES

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
