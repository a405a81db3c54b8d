"""What a run is to measure: its variants, their keys, its blocks. Written to `plan.json` before anything is measured,
so that a report of a run that was cut off can say what is missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from bench import observations
from bench.environment import (
    LIBRARIES,
    RUNTIMES,
    describe_data,
    describe_weights,
    libraries,
    machine,
    model_digest,
    run_key,
    stack,
)
from bench.observations import Answered, Frozen, Held, Line, Phase
from bench.variants import NULL, Variant
from bench.workloads import CASES, Case
from calib_data.records import Record, digest
from shipvlm.errors import InputError
from shipvlm.recipe import BenchSection, GateSection
from shipvlm.runtime.model import Device, Dtype, Engine
from shipvlm.stages import code_digest

T = TypeVar("T")

PLAN, OBSERVATIONS, REFERENCES = "plan.json", "observations", "references.npz"
# The code whose lines these are.
TIMES = ("shipvlm.runtime", "shipvlm.families", "bench.measure", "bench.workloads", "bench.warmup", "bench.salt")
SCORES = ("calib_data.scoring", "calib_data.texts")
ANSWERS = ("shipvlm.runtime", "shipvlm.families", "bench.measure", "bench.fidelity", *SCORES)


class Described(Frozen):
    """A variant as the plan names it. `keys` name its lines by phase; `weights` is bytes on disk, and types."""

    engine: Engine
    device: Device
    dtype: Dtype | None
    timed: bool
    digest: str
    weights: dict[str, Any]
    keys: dict[Phase, str]


class Item(Frozen):
    """What is asked of one record."""

    id: str
    task: str
    source: str
    prompt: str
    references: tuple[str, ...]


class Plan(Frozen):
    """Everything that a report says beside what was measured. `settings` are the recipe's section."""

    baseline: str
    variants: dict[str, Described]
    phases: tuple[Phase, ...]
    blocks: int
    cases: tuple[Case, ...]
    requests: int  # of each case in a block, each `repeats` times
    repeats: int
    items: tuple[Item, ...]
    data: dict[str, Any]
    settings: dict[str, Any]
    gates: GateSection
    command: str
    machine: dict[str, Any]
    libraries: dict[str, str]


class Missing(Frozen):
    """A block that is not there, or not whole: `done` of `wanted` requests or answers."""

    variant: str
    phase: Phase
    block: int
    done: int
    wanted: int


def make(
    variants: Sequence[Variant],
    scored: Sequence[Record],
    timed: Sequence[Record],
    section: BenchSection,
    gates: GateSection,
    command: str,
) -> Plan:
    """The plan to measure `variants`, answers to `scored` and the times of requests made of `timed`."""
    by_folder = {
        variant.folder: (model_digest(variant.folder), describe_weights(variant.folder)) for variant in variants
    }
    baseline = variants[0]
    where, used = machine(), libraries([*LIBRARIES, *RUNTIMES])
    timed_cases = cases(section)
    described = {}
    for variant in variants:
        own, weights = by_folder[variant.folder]
        form = (variant.engine, variant.device, variant.dtype or "", str(section.threads), own, str(where), str(used))
        keys: dict[Phase, str] = {
            "timing": run_key(
                "timing",
                variant.name,
                *form,
                digest(timed),
                str(timed_cases),
                *map(str, (section.latency_items, section.repeats, section.warmup)),
                code_digest(TIMES),
            ),
            "accuracy": run_key(
                "accuracy",
                variant.name,
                *form,
                by_folder[baseline.folder][0],
                digest(sorted(scored, key=lambda record: record.id)),  # batches are made by size
                *map(str, (section.batch_size, section.max_new_tokens)),
                code_digest(ANSWERS),
            ),
        }
        described[variant.name] = Described(
            engine=variant.engine,
            device=variant.device,
            dtype=variant.dtype,
            timed=variant.timed,
            digest=own,
            weights=weights,
            keys=keys,
        )
    return Plan(
        baseline=baseline.name,
        variants=described,
        phases=section.measure,
        blocks=section.blocks,
        cases=timed_cases,
        requests=section.latency_items,
        repeats=section.repeats,
        items=tuple(
            Item(id=record.id, task=record.task, source=record.source, prompt=record.prompt, references=record.answers)
            for record in scored
            if "accuracy" in section.measure
        ),
        data={
            "name": Path(section.data).name if Path(section.data).exists() else section.data,
            **describe_data(scored),
        },
        settings=section.model_dump(mode="json", exclude={"data"}),
        gates=gates,
        command=command,
        machine=where,
        libraries=stack(),
    )


