"""The lines that a measuring process says: the raw evidence. Everything in a report is derived from them.

A block is what one fresh process measures of one variant. Its lines, in order:

    timing      loaded, then for each case: warmed, timed ...; ended
    accuracy    loaded, then for each batch: answered ..., held ...; ended

A block without `ended` was cut off. One that was disturbed says so in `ended`, stays, and is measured once more as the
next `attempt`. All times are seconds, all memory is bytes.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bench import lines

Phase = Literal["timing", "accuracy"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Memory(Frozen):
    """Memory of a process and, where there is one, its GPU; None where that cannot be read.

    `rss` is what is resident now: `anon` its own, `file` of mapped files. `peak_rss` is the most since the program was
    started; `peak_anon` and `peak_file` are the most that was seen after any request. `allocated`, `reserved`: the
    most that torch's CUDA allocator gave out, and took. `process`: of the device, what the driver counts for this
    process; `device`: what the device has less than before this process took any, whoever took it. Both are the most
    that was seen between requests: what is given back within a request is not in them.
    """

    rss: int
    anon: int
    file: int
    peak_rss: int
    peak_anon: int
    peak_file: int
    allocated: int | None = None
    reserved: int | None = None
    process: int | None = None
    device: int | None = None


class Gpu(Frozen):
    """Extremes over a block of what NVML says, sampled after every timed request, not within one; None where it is not
    known.

    `throttled`: reasons why the clock was held down, empty where it was never seen so. `others`: other
    processes with work on the device at the end; `others_busy`: the most of it that one of them used, in percent.
    """

    name: str
    driver: str
    sm_mhz_min: int | None = None
    sm_mhz_max: int | None = None
    memory_mhz_min: int | None = None
    celsius_max: int | None = None
    watts_max: float | None = None
    throttled: tuple[str, ...] | None = None
    others: int | None = None
    others_busy: int | None = None


class Conditions(Frozen):
    """What else went on while a block was measured.

    Of the cores that this process may use, as shares of their time: `others` by other processes, `steal` by other
    machines on the same host. `waited`: of the time in which threads of this process were ready to run, the share in
    which they waited for a core. `boot` names the machine from one start of its system to the next (a digest, not its
    id): blocks of one run with different ones were measured on different machines, or the machine was started anew.
    None where the system does not say.
    """

    seconds: float
    others: float | None = None
    steal: float | None = None
    waited: float | None = None
    load: float | None = None  # mean number of processes that ran or waited, over the last minute
    mhz: float | None = None  # mean clock of the cores at the end
    celsius: float | None = None  # of the processor, at the end
    boot: str | None = None
    gpu: Gpu | None = None


class Said(Frozen):
    """What every line says. `run` stands for all that decides the line: lines of another key are never read."""

    run: str
    variant: str
    phase: Phase
    block: int
    attempt: int = 0


class Loaded(Said):
    """Cold start. `imports`: from the start of the program until the engine's libraries are there. `load`: of the
    variant, its files read from the disk where `dropped`, else perhaps from the system's cache. `first`: the first
    request, with all that an engine compiles for it; None for accuracy.

    `dtype` is what it computes in. `weights`: what the engine holds of them, where it says; `before` and `after`:
    memory around the load. `at`: when, UTC. `conditions`: of the whole start; `reasons`: what disturbed it.
    """

    kind: Literal["loaded"] = "loaded"
    at: str
    dtype: str
    imports: float
    load: float
    dropped: bool
    first: float | None = None
    weights: int | None = None
    before: Memory
    after: Memory
    conditions: Conditions | None = None
    reasons: tuple[str, ...] = ()


class Warmed(Said):
    """Requests of one case before the clock counts (bench.warmup): the wall seconds of each, and whether they became
    stable."""

    kind: Literal["warmed"] = "warmed"
    case: str
    seconds: tuple[float, ...]
    stable: bool


class Stages(Frozen):
    """Seconds of the parts of one answer, without gaps (shipvlm.runtime.generate.StageSeconds)."""

    preprocess: float
    vision: float
    prefill: float
    decode: tuple[float, ...]
    detokenise: float


class Timed(Said):
    """One timed request of one case (bench.workloads); a case with a batch asks several items in one request.

    The clock runs from decoded pictures and their words to the decoded text of the answers. `id` names the items
    (joined with +). `image_sha256`: of what the model read of each picture, salted so that no two are the same
    (bench.salt). `prompt_tokens`, with those of the pictures, and `patches` are those of each item; each answer has
    `new_tokens`. `stages` are by the host's clock, the device synchronised at each border; `events` the same by CUDA
    events, where torch runs.
    """

    kind: Literal["timed"] = "timed"
    case: str
    repeat: int
    id: str
    prompt_sha256: tuple[str, ...]
    image_sha256: tuple[str, ...]
    prompt_tokens: tuple[int, ...]
    patches: tuple[int, ...]
    new_tokens: int
    wall: float
    stages: Stages
    events: Stages | None = None


class Answered(Said):
    """One answer to one item, ended by itself. `score` (0 to 1), `parsed` and `similarity` are those of
    calib_data.scoring; `wall` is the answer's share of its batch."""

    kind: Literal["answered"] = "answered"
    id: str
    task: str
    source: str
    prompt_sha256: str
    image_sha256: str
    output: str
    token_ids: tuple[int, ...]
    finish: str
    score: float
    parsed: Literal["ok", "empty", "unparsable"]
    similarity: float | None = None
    wall: float


