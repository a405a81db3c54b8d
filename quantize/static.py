"""From a calibration to one static INT8 scale for each input of the text decoder's Linears, and what it cuts off."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch

from calib_data.records import Record, digest
from quantize.calibrate import Calibration, Site
from quantize.observers import LARGEST_INTEGER, clip, clipped_share
from shipvlm.errors import InputError
from shipvlm.recipe import QuantizeSection

COARSEST = 0.01  # the largest relative error with which a scale may be stored


def input_scales(
    calibration: Calibration, section: QuantizeSection, dtypes: Mapping[str, torch.dtype]
) -> list[torch.Tensor]:
    """The scale of each site of `calibration`, [1], as it is stored: rounded to the dtype of the layers' weights.

    A runtime that computes in that dtype then reads the same number as one that computes in float32. dtypes: those of
    the source's tensors. Raises InputError naming the layer for an input that has no scale: it is always zero, the
    observer saw too little of it, or the dtype cannot hold it.
    """
    return [_input_scale(site, section, dtypes) for site in calibration.sites]


def _input_scale(site: Site, section: QuantizeSection, dtypes: Mapping[str, torch.dtype]) -> torch.Tensor:
    try:
        scale = clip(site.histogram, section.observer, section.percentile) / LARGEST_INTEGER
    except InputError as error:
        raise InputError(f"the input of {site.layers[0]}: {error}") from error
    dtype = reduce(torch.promote_types, (dtypes[f"{layer}.weight"] for layer in site.layers))
    stored = torch.tensor([scale], dtype=torch.float64).to(dtype)
    if not abs(float(stored) - scale) <= COARSEST * scale:
        raise InputError(
            f"the input of {site.layers[0]}: its scale {scale:.3g} cannot be stored as {dtype}, the type of its "
            "weights: leave the layers that read it as they are (quantize.ignore)"
        )
    return stored


def calibration_report(
    calibration: Calibration, scales: Sequence[torch.Tensor], records: Sequence[Record], batch_size: int
) -> dict[str, Any]:
    """What is worth knowing of a calibration: its data, and every site with its scale and what that cuts off."""
    return {
        "digest": digest(records),
        "records": calibration.records,
        "batch_size": batch_size,
        "image_tokens": calibration.image_tokens,
        "text_tokens": calibration.text_tokens,
        "inputs": [
            {
                "layers": list(site.layers),
                "scale": float(scale),
                "largest_image": site.largest_image,
                "largest_text": site.largest_text,
                "clipped_share": clipped_share(site.histogram, float(scale)),
            }
            for site, scale in zip(calibration.sites, scales, strict=True)
        ],
    }
