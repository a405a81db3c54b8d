"""The leakage guard: no evaluation picture, nor a near-duplicate of it, may be in calibration or training.

A picture's fingerprint is two hashes that both must agree. Each is a set of signs of low DCT frequencies (the
perceptual hash of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), taken not
from the brightness but from the edges, which stay where they are when a picture is recoloured:

- where edges are: the strength of the colour gradient (S. Di Zenzo, "A note on the gradient of a multi-image", 1986);
- which way they run: that gradient's direction as a double angle, so that its sign, which recolouring flips, is lost.

Small rotations are found by comparing a picture with rotated versions of the other (`fingerprints_rotated`).

Only numpy, scipy and PIL are needed here, so that a training machine without this project's other libraries can run it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from shipvlm.errors import InputError

if TYPE_CHECKING:
    from calib_data.records import Record

SIDE = 64  # pixels of the square on which edges are computed
MARGIN = 0.08  # of each side, cut off: it holds the empty corners that a rotation of 5 degrees leaves
BLUR = 1.5  # pixels; makes a picture and its half-size copy alike
CONTRAST = 20.0  # grey levels a pixel at which an edge counts half; weaker ones (noise, JPEG) fade
ROTATIONS = (-5.0, -3.3, -1.7, 1.7, 3.3, 5.0)  # degrees
STRENGTH_SIZE, DIRECTION_SIZE = 16, 12  # DCT frequencies kept a side
STRENGTH_BITS, DIRECTION_BITS = STRENGTH_SIZE**2, 2 * DIRECTION_SIZE**2
STRENGTH_WORDS, DIRECTION_WORDS = -(-STRENGTH_BITS // 64), -(-DIRECTION_BITS // 64)
WORDS = STRENGTH_WORDS + DIRECTION_WORDS
THRESHOLD = 0.22  # differing bits, as a fraction of either hash; measured by tests/calib_data/measure_guard.py

# A symmetric picture has DCT coefficients that are zero, whose signs are noise. This slope breaks the symmetry.
_SLOPE = 0.6 + 0.8 * (np.arange(SIDE) + 0.5) / SIDE
_WEIGHT = np.outer(_SLOPE, _SLOPE)

Words = NDArray[np.uint64]


class Pair(NamedTuple):
    """Two pictures that look like one; `distance` is the larger fraction of differing bits of the two hashes."""

    left_index: int
    right_index: int
    distance: float


def fingerprint(image: Image.Image) -> Words:
    """The bits of one picture: uint64 of shape (WORDS,) = (9,), 4 of edge strength then 5 of edge direction.

    Any mode and size. Two pictures without any edge have the same fingerprint.
    """
    strength, across, along = edge_maps(image)
    directions = (dct_bits(across, DIRECTION_SIZE), dct_bits(along, DIRECTION_SIZE))
    return np.concatenate((_pack(dct_bits(strength, STRENGTH_SIZE)), _pack(np.concatenate(directions))))


def fingerprints_rotated(image: Image.Image) -> Words:
    """The bits of a picture and of its small rotations: uint64 of shape (1 + 2 * len(ROTATIONS), WORDS).

    Each rotation is taken twice, with the frame kept and with the frame grown; the corners get the median colour.
    Row 0 is `fingerprint(image)`.
    """
    small = image.convert("RGB")
    small.thumbnail((3 * SIDE, 3 * SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    ground = tuple(int(v) for v in np.median(np.asarray(small).reshape(-1, 3), axis=0))
    turned = (
        small.rotate(angle, Image.Resampling.BILINEAR, expand=expand, fillcolor=ground)
        for expand in (False, True)
        for angle in ROTATIONS
    )
    return np.stack([fingerprint(image), *(fingerprint(version) for version in turned)])


def edge_maps(image: Image.Image) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Edge strength, and that strength times the cosine and sine of its double angle: three float64 (SIDE, SIDE).

    Strength is power / (power + CONTRAST^2) in [0, 1), power being the squared colour gradient summed over channels;
    all three are weighted by the slope that breaks symmetry.
    """
    width, height = image.size
    box = (width * MARGIN, height * MARGIN, width * (1 - MARGIN), height * (1 - MARGIN))
    square = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    pixels = scipy.ndimage.gaussian_filter(np.asarray(square, dtype=np.float32), BLUR, axes=(0, 1))
    down, right = np.gradient(pixels, axis=(0, 1))
    xx, yy, xy = (right * right).sum(2), (down * down).sum(2), (right * down).sum(2)
    power = (xx + yy).astype(np.float64)
    weight = _WEIGHT / (power + CONTRAST**2)
    return weight * power, weight * (xx - yy), weight * 2 * xy


def dct_bits(plane: NDArray[np.floating], size: int) -> NDArray[np.bool_]:
    """Which of the `size` x `size` lowest DCT-II coefficients lie above their median: bool (size * size,)."""
    low = scipy.fft.dctn(plane.astype(np.float64), type=2)[:size, :size]
    return (low > np.median(low)).ravel()


