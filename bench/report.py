"""From observations to the report: every number in it is made here or in bench.entry, and nothing is measured."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import entry, flips, gate, markdown, page, pairs, plan, salt
from bench.accuracy import ItemResult
from bench.limits import LIMITS
from bench.observations import Line
from bench.plan import Plan
from bench.variants import EXTRAS, NULL
from calib_data.records import Record

SCHEMA_VERSION = 4
REPORT, MARKDOWN, PAGE = "bench.json", "bench.md", "index.html"
Lines = Sequence[Line]


def write(
    out: Path,
    made: Plan,
    measured: Mapping[str, Lines],
    records: Sequence[Record] = (),
) -> dict[str, Any]:
    """Write the report of `measured`, the lines of each variant of `made`, in all its forms; return bench.json's dict.

    `records` are the data set, for the pictures of the answers that lost most.
    """
    limits = json.loads((out / LIMITS).read_bytes()) if (out / LIMITS).is_file() else None
    report = build(made, measured, records, limits)
    render(out, report)
    return report


def rebuild(out: Path, records: Sequence[Record] = ()) -> dict[str, Any]:
    """The report of what was measured so far in `out`, from its plan and lines. Raises as `bench.plan.read`."""
    made = plan.read(out)
    return write(out, made, plan.lines(out, made), records)


def render(out: Path, report: Mapping[str, Any]) -> None:
    """Write `report` to `out` as JSON, Markdown and a page; each appears whole."""
    _replace(out / REPORT, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _replace(out / MARKDOWN, markdown.markdown(report))
    _replace(out / PAGE, page.render(report))


def build(
    made: Plan,
    measured: Mapping[str, Lines],
    records: Sequence[Record],
    limits: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report as data. The candidate is the last variant that was given: what would be shipped.

    Raises ExecutionError where two timed requests saw the same picture.
    """
    salt.refuse_repeated(
        digest for lines in measured.values() for line in entry.timed(lines) for digest in line.image_sha256
    )
    items = {
        name: pairs.grade(list(plan.answered(lines).values()), list(plan.held(lines).values()))
        for name, lines in measured.items()
    }
    clean = {name: entry.counting(lines) for name, lines in measured.items()}
    entries = {name: _entry(name, made, measured, clean, items, limits) for name in made.variants}
    for each in entries.values():
        each["against"] = _against(each, entries[made.baseline])
    missing = [each.model_dump(mode="json") for each in plan.missing(made, measured)]
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "baseline": made.baseline,
        "candidate": candidate(made),
        "complete": not missing,
        "missing": missing,
        "gates": made.gates.model_dump(mode="json"),
        "cases": {case.name: case.model_dump(mode="json") for case in made.cases},
        "variants": entries,
        "limits": limits,
        "flips": _worst(made, items, records),
        "data": made.data,
        "settings": made.settings,
        "command": made.command,
        "machine": made.machine,
        "libraries": made.libraries,
    }
    judged = gate.judge(report, made.gates)
    return report | {"judgement": judged.as_dict() if judged else None}


def candidate(made: Plan) -> str:
    """The last of the variants that are folders of their own; the forms of the baseline come after it."""
    own = [name for name in made.variants if name not in (NULL, *EXTRAS)]
    return own[-1]


def _entry(
    name: str,
    made: Plan,
    measured: Mapping[str, Lines],
    clean: Mapping[str, Lines],
    items: Mapping[str, list[ItemResult]],
    limits: Mapping[str, Any] | None,
) -> dict[str, Any]:
    described = made.variants[name]
    loaded = [line.dtype for line in measured[name] if line.kind == "loaded"]
    found: dict[str, Any] = {
        "label": "",
        **described.model_dump(mode="json", exclude={"keys"}),
        "computes_in": loaded[0] if loaded else None,
        **entry.times(name, made, measured[name], clean),
        "memory": _memory(made, described.device, measured[name]),
        "blocks": entry.blocks(measured[name]),
    }
    found["label"] = _label(name, found)
    found["limits"] = entry.limits(name, found, clean[name], limits)
    counted = {case: each["variants"].get(name) for case, each in (limits or {}).items()}
    found["capacity"] = {case: each["capacity"] for case, each in counted.items() if each}
    own, beside = pairs.together(items[name], items[made.baseline])
    return found | (entry.answers(own, beside, measured[name]) if own else {})


def _memory(made: Plan, device: str, lines: Lines) -> dict[str, Any] | None:
    """Without timing there is no peak to judge: the null answers fewer items, in smaller batches."""
    if "timing" in made.phases:
        return entry.memory(lines, device, "timing")
    found = entry.memory(lines, device, "accuracy")
    return found and {**found, "peak": None}


def _label(name: str, found: Mapping[str, Any]) -> str:
    """What people call it: the engine and the type of its weights."""
    weights = found["weights"]
    types = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}
    computes = types.get(str(found["computes_in"]), str(found["computes_in"] or "").upper())
    engine = {
        "onnxruntime": "ONNX Runtime",
        "transformers": "PyTorch",
        "compile": "torch.compile",
        "bnb-int8": "bitsandbytes INT8",
        "bnb-nf4": "bitsandbytes NF4",
    }[found["engine"]]
    if name == NULL:
        return f"{engine} {computes}, measured once more".replace("  ", " ")
    if found["engine"] == "onnxruntime":
        scheme = weights.get("scheme")
        return f"{engine} {scheme or str(weights.get('precision') or '').upper()}".strip()
    simulated = "" if found["timed"] or "I8" not in weights.get("values", {}) else ", INT8 simulated"
    return f"{engine} {computes}{simulated}".strip()


def _against(own: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, float | None]:
    """Single numbers over the baseline's."""
    peak = own["memory"]["peak"] if own["memory"] else None
    other = baseline["memory"]["peak"] if baseline["memory"] else None
    return {
        "size": own["weights"]["bytes"] / baseline["weights"]["bytes"],
        "memory": peak / other if peak and other else None,
    }


def _worst(made: Plan, items: Mapping[str, list[ItemResult]], records: Sequence[Record]) -> list[dict[str, Any]]:
    """Those of the candidate first."""
    first = candidate(made)
    names = [first, *(name for name in items if name not in (first, made.baseline, NULL))]
    baseline = items[made.baseline]
    others = {name: pairs.together(items[name], baseline)[0] for name in names if name != made.baseline}
    return flips.worst(others, baseline, made.items, records)


def _replace(path: Path, text: str) -> None:
    work = path.with_name(f".{path.name}.partial")
    work.write_text(text, encoding="utf-8")
    os.replace(work, path)
