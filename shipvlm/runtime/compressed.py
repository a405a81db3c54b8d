"""Checkpoints in compressed-tensors format: their weights become floats once, when the model is loaded.

Left alone, transformers turns the integers into floats in the first call of the whole model, which never comes where
its parts are called one by one. Static scales of activations stay: the Linears round their inputs with them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from compressed_tensors.compressors.model_compressors import model_compressor
from compressed_tensors.offload import dispatch
from compressed_tensors.quantization.lifecycle import apply
from compressed_tensors.utils import patch_attrs
from transformers import PreTrainedModel

BARS = (apply, model_compressor, dispatch)  # modules that draw progress bars which no setting turns off


def unpack(model: PreTrainedModel) -> None:
    """Turn the integer weights of a loaded `model` into floats, in place; a model that has none stays as it is."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        with without_bars():
            quantizer.compressor.decompress_model(model)


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside the `with`, compressed-tensors draws no progress bars."""
    with patch_attrs(BARS, "tqdm", [_no_bar] * len(BARS)):
        yield


def _no_bar(items: Iterable[object], **_: object) -> Iterable[object]:
    return items
