"""From a histogram of |x| to the largest value that INT8 keeps: the clip. The scale then is clip / 127.

Symmetric INT8 with one scale a tensor is TensorRT's contract: q = clamp(round(x / scale), -128, 127). The observers
see |x| only, so their integers are -127 to 127.
"""

import numpy as np

from quantize.histogram import BINS, Histogram
from shipvlm.errors import InputError
from shipvlm.recipe import Observer

LARGEST_INTEGER = 127
MSE_STEP, MSE_STEPS = 2 ** (-1 / 16), 160  # candidates of the mse observer: the largest value down to 1/1024 of it
ENTROPY_BINS, ENTROPY_LEVELS = 2048, 128


def clip(histogram: Histogram, observer: Observer, percentile: float) -> float:
    """The clip that `observer` chooses, above 0 and at most the largest value. `percentile` is for the observer of
    that name.

    Raises InputError when nothing but zeros was counted, or too little for the observer to mean anything.
    """
    if histogram.largest == 0:
        raise InputError("it is zero throughout the calibration data")
    counts = histogram.counts.cpu().numpy()
    match observer:
        case "minmax":
            return histogram.largest
        case "percentile":
            return _percentile(counts, histogram, percentile)
        case "mse":
            return _mse(counts, histogram)
        case "entropy":
            return _entropy(counts, histogram)


def clipped_share(histogram: Histogram, scale: float) -> float:
    """Share of the values whose nearest integer is beyond 127 and is cut to it; inside a bin values count as spread
    evenly."""
    limit = (LARGEST_INTEGER + 0.5) * scale
    if histogram.largest <= limit:
        return 0.0
    counts = histogram.counts.cpu().numpy()
    position = limit / histogram.width
    inside = int(position)
    above = counts[inside + 1 :].sum() + counts[inside] * (inside + 1 - position)
    return float(above / counts.sum())


def _percentile(counts: np.ndarray, histogram: Histogram, percentile: float) -> float:
    """The percentile as `numpy.percentile` defines it (linear between ranks), to within the width of a bin."""
    below = counts.cumsum()
    total = int(below[-1])
    if percentile < 100 and total * (1 - percentile / 100) < 1:
        raise InputError(
            f"of {total} values none lies beyond percentile {percentile}: calibrate on more records, "
            "or choose the observer minmax"
        )

    def ranked(rank: int) -> float:
        if rank == total - 1:
            return histogram.largest
        index = int(np.searchsorted(below, rank, side="right"))
        inside = (rank - (below[index] - counts[index]) + 0.5) / counts[index]
        return float(min((index + inside) * histogram.width, histogram.largest))

    rank = (total - 1) * percentile / 100
    lower = ranked(int(rank))
    upper = ranked(min(int(rank) + 1, total - 1))
    return lower + (upper - lower) * (rank - int(rank))


def _mse(counts: np.ndarray, histogram: Histogram) -> float:
    """The clip of the smallest mean squared error, among largest * 2^(-k/16).

    With s = clip / 127 and u = |x| / s the error of rounding is s (u - n), n = min(round(u), 127). Its square,
    integrated from 0 to u, is s^3 (n / 12 + (u - n)^3 / 3); values count as spread evenly over their bin.
    """
    filled = counts[: int(counts.nonzero()[0][-1]) + 1].astype(np.float64)
    edges = np.arange(len(filled) + 1) * histogram.width
    candidates = histogram.largest * MSE_STEP ** np.arange(MSE_STEPS + 1)
    errors = []
    for candidate in candidates:
        step = candidate / LARGEST_INTEGER
        position = edges / step
        integer = np.minimum(np.rint(position), LARGEST_INTEGER)
        rest = position - integer
        errors.append(step**3 * (filled * np.diff(integer / 12 + rest * rest * rest / 3)).sum())
    return float(candidates[int(np.argmin(errors))])


def _entropy(counts: np.ndarray, histogram: Histogram) -> float:
    """The clip at which the clipped and rounded distribution is closest to the clipped one in KL divergence.

    The calibrator of TensorRT: S. Migacz, "8-bit Inference with TensorRT", GTC 2017, slides 36-39. For every i from
    128 to 2048 bins: P is the first i bins, with all beyond added to the last one; Q is the same bins before that,
    summed into 128 levels, each level spread evenly over those of its bins that are not empty. The clip is
    (i + 0.5) bins for the i that minimises KL(P || Q). All i are computed at once, from running sums:

        KL = [sum P log P - sum_levels S log(S / U) - outliers log Q_last] / total + log(kept / total)

    with S the count and U the bins that are not empty of a level.
    """
    total = int(counts.sum())
    if total < ENTROPY_BINS:
        raise InputError(f"{total} values are too few for the observer entropy: calibrate on more records")
    coarse = counts.reshape(ENTROPY_BINS, -1).sum(1).astype(np.float64)
    kept = np.concatenate([[0.0], coarse.cumsum()])
    filled = np.concatenate([[0.0], (coarse > 0).cumsum()])
    own = np.concatenate([[0.0], _x_log_x(coarse).cumsum()])

    sizes = np.arange(ENTROPY_LEVELS, ENTROPY_BINS + 1)
    last = coarse[sizes - 1]
    outliers = total - kept[sizes]
    # bin j of i belongs to level floor(128 j / i)
    starts = -(-sizes[:, None] * np.arange(ENTROPY_LEVELS + 1) // ENTROPY_LEVELS)
    sums, used = np.diff(kept[starts]), np.diff(filled[starts])
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(sums > 0, sums * np.log(sums / used), 0.0).sum(1)
        beyond = np.where(outliers > 0, outliers * np.log(np.where(last > 0, sums[:, -1] / used[:, -1], 0.0)), 0.0)
        divergence = (own[sizes - 1] + _x_log_x(last + outliers) - levels - beyond) / total + np.log(
            kept[sizes] / total
        )
    divergence = np.where(kept[sizes] > 0, divergence, np.inf)
    best = sizes[int(np.argmin(divergence))]
    return float(min((best + 0.5) * histogram.width * (BINS // ENTROPY_BINS), histogram.largest))


def _x_log_x(values: np.ndarray) -> np.ndarray:
    return values * np.log(np.where(values > 0, values, 1.0))
