"""Host tables against transformers' own functions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3VLConfig, Qwen3VLModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding, Qwen3VLVisionRotaryEmbedding
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.grid import image_index, mrope_positions, mrope_tables, vision_tables
from shipvlm.families.qwen3_vl.published import PUBLISHED
from shipvlm.families.qwen3_vl.shape import read_shape

CONFIG = PUBLISHED["qwen3-vl-8b"]
SHAPE = read_shape(CONFIG)
REFERENCE = Qwen3VLConfig(**CONFIG)
IMAGE, TEXT = SHAPE.image_token_id, 7

sides = st.integers(1, 40)
grids = st.one_of(
    st.tuples(sides, sides), st.tuples(st.just(1), st.integers(2, 400)), st.tuples(st.integers(2, 400), st.just(1))
).map(lambda merged: (1, 2 * merged[0], 2 * merged[1]))


@given(grids)
@settings(max_examples=60, deadline=None)
def test_the_vision_tables_are_those_of_transformers(grid):
    tables = vision_tables(grid, SHAPE.vision)

    thw = torch.tensor([grid])
    index, weight = get_vision_interpolation_indices_and_weights(thw, 48, align_corners=True, spatial_merge_size=2)
    cos, sin = Qwen3VLVisionRotaryEmbedding(REFERENCE.vision_config)(torch.zeros(1), get_vision_position_ids(thw, 2))
    np.testing.assert_array_equal(tables.position_index, index.T)
    np.testing.assert_array_equal(tables.position_weight, weight.T)
    half = SHAPE.vision.head_dim // 2
    np.testing.assert_allclose(tables.cos, cos[:, :half], rtol=0, atol=2e-7)
    np.testing.assert_allclose(tables.sin, sin[:, :half], rtol=0, atol=2e-7)
    assert [tables.position_weight.dtype, tables.cos.dtype, tables.sin.dtype] == [np.float32] * 3


@pytest.fixture(scope="module")
def rope_index():
    with torch.device("meta"):
        return Qwen3VLModel(REFERENCE).get_rope_index


@given(st.lists(st.tuples(grids, st.integers(1, 9)), max_size=4), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_positions_and_their_tables_are_those_of_transformers(rope_index, pictures, tail):
    chosen, prompt = [grid for grid, _ in pictures], []
    for grid, text in pictures:
        prompt += [TEXT] * text + [IMAGE] * (grid[1] * grid[2] // 4)
    ids = np.array(prompt + [TEXT] * max(tail, 0 if prompt else 1))

    positions, after = mrope_positions(ids, chosen, SHAPE)
    cos, sin = mrope_tables(positions, SHAPE.text)

    thw = torch.tensor(chosen) if chosen else None
    reference, delta = rope_index(torch.tensor(ids[None]), torch.tensor(ids[None] == IMAGE).int(), image_grid_thw=thw)
    np.testing.assert_array_equal(positions, reference[:, 0])
    assert after == len(ids) + delta.item()
    rotation = Qwen3VLTextRotaryEmbedding(REFERENCE.text_config)
    wanted_cos, wanted_sin = rotation(torch.zeros(1), reference)
    # A frequency may differ by one rounding, and the angle is that often multiplied.
    limit = 2e-7 + float(positions.max()) * 2.0**-24
    np.testing.assert_allclose(cos, wanted_cos[0, :, :64], rtol=0, atol=limit)
    np.testing.assert_allclose(sin, wanted_sin[0, :, :64], rtol=0, atol=limit)
    assert cos.dtype == sin.dtype == np.float32


def test_every_frequency_follows_the_axis_that_transformers_gives_it():
    positions = np.array([[0, 3, 0, 0], [0, 0, 5, 0], [0, 0, 0, 9]])

    cos, sin = mrope_tables(positions, SHAPE.text)

    wanted_cos, wanted_sin = Qwen3VLTextRotaryEmbedding(REFERENCE.text_config)(
        torch.zeros(1), torch.tensor(positions)[:, None]
    )
    np.testing.assert_allclose(cos, wanted_cos[0, :, :64], rtol=0, atol=1e-6)
    np.testing.assert_allclose(sin, wanted_sin[0, :, :64], rtol=0, atol=1e-6)


def test_image_tokens_are_numbered_through_the_pictures():
    ids = np.array([TEXT, IMAGE, IMAGE, TEXT, IMAGE, TEXT])

    assert image_index(ids, SHAPE).tolist() == [-1, 0, 1, -1, 2, -1]


@pytest.mark.parametrize(
    ("ids", "chosen"),
    [
        ([TEXT, IMAGE, TEXT], []),
        ([TEXT, IMAGE, TEXT], [(1, 2, 4)]),
        ([TEXT, TEXT], [(1, 2, 2)]),
        ([IMAGE, IMAGE], [(1, 2, 2), (1, 2, 2)]),
    ],
)
def test_a_prompt_whose_image_tokens_do_not_fit_its_pictures_is_refused(ids, chosen):
    with pytest.raises(InputError, match="runs of"):
        mrope_positions(np.array(ids), chosen, SHAPE)


@pytest.mark.parametrize(
    ("grid", "problem"), [((2, 4, 4), "frames"), ((1, 3, 4), "blocks"), ((1, 4, 3), "blocks"), ((1, 0, 4), "blocks")]
)
def test_a_grid_that_is_no_picture_is_refused(grid, problem):
    with pytest.raises(InputError, match=problem):
        vision_tables(grid, SHAPE.vision)
