"""Two results held against each other, perhaps of two machines: answers item by item, from the raw lines of both.

Both must have asked the same: the same items with the same words and references, of the same pictures, with answers
that may be as long. What was answered is scored anew, so that both are scored by the same rules. Times are never paired
across runs: a run of yesterday and one of today have no turns in common. They stand beside each other, and a word other
than AMBIGUOUS needs the same machine, libraries, requests, settings and baseline. Then the rule of bench.ratio holds,
with how much the baseline itself changed between the runs as the null.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import alike, entry, observations, pairs, plan, ratio, results, timing
from bench.alike import Side
from bench.observations import Answered, Line, Phase
from bench.report import candidate
from calib_data.scoring import score
from shipvlm.errors import InputError

SCHEMA_VERSION = 1


def compare(
    left: Path, right: Path, left_variant: str | None = None, right_variant: str | None = None
) -> dict[str, Any]:
    """`right` against `left`, each as `bench.results.folder_of` finds it; the candidate of each unless a variant is
    named.

    Raises InputError where there is no result, or no such variant, naming what differs between their data, and where
    nothing was measured in both.
    """
    sides = (_read(left, left_variant), _read(right, right_variant))
    alike.check_data(*sides)
    mine, theirs = (_answers(side) for side in sides)
    common = sorted(mine.keys() & theirs.keys())
    alike.check_asked(mine, theirs, common)
    phase, times = alike.memory_phase(*sides), _times(*sides)
    notes = alike.notes(sides, (mine, theirs), phase, times)
    if not common and not times:
        raise InputError(
            f"nothing was measured in both {left} and {right}; measure them with the same bench.measure and "
            f"bench.workloads. {' '.join(notes)}"
        )
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "left": _described(sides[0], phase),
        "right": _described(sides[1], phase),
        "memory_phase": phase,
        "data": sides[0].made.data,
        "planned": len(sides[0].made.items),
        "items": len(common),
        "missing": {
            side: [each.model_dump(mode="json") for each in sides[place].missing]
            for place, side in enumerate(("left", "right"))
        },
        "differs": alike.differs(*sides),
        "notes": notes,
        "times": times,
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
    folder = results.folder_of(path)
    made = plan.read(folder)
    name = variant or candidate(made)
    if name not in made.variants:
        raise InputError(f"{path}: has no variant {name!r}, it has {', '.join(made.variants)}")
    lines = plan.lines(folder, made)
    missing = [each for each in plan.missing(made, lines) if each.variant in (name, made.baseline)]
    return Side(str(path), made, name, lines[name], lines[made.baseline], missing)


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


def _described(side: Side, phase: Phase | None) -> dict[str, Any]:
    described = side.made.variants[side.variant]
    return {
        "variant": side.variant,
        "baseline": side.made.baseline,
        **described.model_dump(mode="json", exclude={"keys"}),
        "memory": entry.memory(side.lines, described.device, phase) if phase else None,
        "machine": side.made.machine,
        "libraries": side.made.libraries,
        "command": side.made.command,
    }


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
    if differs := alike.differs(left, right):
        return ratio.compare(before, []).as_dict() | {"reason": f"two machines or two setups: {'; '.join(differs)}"}
    # What the left variant's times would be if only that had changed which changed the baseline.
    drifted = [
        {name: seconds * new[name] / old[name] for name, seconds in own.items()}
        if own.keys() == old.keys() == new.keys()
        else {}
        for own, old, new in zip(before, base_before, base_after, strict=False)
    ]
    return ratio.compare(before, after, drifted).as_dict()
