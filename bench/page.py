"""The report as one HTML page: JSON in, page out. Nothing is computed here but where marks lie."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from bench import figures, table


def render(report: Mapping[str, Any]) -> str:
    """The page of what bench.run wrote to bench.json: no script, nothing fetched, every text from outside escaped.

    Raises jinja2.UndefinedError where the report lacks a number.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": table.percent,
        "milliseconds": table.milliseconds,
        "ratio": table.ratio,
        "megabytes": table.megabytes,
    }
    return environment.get_template("page.html.j2").render(
        report=report,
        baseline=report["variants"][report["baseline"]],
        caption=table.caption(report),
        scatter=figures.scatter(report),
        bars=figures.bars(report),
    )
