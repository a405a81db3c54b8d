"""Numbers of a report as words, and the report as one table of Markdown that can be read in a terminal too."""

from collections.abc import Mapping
from typing import Any

INCONCLUSIVE = "INCONCLUSIVE"
Entry = Mapping[str, Any]


def percent(estimate: Entry, signed: bool = False) -> str:
    """An estimate in percent with its interval: `81.3 [77.2, 84.8]`."""
    return _with_interval(estimate, lambda value: f"{100 * value:{'+' if signed else ''}.1f}")


def milliseconds(estimate: Entry | None) -> str:
    """Seconds as milliseconds with their interval: `41.2 [40.1, 43.0]`; a dash where nothing was measured."""
    return "-" if estimate is None else _with_interval(estimate, lambda value: number(1e3 * value))


def ratio(estimate: Entry | None) -> str:
    """A ratio with its interval: `1.93x [1.88, 2.01]`; a dash where nothing was measured."""
    return "-" if estimate is None else _with_interval(estimate, lambda value: f"{value:.2f}", "x")


def number(value: float) -> str:
    """Three digits that count, but never fewer than the whole number: `0.412`, `4.12`, `41.2`, `412`, `4123`."""
    places = next((places for places, limit in ((3, 0.9995), (2, 9.995), (1, 99.95)) if abs(value) < limit), 0)
    return f"{value:.{places}f}"


def megabytes(size: int) -> str:
    """Bytes in units of 1e6."""
    return number(size / 1e6)


def rows(report: Mapping[str, Any]) -> list[list[str]]:
    """A column a variant, a row a measure; the names are the first row."""
    entries: Mapping[str, Entry] = report["variants"]
    baseline = report["baseline"]
    tasks = list(entries[baseline]["score"])

    def row(name: str, cell: Any) -> list[str]:
        return [name, *(cell(entry) for entry in entries.values())]

    def against(name: str, cell: Any) -> list[str]:
        return [name, *("baseline" if key == baseline else cell(entry) for key, entry in entries.items())]

    return [
        ["", *entries],
        row("runtime, device", lambda entry: f"{entry['runtime']}, {entry['device']}"),
        *(row(f"score {task}, %", lambda entry, task=task: percent(entry["score"][task])) for task in tasks),
        against("difference (all)", lambda entry: percent(entry["difference"]["all"], signed=True)),
        against("score kept, %", lambda entry: percent(entry["recovery"]) if entry["recovery"] else "-"),
        against(
            "top-1 agreement, %", lambda entry: percent(entry["top1_agreement"]) if entry["top1_agreement"] else "-"
        ),
        row("time to first token, ms", lambda entry: milliseconds(entry["latency"]["ttft"])),
        row("time per output token, ms", lambda entry: milliseconds(entry["latency"]["tpot"])),
        row("end to end, ms", lambda entry: milliseconds(entry["latency"]["e2e"])),
        against("speed-up, first token", lambda entry: ratio(entry["speedup"]["ttft"])),
        against("speed-up, output token", lambda entry: ratio(entry["speedup"]["tpot"])),
        row("peak memory, MB", lambda entry: megabytes(entry["memory"]["peak_rss"])),
        row("of which the model, MB", lambda entry: megabytes(entry["memory"]["model_rss"])),
        *(
            [row("peak device memory, MB", lambda entry: megabytes(entry["memory"]["peak_vram"] or 0))]
            if any(entry["memory"]["peak_vram"] is not None for entry in entries.values())
            else []
        ),
        row("model files, MB", lambda entry: megabytes(entry["weights"]["bytes"])),
        row("load, s", lambda entry: f"{entry['load_seconds']['value']:.2f}"),
    ]


def markdown(report: Mapping[str, Any]) -> str:
    """The table, its columns aligned, what it was measured on, and how to read it."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows(report)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    cells.insert(1, ["-" * width for width in widths])
    table = "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    )
    return "\n\n".join([table, caption(report), *report["notes"]]) + "\n"


def caption(report: Mapping[str, Any]) -> str:
    """What was measured, where."""
    data, machine = report["data"], report["machine"]
    where = ", ".join([*machine["gpus"], machine["cpu"], f"{machine['cores']} cores"])
    return (
        f"{data['records']} records of {data['name']} scored, {report['timed_requests']} requests timed, on {where}. "
        "Brackets: 95 % interval."
    )


def _with_interval(estimate: Entry, words: Any, unit: str = "") -> str:
    if estimate["low"] is None:
        return f"{words(estimate['value'])}{unit} {INCONCLUSIVE} (n={estimate['n']})"
    return f"{words(estimate['value'])}{unit} [{words(estimate['low'])}, {words(estimate['high'])}]"
