"""What a batch asks of a model, and what a run of a stage takes: the nouns of bench.counts."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from shipvlm.errors import InputError
from shipvlm.runtime.inputs import Batch


@dataclass(frozen=True)
class Work:
    """What one timed batch asks for: `batch` rows of `prompt_tokens` (image tokens among them), each with one picture
    of `patches` (0: none), answered with `answer_tokens` tokens."""

    batch: int
    patches: int
    prompt_tokens: int
    answer_tokens: int

    @property
    def past(self) -> int:
        """Tokens in the cache before a decode step, on average over the steps of the answer."""
        return self.prompt_tokens + max(0, self.answer_tokens - 2) // 2


@dataclass(frozen=True)
class Count:
    """One run of a stage. `weights`, `cache`: bytes that cross the memory bus. `operations` by the type they are
    computed in (fp32, fp16, bf16, int8). `resident`: bytes of all weights that lie in memory for it."""

    weights: int
    cache: int
    operations: Mapping[str, int]
    resident: int

    @property
    def bytes(self) -> int:
        return self.weights + self.cache

    def __add__(self, other: "Count") -> "Count":
        """Both, one after the other, on the same weights."""
        operations = Counter(self.operations) + Counter(other.operations)
        return Count(
            self.weights + other.weights,
            self.cache + other.cache,
            dict(operations),
            max(self.resident, other.resident),
        )


def work_of(batch: Batch, answer_tokens: int) -> Work:
    """The work of an encoded batch; rows of different length count as their longest, as engines pad them.

    Raises `InputError` for a row with several pictures.
    """
    if any(len(grids) > 1 for grids in batch.grids):
        raise InputError("the roofline is counted for one picture a request: time requests with one picture")
    patches = max((grid[1] * grid[2] for grids in batch.grids for grid in grids), default=0)
    return Work(len(batch.input_ids), patches, max(map(len, batch.input_ids)), answer_tokens)
