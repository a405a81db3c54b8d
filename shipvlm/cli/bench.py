"""shipvlm bench: measures variants of a model against each other. The other commands of the group are in bench_*.py."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from shipvlm.cli.common import AsJson, Settings, app, check_model, run_alone
from shipvlm.errors import GateError, InputError
from shipvlm.recipe import ModelSection

group = typer.Typer(no_args_is_help=True, help="Measure, compare, judge and report: time, memory, scores.")
app.add_typer(group, name="bench")

Data = Annotated[str, typer.Option(help="A split's name, a file, a folder or a data set id.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Records of each task; all when left out.")]


@group.command()
def run(
    folders: Annotated[list[Path], typer.Argument(help="Checkpoints and artifacts; the first is the baseline.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the report; a run that was cut off goes on.")],
    data: Data = "evaluation",
    limit: Limit = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Measure time, memory and scores of folders, and hold each against the first, item by item.

    The last folder is the one that the gates are about. Exits with 1 when it fails one (--set gates.score=0.01).
    """
    from shipvlm.cli.pipeline import bench_stage
    from shipvlm.recipe_file import make_recipe

    for folder in folders:
        check_model(folder, hashed=True)  # before the slow imports
    names = names_of(folders)
    model = ModelSection(path=folders[0]).model_dump(mode="json")
    values = {"name": "bench", "model": model, "bench": {"data": data, "limit": limit}}
    recipe = make_recipe(values, settings or ())
    variants = {name: (path, _digest(path)) for name, path in zip(names, folders, strict=True)}
    options = ["-o", shown(out), "--data", shown(Path(data)), *(["--limit", str(limit)] if limit else [])]
    changes = [part for setting in settings or () for part in ("--set", setting)]
    command = shlex.join(["shipvlm", "bench", "run", *map(shown, folders), *options, *changes])
    run_alone(bench_stage(recipe, variants, command), folders, out)
    if as_json:
        print((out / "bench.json").read_text(encoding="utf-8"), end="")
    else:
        print((out / "bench.md").read_text(encoding="utf-8"))
        print(f"report: {out / 'index.html'}")
    refuse_failed(out)


def _digest(folder: Path) -> str:
    """sha256 of what is measured: of its manifest where it has one, else of its files."""
    from shipvlm.artifact import MANIFEST, checkpoint_digest, folder_digest
    from shipvlm.folder import GRAPHS

    if (folder / MANIFEST).is_file():
        return folder_digest(folder)
    if (folder / GRAPHS).is_file():
        from bench.environment import model_digest

        return model_digest(folder)
    return checkpoint_digest(folder)


def names_of(folders: list[Path]) -> list[str]:
    """The variants' names: those of their folders. Raises `InputError` where two are the same."""
    names = [folder.resolve().name for folder in folders]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two folders are named {twice.pop()!r}: results are kept by name, rename one")
    return names


def shown(path: Path) -> str:
    """A path as a report says it, from the working folder; one outside of it, which no other machine has, is cut."""
    if path.is_absolute() and not path.is_relative_to(Path.cwd()):
        return f".../{path.name}"
    return str(path.relative_to(Path.cwd()) if path.is_absolute() else path)


def refuse_failed(report: Path) -> None:
    """Raises `GateError` where the report in a folder says FAIL. INCONCLUSIVE is no failure of the run."""
    from bench.findings import headline
    from bench.results import read_report

    found = read_report(report)
    if found["judgement"] and found["judgement"]["verdict"] == "FAIL":
        raise GateError(headline(found)[1])
