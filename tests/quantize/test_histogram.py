"""Histograms that widen while they count, against numpy on all values at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.histogram import BINS, Histogram

values = st.floats(-(2.0**40), 2.0**40, width=32) | st.floats(-1, 1, width=32) | st.sampled_from([0.0, -0.0, 1e-40])


def counted(batches: list[np.ndarray]) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(torch.from_numpy(batch))
    return histogram


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.lists(values, min_size=1, max_size=20), min_size=1, max_size=6))
def test_equals_numpy_on_all_values(batches):
    arrays = [np.array(batch, np.float32) for batch in batches]
    histogram = counted(arrays)
    sizes = np.abs(np.concatenate(arrays).astype(np.float64))
    assert histogram.largest == sizes.max()
    expected = np.bincount(np.floor(sizes / histogram.width).astype(int), minlength=BINS)
    np.testing.assert_array_equal(histogram.counts.numpy(), expected)
    # The range is no wider than the largest value needs, so resolution is never lost.
    assert sizes.max() < histogram.width * BINS
    assert sizes.max() >= histogram.width * BINS / 2 or sizes.max() < 2.0**-100


@settings(max_examples=50, deadline=None)
@given(
    numbers=st.lists(values, min_size=2, max_size=60),
    cuts=st.lists(st.integers(1, 59), max_size=4),
    shuffle=st.randoms(use_true_random=False),
)
def test_order_and_batches_do_not_matter(numbers, cuts, shuffle):
    whole = counted([np.array(numbers, np.float32)])
    shuffle.shuffle(numbers)
    parts = [part for part in np.split(np.array(numbers, np.float32), sorted(cuts)) if len(part)]
    split = counted(parts)
    assert torch.equal(whole.counts, split.counts)
    assert (whole.exponent, whole.largest) == (split.exponent, split.largest)


def test_counts_many_batches_exactly():
    draw = np.random.default_rng(0)
    batches = [(draw.standard_t(2, (50, 64)) * 10.0**power).astype(np.float32) for power in range(-3, 4)]
    histogram = counted(batches)
    sizes = np.abs(np.concatenate([batch.ravel() for batch in batches]).astype(np.float64))
    expected, _ = np.histogram(sizes, bins=BINS, range=(0, histogram.width * BINS))
    np.testing.assert_array_equal(histogram.counts.numpy(), expected)
    assert int(histogram.counts.sum()) == 7 * 50 * 64


def test_add_returns_the_largest_of_its_batch():
    histogram = Histogram()
    assert histogram.add(torch.tensor([[-3.0, 2.0]])) == 3.0
    assert histogram.add(torch.tensor([0.5])) == 0.5
    assert histogram.largest == 3.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_refuses_what_is_not_finite(value):
    histogram = Histogram()
    with pytest.raises(ValueError, match="a value is"):
        histogram.add(torch.tensor([1.0, value]))
    assert int(histogram.counts.sum()) == 0
