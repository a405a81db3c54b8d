"""Renders the model card from what was measured: `python -m examples.tiny_qwen3_vl.card`. No number is typed by hand.

results.json comes from `evaluate`; training.json and training_curve.csv come from `train`. Under "notes" training.json
may hold paragraphs on what else was tried.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import jinja2

from bench.words import percent
from examples.tiny_qwen3_vl.ablations import COARSE_PICTURE
from shipvlm.errors import InputError, ShipvlmError

FOLDER = Path(__file__).parent
# What the model was built to reach (score by task)
TARGETS = {
    "caption": 0.6,
    "consistency": 0.85,
    "ocr": 0.8,
    "vqa (scenes)": 0.8,
    "vqa (easy-VQA)": None,
    "easy-VQA public test": 0.95,
}
METRICS = {"score": "Task score", "top1_agreement": "Top-1 agreement"}


def render(results: dict[str, Any], training: dict[str, Any]) -> str:
    """The card as Markdown. Raises InputError naming the field when a number that the card needs is missing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True
    )
    environment.filters |= {
        "aim": lambda target: "" if target is None else f"{100 * target:.0f}",
        "cell": _cell,
        "megabytes": lambda size: f"{size / 1e6:.1f}",
        "millions": lambda count: f"{count / 1e6:.1f}",
        "number": _number,
        "percent": percent,
        "thousands": lambda count: f"{int(count):,}",
    }
    licences = {source: names for part in results["data"].values() for source, names in part["licences"].items()}
    try:
        return environment.get_template("card.md.j2").render(
            results=results,
            training=training,
            tasks=[name for name in results["quantization"]["rows"]["fp32"]["score"] if name != "all"],
            targets=TARGETS,
            coarse_side=round(COARSE_PICTURE**0.5),
            metrics={METRICS[name]: results["quantization"]["verdict"][name] for name in METRICS},
            licences=dict(sorted(licences.items())),
        )
    except jinja2.UndefinedError as error:
        raise InputError(f"the card needs a number that is missing: {error.message}") from error


def write_card(folder: Path) -> None:
    """Writes README.md and training_curve.png in `folder` from the JSON and CSV files there.

    Raises InputError when one is missing, or when results.json is of a run that was limited or left something out.
    """
    results, training = _read(folder / "results.json"), _read(folder / "training.json")
    if results["limit"] is not None or results["easy_vqa_test"] is None:
        raise InputError(f"{folder / 'results.json'} is of a limited run: a card needs the whole evaluation")
    (folder / "README.md").write_text(render(results, training), encoding="utf-8")
    draw_curve(folder / "training_curve.csv", folder / "training_curve.png")


def draw_curve(source: Path, out: Path) -> None:
    """The training loss over steps as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with source.open(newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    if not rows:
        raise InputError(f"{source} has no rows")
    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(*zip(*rows, strict=True), linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss, nats a token", yscale="log")
    axes.grid(alpha=0.3)
    figure.savefig(out, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} is missing: evaluate and training write it")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _number(estimate: dict[str, Any]) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:.2g} INCONCLUSIVE (n={estimate['n']})"
    return f"{estimate['value']:.2g} [{estimate['low']:.2g}, {estimate['high']:.2g}]"


def _cell(text: str) -> str:
    """Any text as one table cell of Markdown."""
    lines = ["".join(char if char.isprintable() else "\ufffd" for char in line) for line in text.split("\n")]
    return "<br>".join(line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for line in lines)


def main() -> None:
    try:
        write_card(FOLDER)
    except ShipvlmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(FOLDER / "README.md")


if __name__ == "__main__":
    main()
