"""Unique pictures: a change that nobody sees, that reaches the model, and that cannot be forgotten."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.salt import refuse_repeated, salted
from shipvlm.errors import ExecutionError


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.text())
def test_a_salted_picture_has_the_same_size_and_looks_the_same(width, height, salt):
    image = noise(width, height)
    found = salted(image, salt)
    change = np.abs(np.asarray(found, int) - np.asarray(image, int))
    assert found.size == image.size
    assert change.max() <= 3
    assert (change > 0).any(-1).sum() <= 16 * 16
    assert found.tobytes() == salted(image, salt).tobytes()


def test_each_salt_makes_another_picture_also_where_it_is_shrunk():
    image = Image.new("RGB", (256, 256), "white")
    names = [f"run/variant/{block}/{repeat}" for block in range(10) for repeat in range(10)]
    for size in (256, 128, 64):
        small = {salted(image, name).resize((size, size), Image.Resampling.BICUBIC).tobytes() for name in names}
        assert len(small) == len(names)


def test_the_picture_that_is_given_stays_as_it_is():
    image = noise(40, 40)
    before = image.tobytes()
    salted(image, "x")
    assert image.tobytes() == before


def test_pictures_that_were_seen_twice_are_refused():
    refuse_repeated(["a", "b", "c"])
    refuse_repeated([])
    with pytest.raises(ExecutionError, match="1 pictures of timed requests were seen more than once, first b"):
        refuse_repeated(["a", "b", "c", "b", "b"])
