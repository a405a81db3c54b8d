import random

from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from calib_data.scenes.canvas import MAX_PIXELS, MIN_PIXELS, contrast, grid_of, luminance, random_size


@given(width=st.integers(96, 1600), height=st.integers(96, 1600))
def test_grid_is_the_processors(width: int, height: int) -> None:
    h, w = smart_resize(height, width, factor=32, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    assert grid_of(width, height) == (h // 32, w // 32)


def test_sizes_cover_the_promised_range() -> None:
    rng = random.Random(0)
    sizes = [random_size(rng) for _ in range(3000)]
    assert min(min(size) for size in sizes) < 104
    assert max(max(size) for size in sizes) > 620
    assert all(96 <= edge <= 640 for size in sizes for edge in size)
    assert max(w / h for w, h in sizes) > 2
    assert min(w / h for w, h in sizes) < 0.5


@given(seed=st.integers(0, 10**6), ground=st.tuples(*[st.integers(0, 255)] * 3))
def test_text_can_be_told_from_its_ground(seed: int, ground: tuple[int, int, int]) -> None:
    assert abs(luminance(contrast(random.Random(seed), ground)) - luminance(ground)) >= 110
