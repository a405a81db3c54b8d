"""How often each size of activation occurs, over more values than memory holds."""

import math
from dataclasses import dataclass, field

import torch

BITS = 15
BINS = 2**BITS
SMALLEST_RANGE = -100  # as a power of two; smaller values all count in the lowest bins


@dataclass
class Histogram:
    """Counts of |x| in `BINS` bins of equal width from 0 up; bin i is [i, i + 1) * 2^exponent.

    The range doubles, each pair of bins merging into one, whenever a larger value arrives. Every width is a power of
    two, so binning and merging are exact: the counts depend on the values alone, not on their order or batches.
    """

    counts: torch.Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.int64))
    exponent: int = SMALLEST_RANGE - BITS
    largest: float = 0.0  # of all |x| so far, exact

    @property
    def width(self) -> float:
        """Width of one bin."""
        return math.ldexp(1.0, self.exponent)

    def add(self, values: torch.Tensor) -> float:
        """Count `values`, float32 of any shape but empty, on any device; return the largest |x| among them.

        Raises ValueError for a value that is not finite.
        """
        sizes = values.abs()
        largest = float(sizes.max())
        if not math.isfinite(largest):
            raise ValueError(f"a value is {largest}")
        self._reach(largest)
        bins = (sizes.flatten() * math.ldexp(1.0, -self.exponent)).long()
        self.counts = self.counts.to(values.device) + torch.bincount(bins, minlength=BINS)
        self.largest = max(self.largest, largest)
        return largest

    def _reach(self, largest: float) -> None:
        """Widen the bins until the range holds `largest`."""
        range_exponent = math.frexp(largest)[1] if largest else SMALLEST_RANGE  # the smallest power of two above it
        doublings = min(range_exponent - BITS - self.exponent, BITS)
        if doublings > 0:
            merged = self.counts.unflatten(0, (-1, 2**doublings)).sum(1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[: len(merged)] = merged
            self.exponent = range_exponent - BITS