def _pack(bits: NDArray[np.bool_]) -> Words:
    return np.packbits(np.pad(bits, (0, -len(bits) % 64))).view(np.uint64)


def near_duplicates(left: Words, right: Words, threshold: float = THRESHOLD) -> list[Pair]:
    """Every (left, right) pair of pictures whose two hashes both differ in at most `threshold` of their bits.

    left: uint64 (n, WORDS), or (n, r, WORDS) with r versions of each picture, of which the nearest counts.
    right: uint64 (m, WORDS). Compares all n * r * m pairs by Hamming distance on all cores.
    Returns pairs sorted by (left_index, right_index), one for two pictures. Raises InputError on other shapes or types.
    """
    _require(left, (2, 3), "left")
    _require(right, (2,), "right")
    versions = left.shape[1] if left.ndim == 3 else 1
    rows = np.ascontiguousarray(left.reshape(-1, WORDS))
    if not len(rows) or not len(right):
        return []
    block = 4096
    starts = range(0, len(right), block)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda start: _near_in_block(rows, right[start : start + block], threshold), starts))
    nearest: dict[tuple[int, int], float] = {}
    for start, (row, column, distance) in zip(starts, found, strict=True):
        for i, j, d in zip(row // versions, column + start, distance, strict=True):
            key = (int(i), int(j))
            nearest[key] = min(float(d), nearest.get(key, 1.0))
    return [Pair(i, j, d) for (i, j), d in sorted(nearest.items())]


def _near_in_block(rows: Words, block: Words, threshold: float) -> tuple[NDArray, NDArray, NDArray]:
    """(row, column, distance) of the near pairs of `rows` (p, WORDS) with one block (q, WORDS) of the other side."""
    columns = np.ascontiguousarray(block.T)
    step = 16  # rows at once: what is written then stays in the processor's cache
    differing = np.empty((step, len(block)), np.uint64)
    bits = np.empty((step, len(block)), np.uint8)
    total = np.empty((step, len(block)), np.uint16)
    hits = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        xor, count, sums = differing[: len(part)], bits[: len(part)], total[: len(part)]
        sums[:] = 0
        for word in range(STRENGTH_WORDS):
            np.bitwise_xor(part[:, word, None], columns[word], out=xor)
            np.bitwise_count(xor, out=count)
            sums += count
        candidate = sums <= threshold * STRENGTH_BITS
        if not candidate.any():  # most blocks; np.nonzero costs as much as two words
            continue
        row, column = np.nonzero(candidate)
        strength = sums[row, column] / STRENGTH_BITS
        others = part[row, STRENGTH_WORDS:] ^ block[column, STRENGTH_WORDS:]
        direction = np.bitwise_count(others).sum(1) / DIRECTION_BITS
        near = direction <= threshold
        hits.append((row[near] + start, column[near], np.maximum(strength, direction)[near]))
    none = (np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0))
    row, column, distance = (np.concatenate(part) for part in zip(none, *hits, strict=True))
    return row, column, distance


def check(left: Sequence[Record], right: Sequence[Record]) -> list[tuple[str, str, float]]:
    """(left id, right id, distance) of every near-duplicate between two sets of records; empty when the guard is green.

    `left` is the evaluation side, whose pictures are compared in all their small rotations.
    """
    from calib_data.records import picture  # here, because a training machine has no pydantic

    if not left or not right:
        return []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ours = np.stack(list(pool.map(lambda record: fingerprints_rotated(picture(record)), left)))
        theirs = np.stack(list(pool.map(lambda record: fingerprint(picture(record)), right)))
    return [(left[i].id, right[j].id, distance) for i, j, distance in near_duplicates(ours, theirs)]


def save_fingerprints(path: Path, fingerprints: Words) -> None:
    """Writes fingerprints as .npy. Raises InputError on another shape or type."""
    _require(fingerprints, (2, 3), "fingerprints")
    with open(path, "wb") as file:
        np.save(file, fingerprints, allow_pickle=False)


def load_fingerprints(path: Path) -> Words:
    """Reads what `save_fingerprints` wrote. Raises InputError when the file holds anything else."""
    try:
        fingerprints = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is no .npy file of fingerprints: {error}") from error
    if not isinstance(fingerprints, np.ndarray):
        raise InputError(f"{path} is no .npy file of fingerprints: it holds several arrays")
    _require(fingerprints, (2, 3), str(path))
    return fingerprints


def _require(words: Words, dimensions: tuple[int, ...], name: str) -> None:
    if words.dtype != np.uint64 or words.ndim not in dimensions or words.shape[-1] != WORDS:
        raise InputError(
            f"{name}: fingerprints are uint64 with {WORDS} words in the last of {dimensions} dimensions; "
            f"got {words.dtype} of shape {words.shape}: make them with calib_data.leakage.fingerprint"
        )
