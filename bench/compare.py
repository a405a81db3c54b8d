"""Two results held against each other, perhaps of two machines: answers item by item, from the raw lines of both.

Both must have asked the same: the same items with the same words and references, of the same pictures. What was
answered is scored anew, so that both are scored by the same rules. Times are never paired across runs: a run of
yesterday and one of today have no turns in common. They stand beside each other, and a word other than AMBIGUOUS needs
the same machine, libraries, requests and baseline. Then the rule of bench.ratio holds, with how much the baseline
itself changed between the runs as the null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import entry, observations, pairs, plan, ratio, timing
from bench.observations import Answered, Line
from bench.plan import Plan
from bench.report import candidate
from calib_data.scoring import score
from shipvlm.errors import InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Side:
    """One variant of one result, its lines and those of its baseline."""

    name: str
    made: Plan
    variant: str
    lines: Sequence[Line]
    baseline: Sequence[Line]


def compare(
    left: Path, right: Path, left_variant: str | None = None, right_variant: str | None = None
) -> dict[str, Any]:
    """`right` against `left`: folders of results, or their bench.json; the candidate of each unless a variant is named.

    Raises InputError where there is no result, or no such variant, and naming what differs between their data.
    """
    sides = [_read(left, left_variant), _read(right, right_variant)]
    _check_data(*sides)
    mine, theirs = (_answers(side) for side in sides)
    common = sorted(mine.keys() & theirs.keys())
    _check_answered(mine, theirs, common, sides)
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "left": _described(sides[0]),
        "right": _described(sides[1]),
        "data": sides[0].made.data,
        "planned": len(sides[0].made.items),
        "items": len(common),
        "differs": _differs(*sides),
        "times": _times(*sides),
    }
    if common:
        before, after = (pairs.grade([side[name] for name in common]) for side in (mine, theirs))
        scores = pairs.scores(after, before)
        for change in scores["difference"].values():
            change["word"] = entry.word(change)
        own = pairs.scores(before, before)["score"]
        found |= {"score": {"left": own, "right": scores["score"]}, "difference": scores["difference"]}
        found |= pairs.changes(after, before)
    return found


def _read(path: Path, variant: str | None) -> Side:
    folder = path if path.is_dir() else path.parent
    made = plan.read(folder)
    name = variant or candidate(made)
    if name not in made.variants:
        raise InputError(f"{path}: has no variant {name!r}, it has {', '.join(made.variants)}")

    def lines(of: str) -> list[Line]:
        keys = [made.variants[of].keys[phase] for phase in made.phases]
        return observations.read(plan.log(folder, of), keys)

    return Side(str(path), made, name, lines(name), lines(made.baseline))


def _check_data(left: Side, right: Side) -> None:
    """Raises InputError naming what was not asked of both, or not in the same words."""
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


def _answers(side: Side) -> dict[str, Answered]:
    """The answers by id, scored as answers are scored today."""
    asked = {item.id: item for item in side.made.items}
    return {
        name: line.model_copy(update=_graded(line, asked[name].references))
        for name, line in plan.answered(side.lines).items()
        if name in asked
    }


def _graded(line: Answered, references: Sequence[str]) -> dict[str, Any]:
    graded = vars(score(line.task, line.output, tuple(references)))  # type: ignore[arg-type]
    return {"score": graded["value"], **{name: graded[name] for name in ("parsed", "similarity")}}


def _check_answered(
    left: Mapping[str, Answered], right: Mapping[str, Answered], common: Sequence[str], sides: Sequence[Side]
) -> None:
    if not common and (left or right):
        raise InputError(
            f"no item was answered in both {sides[0].name} and {sides[1].name}: one was cut off, go on there"
        )
    for name in common:
        for field, what in (("prompt_sha256", "prompt"), ("image_sha256", "picture")):
            if getattr(left[name], field) != getattr(right[name], field):
                raise InputError(f"the data differ: the {what} of item {name} is not the same in both")


def _described(side: Side) -> dict[str, Any]:
    described = side.made.variants[side.variant]
    phase = side.made.phases[0] if len(side.made.phases) == 1 else "timing"
    return {
        "variant": side.variant,
        "baseline": side.made.baseline,
        **described.model_dump(mode="json", exclude={"keys"}),
        "memory": entry.memory(side.lines, described.device, phase),
        "machine": side.made.machine,
        "libraries": side.made.libraries,
        "command": side.made.command,
    }


def _differs(left: Side, right: Side) -> list[str]:
    """What of machine, libraries and baseline is not the same: why times of one say nothing about the other's."""
    found = []
    for what, mine, theirs in (
        ("machine", left.made.machine, right.made.machine),
        ("library", left.made.libraries, right.made.libraries),
    ):
        for name in sorted({*mine, *theirs}):
            if mine.get(name) != theirs.get(name):
                found.append(f"{what}: {name} {_said(mine.get(name))} and {_said(theirs.get(name))}")
    ours, others = (side.made.variants[side.made.baseline] for side in (left, right))
    for field in ("digest", "engine", "device", "dtype"):
        if getattr(ours, field) != getattr(others, field):
            found.append(f"baseline: another {field}")
    return found


def _said(value: Any) -> str:
    return "nothing" if value in (None, "", []) else ", ".join(value) if isinstance(value, list) else str(value)


def _times(left: Side, right: Side) -> dict[str, Any]:
    """By case that both measured alike, and metric: both medians, and their ratio left / right."""
    found: dict[str, Any] = {}
    others = {case.name: case for case in right.made.cases}
    for case in left.made.cases:
        both = [_timed(side.lines, case.name) for side in (left, right)]
        if others.get(case.name) != case or not all(both):
            continue
        found[case.name] = {}
        for metric in timing.METRICS:
            mine, theirs = (timing.summarise(lines, metric) for lines in both)
            compared = _ratio(left, right, case.name, metric) if mine and theirs else None
            found[case.name][metric] = {"left": mine, "right": theirs, "ratio": compared}
    return found


def _timed(lines: Sequence[Line], case: str) -> list[observations.Timed]:
    return [line for line in entry.timed(entry.counting(lines)) if line.case == case]


def _ratio(left: Side, right: Side, case: str, metric: str) -> dict[str, Any]:
    before, after, base_before, base_after = (
        timing.blocks(_timed(lines, case), metric) for lines in (left.lines, right.lines, left.baseline, right.baseline)
    )
    if differs := _differs(left, right):
        return ratio.compare(before, []).as_dict() | {"reason": f"two machines or two setups: {'; '.join(differs)}"}
    # What the left variant's times would be if only that had changed which changed the baseline.
    drifted = [
        {name: seconds * new[name] / old[name] for name, seconds in own.items()}
        if own.keys() == old.keys() == new.keys()
        else {}
        for own, old, new in zip(before, base_before, base_after, strict=False)
    ]
    return ratio.compare(before, after, drifted).as_dict()