class Held(Said):
    """The variant held against the baseline's answer to one item, token by token (bench.fidelity).

    For each token of that answer, its end among them: `kl` in nats, whether the most likely token is `same` as the
    baseline's, and `delta_p`, by how much more probable the variant finds the baseline's token. `kept` tokens of the
    vocabulary were held apart, the others together: unless `whole`, `kl` is a lower bound.
    """

    kind: Literal["held"] = "held"
    id: str
    kl: tuple[float, ...]
    same: tuple[bool, ...]
    delta_p: tuple[float, ...]
    kept: int
    whole: bool


class Ended(Said):
    """The block is whole. It is `clean`, or `reasons` say what disturbed it (bench.conditions, bench.warmup)."""

    kind: Literal["ended"] = "ended"
    clean: bool
    reasons: tuple[str, ...] = ()
    conditions: Conditions
    memory: Memory


Line = Loaded | Warmed | Timed | Answered | Held | Ended
LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])


@dataclass(frozen=True)
class Block:
    """The lines of one attempt at one block."""

    variant: str
    phase: Phase
    block: int
    attempt: int
    lines: tuple[Line, ...]

    @property
    def ended(self) -> Ended | None:
        """How it ended; None where it was cut off."""
        return next((line for line in self.lines if isinstance(line, Ended)), None)

    @property
    def timed(self) -> list[Timed]:
        return [line for line in self.lines if isinstance(line, Timed)]


def attempts(said: Iterable[Line]) -> list[Block]:
    """All attempts at all blocks, in the order of their first lines."""
    groups: dict[tuple[str, Phase, int, int], list[Line]] = {}
    for line in said:
        groups.setdefault((line.variant, line.phase, line.block, line.attempt), []).append(line)
    return [Block(*key, tuple(found)) for key, found in groups.items()]


def blocks(said: Iterable[Line]) -> list[Block]:
    """Of each block the last attempt that ended, clean or not: what counts."""
    last = {(each.variant, each.phase, each.block): each for each in attempts(said) if each.ended}
    return list(last.values())


def read(path: Path, runs: Collection[str]) -> list[Line]:
    """The lines of `runs` in a file of observations. Raises InputError naming the line that cannot be read."""
    found: list[Line] = []
    for number, fields in lines.read(path, runs):
        try:
            found.append(LINE.validate_python(fields))
        except ValidationError as error:
            raise lines.unreadable(path, number, error) from error
    return found


def append(path: Path, said: Iterable[Line]) -> None:
    """Adds lines to a file of observations."""
    lines.append(path, [line.model_dump_json(exclude_none=True) for line in said])


def short(data: bytes) -> str:
    """The digest by which lines name a text or a picture."""
    return sha256(data).hexdigest()[:16]
