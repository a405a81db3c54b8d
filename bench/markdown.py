"""The report as Markdown, for a terminal and a pull request: the verdict, what was found, the tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench import findings, tables
from bench.tables import Table

Report = Mapping[str, Any]


def markdown(report: Report) -> str:
    """The verdict first, then what the data supports for the candidate, then all variants."""
    parts = [verdict(report)]
    for table in all_tables(report):
        parts += [f"### {table.title}", grid(table), *([table.note] if table.note else [])]
    parts += ["\n".join(f"- {line}" for line in (findings.caption(report), *findings.reading(report)))]
    if report["command"]:
        parts.append(f"Measure it again: `{report['command']}`")
    return "\n\n".join(parts) + "\n"


def all_tables(report: Report) -> list[Table]:
    """What Markdown shows of the page's tables."""
    found = [tables.deltas(report), *tables.times(report), tables.scores(report)]
    return [table for table in found if table is not None]


def verdict(report: Report) -> str:
    """The gate's judgement and what was found of the candidate, without the tables."""
    word, sentence = findings.headline(report)
    parts = [f"**{word}**: {sentence}" if word else sentence]
    if missing := findings.missing(report):
        parts.append(missing)
    if checks := findings.checks(report):
        rows = [[check[field] for field in ("name", "asked", "measured", "verdict", "reason")] for check in checks]
        parts.append(lined([["asked of it", "", "measured", "", ""], *rows]))
    if report["candidate"] != report["baseline"]:
        found = findings.findings(report, report["candidate"])
        rows = [[each.name, each.word, each.value, each.null] for each in found]
        head = [f"{report['candidate']} against {report['baseline']}", "", "", f"{report['baseline']} against itself"]
        parts.append(lined([head, *rows]))
        if why := findings.why(report):
            parts.append("\n".join(f"- {line}" for line in why))
    return "\n\n".join(parts)


def grid(table: Table) -> str:
    """One table, its columns aligned."""
    return lined([["", *table.head], *([row.name, *row.cells] for row in table.rows)])


def lined(rows: Sequence[Sequence[str]]) -> str:
    """Rows of Markdown, the first of them the head."""
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(cells[0]))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    )
