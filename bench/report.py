"""Compares checkpoint folders item by item and writes the evidence: JSON lines, one JSON summary, one short table."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import accuracy, fidelity, intervals
from bench.accuracy import BATCH_SIZE, MAX_NEW_TOKENS, ItemResult
from bench.environment import (
    checkpoint_digest,
    describe_data,
    describe_weights,
    libraries,
    machine,
    run_key,
)
from calib_data.load import load_records
from calib_data.records import Record, digest
from shipvlm.errors import InputError
from shipvlm.folder import check_folder, make_folder
from shipvlm.runtime.checkpoint import load

NOTES = (
    "Every checkpoint is computed in float32 on the CPU, whatever type its weights are stored in.",
    "Answers are greedy. Intervals are 95 %; under 30 items there is none (INCONCLUSIVE).",
    "Differences are paired: the same items, each beside its own baseline answer.",
    "Seconds an answer are wall time on the machine named here and noisy: no statement about speed.",
)


def compare(folders: Sequence[Path], limit: int | None, out: Path, data: str = "evaluation") -> dict[str, Any]:
    """Measures checkpoint `folders` on `data` and compares them with the first, the baseline.

    `limit` takes that many records of each task, evenly spaced. Writes `out/<name>.jsonl` (one line an item; a killed
    run continues from them), `out/bench.json` (what is returned) and `out/bench.md`, and prints the table.
    Raises InputError for a folder that is no checkpoint, two folders of one name, data without records, and an `out`
    that cannot be written to.
    """
    names = _names(folders)
    everything = load_records(data)
    records = sample(everything, limit)
    make_folder(out)  # before the work
    digests = {name: checkpoint_digest(folder) for name, folder in names.items()}
    baseline, *variants = names
    settings = {"batch_size": BATCH_SIZE, "max_new_tokens": MAX_NEW_TOKENS, "dtype": "float32", "device": "cpu"}
    common = (digests[baseline], digest(everything), json.dumps(settings), json.dumps(libraries()))
    runs = {name: run_key(digests[name], *common) for name in names}

    results: dict[str, list[ItemResult]] = {}
    with accuracy.progress_bar() as progress:
        first = load(names[baseline])
        for pair in [[baseline, variant] for variant in variants] or [[baseline]]:
            # Two models at a time, so that memory does not grow with the number of variants.
            checkpoints = {name: first if name == baseline else load(names[name]) for name in pair}
            results |= fidelity.measure(checkpoints, records, out, runs, BATCH_SIZE, MAX_NEW_TOKENS, progress)

    report = {
        "schema_version": 1,
        "baseline": baseline,
        "data": {"name": Path(data).name if Path(data).exists() else data, "limit": limit, **describe_data(records)},
        "settings": settings,
        "machine": machine(),
        "libraries": libraries(),
        "notes": list(NOTES),
        "checkpoints": {
            name: {
                "digest": digests[name],
                "weights": describe_weights(names[name]),
                **summarise(results[name], results[baseline]),
            }
            for name in names
        },
    }
    rows = table_rows(report)
    (out / "bench.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    (out / "bench.md").write_text(_markdown(rows, report))
    Console().print(_table(rows, report))
    return report


def summarise(items: Sequence[ItemResult], baseline: Sequence[ItemResult]) -> dict[str, Any]:
    """Scores by task and over all items, paired differences from `baseline`, fidelity to it, seconds an answer."""
    if [item.id for item in items] != [item.id for item in baseline]:
        raise ValueError("not paired: the items differ")
    tasks = sorted({item.task for item in items})
    pairs = list(zip(items, baseline, strict=True))
    difference = {
        task: intervals.paired_difference(
            [left.value for _, left in pairs if task in (left.task, "all")],
            [right.value for right, left in pairs if task in (left.task, "all")],
        ).as_dict()
        for task in [*tasks, "all"]
    }
    return {
        "score": {**accuracy.summarise(items, lambda item: item.task), **accuracy.summarise(items, lambda _: "all")},
        "difference": difference,
        **fidelity.summarise(items),
        "seconds_per_answer": median(item.seconds for item in items),
    }


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
        count = min(limit, len(group))
        chosen += [group[index * len(group) // count] for index in range(count)]
    return chosen


def table_rows(report: dict[str, Any]) -> list[list[str]]:
    """The table as text: a column a checkpoint, a row a measure, the names in the first row."""
    entries = report["checkpoints"]
    others = [name for name in entries if name != report["baseline"]]
    tasks = list(entries[report["baseline"]]["score"])
    rows = [["", *entries], ["weights, MB", *(f"{entry['weights']['bytes'] / 1e6:.1f}" for entry in entries.values())]]
    rows += [[task, *(percent(entry["score"][task]) for entry in entries.values())] for task in tasks]
    if others:
        differences = (percent(entries[name]["difference"]["all"], signed=True) for name in others)
        rows.append(["difference (all)", "baseline", *differences])
        rows.append(["top-1 agreement", "baseline", *(percent(entries[name]["top1_agreement"]) for name in others)])
    rows.append(["s/answer", *(f"{entry['seconds_per_answer']:.2f}" for entry in entries.values())])
    return rows


def percent(estimate: dict[str, Any], signed: bool = False) -> str:
    """An estimate in percent with its interval: `81.3 [77.2, 84.8]`."""
    sign = "+" if signed else ""
    value = f"{100 * estimate['value']:{sign}.1f}"
    if estimate["low"] is None:
        return f"{value} INCONCLUSIVE (n={estimate['n']})"
    return f"{value} [{100 * estimate['low']:{sign}.1f}, {100 * estimate['high']:{sign}.1f}]"


def _names(folders: Sequence[Path]) -> dict[str, Path]:
    if not folders:
        raise InputError("give at least one checkpoint folder: the baseline")
    names: dict[str, Path] = {}
    for folder in folders:
        check_folder(folder)
        name = folder.resolve().name
        if name in names:
            raise InputError(f"two folders are named '{name}': results are kept by name, rename one")
        names[name] = folder
    return names


def _caption(report: dict[str, Any]) -> str:
    data, cpu = report["data"], report["machine"]
    return (
        f"{data['records']} records of {data['name']}, score in % with 95 % interval. "
        f"Computed in float32 on {cpu['cpu']}, {cpu['cores']} cores; seconds are noisy."
    )


def _table(rows: list[list[str]], report: dict[str, Any]) -> Table:
    table = Table(*rows[0], caption=_caption(report))
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _markdown(rows: list[list[str]], report: dict[str, Any]) -> str:
    lines = [" | ".join(row) for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]]
    return "\n".join(f"| {line} |" for line in lines) + "\n\n" + "\n".join([_caption(report), "", *NOTES]) + "\n"
