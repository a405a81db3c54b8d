"""The tables of a report, a row a variant: what stands in which column. Markdown and page show the same."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bench.findings import METRICS
from bench.variants import EXTRAS, NULL
from bench.words import NONE, judged, milliseconds, percent, size
from bench.words import times as share_of

Report = Mapping[str, Any]
Entry = Mapping[str, Any]
Cell = Callable[[Entry], str]
BASELINE, DELTA = "baseline", "\N{GREEK CAPITAL LETTER DELTA}"


class Column(NamedTuple):
    """`cell` is what a variant shows, `baseline` what the baseline does."""

    title: str
    cell: Cell
    baseline: Cell = lambda _: BASELINE


class Row(NamedTuple):
    name: str
    label: str
    place: int  # of the variant: its colour
    cells: tuple[str, ...]


class Table(NamedTuple):
    title: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


def deltas(report: Report) -> Table:
    """Every variant against the baseline."""
    columns = []
    if any("difference" in entry for entry in report["variants"].values()):
        columns.append(Column("score, points", lambda entry: _change(entry, "all")))
        columns.append(Column("answers worse / better", _flips))
    for case in timed_cases(report):

        def whole(entry: Entry, case: str = case) -> str:
            return judged(get(entry, "ratio", case, "e2e"))

        columns.append(Column(f"whole answer, {case}", whole))
    columns += [
        Column(
            "peak memory",
            lambda entry: _of(entry["against"]["memory"], get(entry, "memory", "peak")),
            lambda entry: size(get(entry, "memory", "peak")),
        ),
        Column(
            "files",
            lambda entry: _of(entry["against"]["size"], entry["weights"]["bytes"]),
            lambda entry: size(entry["weights"]["bytes"]),
        ),
    ]
    if timed_cases(report):
        columns.append(Column("cold start", lambda entry: judged(get(entry, "cold_start", "ratio"))))
    note = " ".join([*_untimed(report), *loaded_files(report), *_warm_starts(report)])
    return table(report, f"Every variant against {report['baseline']}", columns, note=note)


def _warm_starts(report: Report) -> list[str]:
    started = [entry["cold_start"] for entry in report["variants"].values() if entry["cold_start"]]
    if not started or all(each["dropped"] for each in started):
        return []
    return ["Cold starts may have found the model's files in the system's memory."]


def times(report: Report) -> list[Table]:
    """Milliseconds and ratios, a table a case."""
    found = []
    for case in timed_cases(report):
        asked, columns = report["cases"][case], []
        for metric, title in METRICS.items():

            def milli(entry: Entry, case: str = case, metric: str = metric) -> str:
                found = milliseconds(get(entry, "latency", case, metric))
                return f"{found} (disturbed)" if entry["only_disturbed"] and found != NONE else found

            def against(entry: Entry, case: str = case, metric: str = metric) -> str:
                return judged(get(entry, "ratio", case, metric))

            columns += [Column(f"{title}, ms", milli, milli), Column("against the baseline", against)]
        batch = f", {asked['batch']} at once" if asked["batch"] > 1 else ""
        note = (
            f"{case}: pictures of {asked['width']} x {asked['height']}, prompts of {asked['prompt_tokens']} tokens "
            f"without picture, answers of {asked['answer_tokens']} tokens{batch}."
        )
        names = [name for name, entry in report["variants"].items() if case in entry["latency"]]
        found.append(table(report, f"Times: {case}", columns, names, note))
    return found


def scores(report: Report) -> Table | None:
    """Scores by task with the paired differences; None where nothing was scored."""
    tasks = report["variants"][report["baseline"]].get("score")
    if not tasks:
        return None
    columns = []
    for task, found in tasks.items():

        def score(entry: Entry, task: str = task, n: int = found["n"]) -> str:
            own = get(entry, "score", task)
            fewer = f" of {own['n']}" if own and own["n"] != n else ""
            return percent(own, few="") + fewer

        def both(entry: Entry, task: str = task, score: Cell = score) -> str:
            change = percent(get(entry, "difference", task), signed=True, few="")
            return f"{score(entry)}; {DELTA} {change}"

        columns.append(Column(f"{task}, % of {found['n']}", both, score))
    columns.append(Column("score kept, %", lambda entry: percent(entry.get("recovery"), few="")))
    names = [name for name, entry in report["variants"].items() if "score" in entry]
    note = f"{DELTA}: the paired difference from the baseline, in points. No brackets: too few items for an interval."
    return table(report, "Score by task", columns, names, note)


def loaded_files(report: Report) -> list[str]:
    """Which variants have no files of their own; nothing where all have."""
    forms = [name for name in report["variants"] if name in (NULL, *EXTRAS)]
    said = [f"Loaded from the same files as {report['baseline']}: {', '.join(forms)}."] if forms else []
    quantized = any(report["variants"][name]["engine"].startswith("bnb-") for name in forms)
    return [*said, "bitsandbytes quantizes in memory, while it loads."] if quantized else said


def timed_cases(report: Report) -> list[str]:
    """The cases that were measured."""
    return [case for case in report["cases"] if any(case in entry["latency"] for entry in report["variants"].values())]


def table(
    report: Report, title: str, columns: Sequence[Column], names: Sequence[str] | None = None, note: str = ""
) -> Table:
    """`names` are the variants that are shown: all unless said."""
    rows = []
    for place, (name, entry) in enumerate(report["variants"].items()):
        if names is None or name in names:
            cells = [column.baseline(entry) if name == report["baseline"] else column.cell(entry) for column in columns]
            rows.append(Row(name, entry["label"], place, tuple(cells)))
    return Table(title, tuple(column.title for column in columns), tuple(rows), note)


def get(entry: Entry, *keys: str) -> Any:
    """What lies at `keys`; None where something on the way is not there."""
    found: Any = entry
    for key in keys:
        found = None if found is None else found.get(key)
    return found


def _untimed(report: Report) -> list[str]:
    names = [name for name, entry in report["variants"].items() if not entry["timed"]]
    return [f"Measured for the answers alone: {', '.join(names)}."] if names and timed_cases(report) else []


def _change(entry: Entry, task: str) -> str:
    return percent(get(entry, "difference", task), signed=True)


def _flips(entry: Entry) -> str:
    flips = entry.get("flips")
    return f"{flips['worse']['count']} / {flips['better']['count']}" if flips else NONE


def _of(share: float | None, count: float | None) -> str:
    return NONE if share is None else f"{share_of(share)} ({size(count)})"
