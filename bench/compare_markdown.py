"""What bench.compare found, as Markdown."""

from collections.abc import Mapping
from typing import Any

from bench.findings import METRICS
from bench.markdown import lined
from bench.words import judged, milliseconds, percent, size


def markdown(found: Mapping[str, Any]) -> str:
    """A column for each result, the comparison after them."""
    left, right = found["left"], found["right"]
    names = [left["variant"], right["variant"]]
    if names[0] == names[1]:
        names = [f"{names[0]} (first)", f"{names[1]} (second)"]
    rows = [["", *names, "second against first"]]
    for task, change in found.get("difference", {}).items():
        mine, theirs = (percent(found["score"][side][task]) for side in ("left", "right"))
        rows.append([f"score {task}, %", mine, theirs, f"{change['word']} {percent(change, signed=True)} points"])
    if "flips" in found:
        flips = found["flips"]
        rows.append(["answers worse / better", "", "", f"{flips['worse']['count']} / {flips['better']['count']}"])
        rows.append(["McNemar's exact p", "", "", f"{flips['mcnemar']:.2g}"])
    for case, metrics in found["times"].items():
        for metric, times in metrics.items():
            if times["left"] and times["right"]:
                both = [milliseconds(times[side]) for side in ("left", "right")]
                rows.append([f"{METRICS[metric]}, {case}, ms", *both, judged(times["ratio"])])
    peaks = [(side["memory"] or {}).get("peak") for side in (left, right)]
    rows.append(["peak memory", *map(size, peaks), ""])
    rows.append(["files", *(size(side["weights"]["bytes"]) for side in (left, right)), ""])
    rows.append(["machine", *(_machine(side["machine"]) for side in (left, right)), ""])
    parts = [lined(rows)]
    if found["items"] < found["planned"]:
        parts.append(f"{found['items']} of {found['planned']} items were answered in both.")
    if found["differs"]:
        parts.append("Times are AMBIGUOUS, as the two were not measured alike:")
        parts.append("\n".join(f"- {line}" for line in found["differs"]))
    return "\n\n".join(parts) + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    return ", ".join([*machine["gpus"], machine["cpu"], f"{machine['cores']} cores"])
