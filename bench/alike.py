"""Were two results measured alike? What of them may be held against each other, and what must be said beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import entry
from bench.observations import Answered, Ended, Line, Phase
from bench.plan import Missing, Plan
from bench.variants import NULL
from shipvlm.errors import InputError

TIMING = ("threads", "warmup", "repeats", "latency_items")  # settings that a time depends on


@dataclass(frozen=True)
class Side:
    """One variant of one result, its lines and those of its baseline, and what of the two is missing."""

    name: str
    made: Plan
    variant: str
    lines: Sequence[Line]
    baseline: Sequence[Line]
    missing: Sequence[Missing]


def check_data(left: Side, right: Side) -> None:
    """Raises InputError naming what was not asked of both, or not in the same words, or could be answered at another
    length. Times are not paired by item: where one has nothing else, all data are alike."""
    if any("accuracy" not in side.made.phases for side in (left, right)):
        return
    items = [{item.id: item for item in side.made.items} for side in (left, right)]
    for own, other, side in ((items[0], items[1], left), (items[1], items[0], right)):
        if alone := sorted(own.keys() - other.keys()):
            raise InputError(
                f"the data differ: {len(alone)} items are in {side.name} alone, the first {alone[0]}; "
                "measure both with the same --data and --limit"
            )
    for name in items[0]:
        for field in ("task", "prompt", "references"):
            if getattr(items[0][name], field) != getattr(items[1][name], field):
                raise InputError(f"the data differ: the {field} of item {name} are not the same in both")
    lengths = [side.made.settings["max_new_tokens"] for side in (left, right)]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"the answers were cut at other lengths, bench.max_new_tokens is {lengths[0]} in {left.name} and "
            f"{lengths[1]} in {right.name}: measure both with the same"
        )


def check_asked(left: Mapping[str, Answered], right: Mapping[str, Answered], common: Sequence[str]) -> None:
    """Raises InputError naming the item of `common` whose words or picture are not the same in both."""
    for name in common:
        for field, what in (("prompt_sha256", "prompt"), ("image_sha256", "picture")):
            if getattr(left[name], field) != getattr(right[name], field):
                raise InputError(f"the data differ: the {what} of item {name} is not the same in both")


def memory_phase(left: Side, right: Side) -> Phase | None:
    """The phase whose peaks stand beside each other: one in which both did the same work on the same kind of memory."""
    phases: tuple[Phase, ...] = ("timing", "accuracy")
    for phase in phases:
        work = [_work(side, phase) for side in (left, right)]
        if work[0] == work[1] and all(
            entry.memory(side.lines, side.made.variants[side.variant].device, phase) for side in (left, right)
        ):
            return phase
    return None


def _work(side: Side, phase: Phase) -> tuple[Any, ...]:
    if phase == "timing":
        return side.made.variants[side.variant].device, side.made.cases
    settings = side.made.settings  # the null answers in batches of half the size
    return side.made.variants[side.variant].device, settings["batch_size"], side.variant == NULL


def differs(left: Side, right: Side) -> list[str]:
    """What of machine, libraries, settings and baseline is not the same: why times of one say nothing about the
    other's."""
    found = []
    settings = [{name: side.made.settings[name] for name in TIMING} for side in (left, right)]
    facts: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("machine", left.made.machine, right.made.machine),
        ("library", left.made.libraries, right.made.libraries),
        ("setting", settings[0], settings[1]),
    ]
    for what, mine, theirs in facts:
        for name in sorted({*mine, *theirs}):
            if mine.get(name) != theirs.get(name):
                found.append(f"{what}: {name} {_said(mine.get(name))} and {_said(theirs.get(name))}")
    ours, others = (side.made.variants[side.made.baseline] for side in (left, right))
    for field in ("digest", "engine", "device", "dtype"):
        if getattr(ours, field) != getattr(others, field):
            found.append(f"baseline: another {field}")
    boots = _boots(left) | _boots(right)
    if left.baseline != right.baseline and (len(boots) > 1 or None in boots):  # variants of one run share its baseline
        found.append("machine: not known to be one, or not since its last start")
    return found


def _boots(side: Side) -> set[str | None]:
    """Where the times were measured: machines of one name may differ, so a name is not enough."""
    lines = [*side.lines, *side.baseline]
    return {line.conditions.boot for line in lines if isinstance(line, Ended) and line.phase == "timing"}


def _said(value: Any) -> str:
    return "nothing" if value in (None, "", []) else ", ".join(value) if isinstance(value, list) else str(value)


def notes(
    sides: Sequence[Side], answers: Sequence[Mapping[str, Answered]], phase: Phase | None, times: Mapping[str, Any]
) -> list[str]:
    """What must be known beside the numbers: what is missing, and what was not measured alike or not in both."""
    found = [f"{side.name} is not complete: {_counted(side.missing)}" for side in sides if side.missing]
    without = [
        f"{side.name} has no answers of {side.variant}" for side, own in zip(sides, answers, strict=True) if not own
    ]
    if without:
        found.append(f"No item was answered in both: {' and '.join(without)}.")
    sizes = [side.made.settings["batch_size"] for side in sides]
    if sizes[0] != sizes[1] and not without:
        found.append(
            f"bench.batch_size is {sizes[0]} and {sizes[1]}: what an answer is computed beside may change it a little."
        )
    cases = dict.fromkeys(case.name for side in sides for case in side.made.cases if "timing" in side.made.phases)
    if alone := [name for name in cases if name not in times]:
        found.append(f"Times of {', '.join(alone)} were not measured in both.")
    if phase is None:
        found.append("Peak memory is not compared: no phase was measured alike in both.")
    return found


def _counted(missing: Sequence[Missing]) -> str:
    blocks = sum(each.phase == "timing" for each in missing)
    answers = sum(each.wanted - each.done for each in missing if each.phase == "accuracy")
    counts = [f"{blocks} block{'' if blocks == 1 else 's'} of times"] if blocks else []
    counts += [f"{answers} answer{'' if answers == 1 else 's'}"] if answers else []
    names = ", ".join(dict.fromkeys(each.variant for each in missing))
    return f"{' and '.join(counts)} ({names}) are missing; the same command goes on there."
