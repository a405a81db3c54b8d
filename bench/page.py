"""The report as one HTML page: JSON in, page out. Nothing is computed here but where marks lie."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from bench import evidence_tables, figures, findings, tables, words

WORDS = {
    "FASTER": "good",
    "HIGHER": "good",
    "PASS": "good",
    "SLOWER": "bad",
    "LOWER": "bad",
    "FAIL": "bad",
    "SAME": "open",
    "NO DIFFERENCE SEEN": "open",
    "AMBIGUOUS": "open",
    "INCONCLUSIVE": "open",
}
SHORT = 18  # letters: a longer piece of a cell may be broken over lines
PIECES = re.compile(rf"({'|'.join(WORDS)}|\[[^\]]*\]|\(n=\d+\)|; )")


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
    environment.filters |= {"parts": parts, "size": words.size, "number": words.number, "times": words.times}
    word, sentence = findings.headline(report)
    return environment.get_template("page.html.j2").render(
        report=report,
        word=word,
        sentence=sentence,
        kinds=WORDS,
        missing=findings.missing(report),
        checks=findings.checks(report),
        found=findings.findings(report, report["candidate"]) if report["candidate"] != report["baseline"] else [],
        why=findings.why(report),
        caption=findings.caption(report),
        reading=findings.reading(report),
        tables=tables,
        evidence=evidence_tables,
        figures=figures,
    )


def parts(text: str) -> list[dict[str, str]]:
    """A cell in pieces: judging words, numbers, intervals; a semicolon starts a line."""
    found = []
    for piece in PIECES.split(text):
        kind = f"word {WORDS[piece]}" if piece in WORDS else "interval" if piece[:1] in ("[", "(") else "value"
        if kind == "value" and len(piece.strip()) > SHORT:
            kind = "value long"
        if piece == "; ":
            found.append({"text": "", "kind": "gap"})
        elif piece.strip():
            found.append({"text": piece.strip(), "kind": kind})
    return found
