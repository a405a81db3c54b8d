"""Clips chosen from a histogram, against float64 references on the values themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from quantize.histogram import BINS, Histogram
from quantize.observers import ENTROPY_BINS, ENTROPY_LEVELS, MSE_STEP, MSE_STEPS, clip, clipped_share
from shipvlm.errors import InputError


def draw(kind: str, seed: int, count: int = 60_000) -> np.ndarray:
    """float32 values as activations have them: with and without outliers, positive ones, a few spikes far out."""
    numbers = np.random.default_rng(seed)
    made = {
        "normal": lambda: numbers.standard_normal(count),
        "heavy": lambda: numbers.standard_t(3, count),
        "positive": lambda: numbers.gamma(0.5, 2.0, count),
        "spikes": lambda: np.concatenate([numbers.standard_normal(count - 20), numbers.normal(900, 30, 20)]),
        "two sizes": lambda: numbers.standard_normal(count) * numbers.choice([0.01, 30.0], count),
    }[kind]()
    return made.astype(np.float32)


KINDS = ["normal", "heavy", "positive", "spikes", "two sizes"]
cases = given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))


def counted(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values, 5):
        histogram.add(torch.from_numpy(part))
    return histogram


def squared_error(sizes: np.ndarray, candidate: float) -> float:
    step = candidate / 127
    return float(np.mean((np.minimum(np.rint(sizes / step), 127) * step - sizes) ** 2))


@settings(max_examples=10, deadline=None)
@cases
def test_minmax_is_the_exact_largest_value(kind, seed):
    values = draw(kind, seed)
    assert clip(counted(values), "minmax", 99.99) == float(np.abs(values).max())


@settings(max_examples=30, deadline=None)
@cases
@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.9, 99.99, 100.0])
def test_percentile_equals_numpy_to_the_width_of_a_bin(percentile, kind, seed):
    values = draw(kind, seed)
    histogram = counted(values)
    wanted = np.percentile(np.abs(values.astype(np.float64)), percentile)
    assert abs(clip(histogram, "percentile", percentile) - wanted) <= histogram.width


@settings(max_examples=10, deadline=None)
@cases
def test_mse_is_as_good_as_trying_every_candidate_on_the_values(kind, seed):
    values = draw(kind, seed, 20_000)
    histogram = counted(values)
    sizes = np.abs(values.astype(np.float64))
    grid = histogram.largest * MSE_STEP ** np.arange(MSE_STEPS + 1)
    errors = [squared_error(sizes, candidate) for candidate in grid]
    found = clip(histogram, "mse", 99.99)
    assert np.isclose(grid, found, rtol=1e-12).any()
    assert squared_error(sizes, found) <= 1.002 * min(errors)


@pytest.mark.parametrize("kind", ["normal", "heavy", "spikes"])
def test_entropy_equals_the_calibrator_step_by_step(kind):
    values = draw(kind, 3)
    histogram = counted(values)
    width = histogram.width * BINS / ENTROPY_BINS
    counts, _ = np.histogram(np.abs(values.astype(np.float64)), ENTROPY_BINS, (0, width * ENTROPY_BINS))
    divergences = []
    for size in range(ENTROPY_LEVELS, ENTROPY_BINS + 1):
        kept = counts[:size].astype(np.float64)
        reference = kept.copy()
        reference[-1] += counts[size:].sum()
        level = np.arange(size) * ENTROPY_LEVELS // size
        total = np.bincount(level, kept, ENTROPY_LEVELS)
        filled = np.bincount(level, kept > 0, ENTROPY_LEVELS)
        spread = np.divide(total, filled, out=np.zeros_like(total), where=filled > 0)
        divergences.append(entropy(reference, np.where(kept > 0, spread[level], 0.0)))
    best = ENTROPY_LEVELS + int(np.argmin(divergences))
    assert clip(histogram, "entropy", 99.99) == pytest.approx(min((best + 0.5) * width, histogram.largest))


@settings(max_examples=30, deadline=None)
@cases
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_clipped_share_counts_what_cannot_be_an_integer(share, kind, seed):
    values = draw(kind, seed, 5_000)
    histogram = counted(values)
    sizes = np.abs(values.astype(np.float64))
    scale = share * sizes.max() / 127
    found = clipped_share(histogram, scale)
    beyond = [np.mean(sizes > 127.5 * scale + offset) for offset in (histogram.width, -histogram.width)]
    assert beyond[0] <= found <= beyond[1]
    assert (found == 0) == (share == 1.0)


def test_only_the_percentile_gives_up_a_few_values_far_out():
    histogram = counted(draw("spikes", 0, 400_000))
    assert clip(histogram, "percentile", 99.9) < 5
    # Twenty errors of 900 weigh more, squared, than those of all other values.
    assert clip(histogram, "mse", 99.9) > 500


def test_refuses_what_means_nothing():
    few = Histogram()
    few.add(torch.linspace(0, 1, 1000))
    with pytest.raises(InputError, match=r"of 1000 values none lies beyond percentile 99\.99"):
        clip(few, "percentile", 99.99)
    with pytest.raises(InputError, match="1000 values are too few for the observer entropy"):
        clip(few, "entropy", 99.99)
    assert clip(few, "percentile", 99.0) == pytest.approx(0.99, abs=1e-3)
    empty = Histogram()
    empty.add(torch.zeros(5000))
    for name in ("minmax", "percentile", "mse", "entropy"):
        with pytest.raises(InputError, match="zero throughout"):
            clip(empty, name, 99.99)