def write(out: Path, made: Plan) -> bool:
    """Write `made` to `out`; whether it was there already."""
    text = made.model_dump_json(indent=2) + "\n"
    path = out / PLAN
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return True
    path.write_text(text, encoding="utf-8")
    return False


def read(out: Path) -> Plan:
    """The plan of the run in `out`. Raises InputError where there is none of this version."""
    try:
        return Plan.model_validate_json((out / PLAN).read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{out}: holds no run of this version (its {PLAN} is missing or other); measure again"
        ) from error


def lines(out: Path, plan: Plan) -> dict[str, list[Line]]:
    """The lines that belong to `plan`, by variant. Raises InputError naming the line that cannot be read."""
    return {
        name: observations.read(log(out, name), [described.keys[phase] for phase in plan.phases])
        for name, described in plan.variants.items()
    }


def log(out: Path, variant: str) -> Path:
    return out / OBSERVATIONS / f"{variant}.jsonl"


def references(out: Path) -> Path:
    return out / OBSERVATIONS / REFERENCES


def missing(plan: Plan, measured: Mapping[str, Sequence[Line]]) -> list[Missing]:
    """What of `plan` is not measured. A block that was disturbed is measured; `observations.Ended` says that it is not
    clean."""
    found = []
    for name, described in plan.variants.items():
        ended = {(block.phase, block.block) for block in observations.blocks(measured[name])}
        if "timing" in plan.phases and described.timed:
            wanted = plan.requests * plan.repeats * len(plan.cases)
            for block in range(plan.blocks):
                if ("timing", block) not in ended:
                    found.append(Missing(variant=name, phase="timing", block=block, done=0, wanted=wanted))
        if "accuracy" in plan.phases and ("accuracy", 0) not in ended:
            done = len(answered(measured[name]))
            wanted = len(scored_by(name, plan.items))
            found.append(Missing(variant=name, phase="accuracy", block=0, done=done, wanted=wanted))
    return found


def answered(said: Iterable[Line]) -> dict[str, Answered]:
    """The answers by id, each once: a run that was cut off may have said one twice."""
    return {line.id: line for line in said if isinstance(line, Answered)}


def held(said: Iterable[Line]) -> dict[str, Held]:
    """What was held against the baseline, by id."""
    return {line.id: line for line in said if isinstance(line, Held)}


def sample(records: Sequence[Record], limit: int | None) -> list[Record]:
    """`limit` records of each task, evenly spaced over the set so that every source is met; all when it is None."""
    if not records:
        raise InputError("the data set has no records")
    if limit is None:
        return list(records)
    if limit < 1:
        raise InputError(f"the limit is a number of records a task, at least 1, not {limit}")
    chosen: list[Record] = []
    for task in sorted({record.task for record in records}):
        group = [record for record in records if record.task == task]
        chosen += spread(group, limit)
    return chosen


def scored_by(name: str, items: Sequence[T]) -> list[T]:
    """What the variant `name` is asked of `items`: all, but the null a quarter, evenly spaced. It tells how far apart
    two runs of the same model are, which is next to nothing, and few answers show that."""
    return spread(items, -(-len(items) // 4)) if name == NULL else list(items)


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of `items`, evenly spaced."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def cases(section: BenchSection) -> tuple[Case, ...]:
    """The workloads that the recipe asks for."""
    return tuple(CASES[name] for name in section.workloads)
