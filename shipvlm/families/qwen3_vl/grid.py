"""What depends on a picture's grid or on where pictures stand in a prompt: tables the host makes for the graphs.

The formulas are those of transformers 5.17 (`vision_utils.py` and `modeling_qwen3_vl.py`, the functions are named
below), in the same order and precision, in numpy. Patches are in merge-block order: the `merge` x `merge` patches of
one token follow each other, as the processor writes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.shape import Shape, TextShape, VisionShape

Grid = tuple[int, int, int]  # temporal, height and width of one picture in patches; a row of image_grid_thw


@dataclass(frozen=True)
class VisionTables:
    """What the vision graph reads beside the pixels of one picture of N patches.

    `position_index` int64 [4, N] and `position_weight` float32 [4, N]: the four learned positions around each patch
    and their bilinear weights. `cos`, `sin` float32 [N, head_dim / 2]: rotation by row, then by column.
    """

    position_index: np.ndarray
    position_weight: np.ndarray
    cos: np.ndarray
    sin: np.ndarray


def vision_tables(grid: Grid, shape: VisionShape) -> VisionTables:
    """The tables of one picture. After `get_vision_interpolation_indices_and_weights`, `get_vision_position_ids` and
    `Qwen3VLVisionRotaryEmbedding`.

    Raises `InputError` for a grid that is not one frame of whole merge blocks.
    """
    _check_grid(grid, shape.merge)
    _, height, width = grid
    blocks = np.arange(height * width).reshape(height // shape.merge, shape.merge, width // shape.merge, shape.merge)
    row, column = np.divmod(blocks.transpose(0, 2, 1, 3).ravel(), width)
    row_taps, row_weights = _taps(row, height, shape.positions_side)
    column_taps, column_weights = _taps(column, width, shape.positions_side)
    index = row_taps[:, None] * shape.positions_side + column_taps[None]
    weight = row_weights[:, None] * column_weights[None]
    frequencies = _inverse_frequencies(shape.rope_theta, shape.head_dim // 2)
    angles = np.concatenate([side[:, None].astype(np.float32) * frequencies for side in (row, column)], axis=1)
    return VisionTables(index.reshape(4, -1), weight.reshape(4, -1), np.cos(angles), np.sin(angles))


def image_tokens(grid: Grid, merge: int) -> int:
    """How many tokens a picture takes in the prompt. Raises `InputError` as `vision_tables` does."""
    _check_grid(grid, merge)
    return grid[1] * grid[2] // merge**2


def image_index(input_ids: np.ndarray, shape: Shape) -> np.ndarray:
    """Which row of the prompt's image features (its pictures one after the other) each token takes.

    `input_ids` int64 [S] -> int64 [S], -1 where the token is text.
    """
    images = input_ids == shape.image_token_id
    return np.where(images, np.cumsum(images) - 1, -1)


def mrope_positions(input_ids: np.ndarray, grids: Sequence[Grid], shape: Shape) -> tuple[np.ndarray, int]:
    """Time, height and width position of each token of one unpadded prompt. After `Qwen3VLModel.get_rope_index`.

    `input_ids` int64 [S] -> (int64 [3, S], the position of the first generated token in all three).
    Raises `InputError` when the image tokens are not one unbroken run for each of `grids`, of its size.
    """
    merge = shape.vision.merge
    images = np.concatenate([[False], input_ids == shape.image_token_id, [False]])
    starts, ends = np.flatnonzero(images[1:] != images[:-1]).reshape(-1, 2).T
    runs, wanted = (ends - starts).tolist(), [image_tokens(grid, merge) for grid in grids]
    if runs != wanted:
        raise InputError(
            f"the prompt has runs of {runs} image tokens, its pictures take {wanted}: every picture needs its own run "
            "of image tokens, with text between; use the checkpoint's chat template and processor, without truncation"
        )
    positions = np.empty((3, len(input_ids)), np.int64)
    token = position = 0
    for start, end, (_, height, width) in zip(starts, ends, grids, strict=True):
        positions[:, token:start] = np.arange(start - token) + position
        position += start - token
        rows, columns = np.divmod(np.arange(end - start), width // merge)
        positions[:, start:end] = np.stack([np.zeros_like(rows), rows, columns]) + position
        position += max(height, width) // merge
        token = end
    positions[:, token:] = np.arange(len(input_ids) - token) + position
    return positions, int(position + len(input_ids) - token)


def mrope_tables(positions: np.ndarray, shape: TextShape) -> tuple[np.ndarray, np.ndarray]:
    """Rotation of S tokens: `positions` int64 [3, S] -> cos, sin float32 [S, head_dim / 2].

    Interleaved M-RoPE: of the frequencies 0, 1, 2 ... every third one from 1 follows the height and every third one
    from 2 the width, as many as `mrope_section` says; the others follow the time. After `Qwen3VLTextRotaryEmbedding`.
    """
    frequencies = _inverse_frequencies(shape.rope_theta, shape.head_dim)
    axis = np.zeros(len(frequencies), np.int64)
    for number in (1, 2):
        axis[number : 3 * shape.mrope_section[number] : 3] = number
    angles = positions[axis].T.astype(np.float32) * frequencies
    return np.cos(angles), np.sin(angles)


def _check_grid(grid: Grid, merge: int) -> None:
    frames, height, width = grid
    if frames != 1:
        raise InputError(f"grid {tuple(grid)} has {frames} frames; videos are not covered, only pictures")
    if min(height, width) < merge or height % merge or width % merge:
        raise InputError(
            f"grid {tuple(grid)} is not made of whole blocks of {merge} x {merge} patches; "
            "use the checkpoint's own processor"
        )


def _taps(place: np.ndarray, size: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The two of `side` learned positions around each `place` of `size`, corners aligned: int64, float32 [2, N]."""
    source = place.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
    below = np.floor(source)
    above_weight = source - below
    taps = below.astype(np.int64) + np.arange(2)[:, None]
    weights = np.stack([1 - above_weight, np.float32(1) - np.abs(above_weight - np.float32(1))])
    return np.minimum(taps, side - 1), weights


def _inverse_frequencies(theta: float, width: int) -> np.ndarray:
    """theta ** (-2 i / width), float32 [width / 2]. The power is taken in float64 and rounded once: where torch rounds
    correctly, which it nearly always does, that is its number bit for bit."""
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    return np.float32(1) / np.power(theta, exponents.astype(np.float64)).astype(np.float32)
