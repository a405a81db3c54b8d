"""What bench.compare found, as Markdown."""

from collections.abc import Mapping
from typing import Any

from bench.findings import METRICS
from bench.markdown import lined
from bench.words import judged, milliseconds, percent, size

WHILE = {"timing": "while timed", "accuracy": "while answers are scored"}  # by phase


def markdown(found: Mapping[str, Any]) -> str:
    """A column for each result, the comparison after them; then what must be known beside it."""
    left, right = found["left"], found["right"]
    names = [left["variant"], right["variant"]]
    if names[0] == names[1]:
        names = [f"{names[0]} (first)", f"{names[1]} (second)"]
    rows = [["", *names, "second against first"]]
    for task, change in found.get("difference", {}).items():
        mine, theirs = (percent(found["score"][side][task], few="") for side in ("left", "right"))
        rows.append(
            [f"score {task}, %", mine, theirs, f"{change['word']} {percent(change, signed=True, few='')} points"]
        )
    if "flips" in found:
        flips = found["flips"]
        rows.append(["answers worse / better", "", "", f"{flips['worse']['count']} / {flips['better']['count']}"])
        rows.append(["McNemar's exact p", "", "", f"{flips['mcnemar']:.2g}"])
    for case, metrics in found["times"].items():
        for metric, times in metrics.items():
            if times["left"] and times["right"]:
                both = [milliseconds(times[side]) for side in ("left", "right")]
                rows.append([f"{METRICS[metric]}, {case}, ms", *both, judged(times["ratio"])])
    if phase := found["memory_phase"]:
        rows.append([f"peak memory {WHILE[phase]}", *(size(side["memory"]["peak"]) for side in (left, right)), ""])
    rows.append(["files", *(size(side["weights"]["bytes"]) for side in (left, right)), ""])
    engines = [_engine(side) for side in (left, right)]
    if engines[0] != engines[1]:
        rows.append(["engine", *engines, ""])
    rows.append(["machine", *(_machine(side["machine"]) for side in (left, right)), ""])
    parts = [lined(rows)]
    if 0 < found["items"] < found["planned"]:
        parts.append(f"{found['items']} of {found['planned']} items were answered in both.")
    if found["differs"]:
        parts.append("Times are AMBIGUOUS, as the two were not measured alike:")
        parts.append("\n".join(f"- {line}" for line in found["differs"]))
    parts += found["notes"]
    return "\n\n".join(parts) + "\n"


def _engine(side: Mapping[str, Any]) -> str:
    return " ".join(part for part in (side["engine"], side["dtype"]) if part) + f" on {side['device']}"


def _machine(machine: Mapping[str, Any]) -> str:
    return ", ".join([*machine["gpus"], machine["cpu"], f"{machine['cores']} cores"])
