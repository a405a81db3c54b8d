"""Unique pictures: no cache can answer a timed request, for no two of them show the same picture.

The lowest two bits of a small block of pixels are drawn anew from a name for the request (variant, block, repeat ...):
a change that nobody sees, of the same size and the same work. That it reached the model is checked on what the model
read: the digest of each picture's patches is in the line of its request.
"""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
from PIL import Image

from bench.observations import short
from shipvlm.errors import ExecutionError
from shipvlm.runtime.inputs import Batch

SIDE = 16  # pixels of the block: resizing blurs some away, not 256 of them
BITS = 2


def salted(image: Image.Image, salt: str) -> Image.Image:
    """An RGB picture with the lowest bits of a block of its pixels drawn from `salt`: the same for the same salt."""
    pixels = np.array(image.convert("RGB"))
    rng = np.random.default_rng(list(salt.encode()))
    top, left = (int(rng.integers(0, max(1, size - SIDE))) for size in pixels.shape[:2])
    block = pixels[top : top + SIDE, left : left + SIDE]
    block &= 0xFF ^ (2**BITS - 1)
    block |= rng.integers(0, 2**BITS, block.shape, dtype=np.uint8)
    return Image.fromarray(pixels)


def digests(batch: Batch) -> tuple[str, ...]:
    """Of what the model reads of each picture of an encoded batch."""
    sizes = [math.prod(grid) for grids in batch.grids for grid in grids]
    pictures = np.split(batch.pixel_values, np.cumsum(sizes)[:-1])
    return tuple(short(picture.tobytes()) for picture in pictures)


def refuse_repeated(digests: Iterable[str]) -> None:
    """Raises ExecutionError where a picture was seen twice: a cache may have answered for the model."""
    twice = [digest for digest, count in Counter(digests).items() if count > 1]
    if twice:
        raise ExecutionError(
            f"{len(twice)} pictures of timed requests were seen more than once, first {twice[0]}: a cache may have "
            "answered, so these times are not used; delete the observations and measure again"
        )
