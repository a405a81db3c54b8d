"""shipvlm run: a recipe from checkpoint to report. What is there and still right is kept."""

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from shipvlm.cli.common import AsJson, Recipe, Settings, app, megabytes, print_json
from shipvlm.cli.pipeline import Until, build
from shipvlm.cli.plan import Out, default_out, make_plan, refuse_problems
from shipvlm.cli.progress import shown
from shipvlm.errors import GateError, Interrupted
from shipvlm.folder import make_folder
from shipvlm.recipe import Recipe as RecipeModel
from shipvlm.stages import Done, Progress, Say, Stage, alone, run_stage

LOG = "log.jsonl"


@app.command()
def run(
    recipe: Recipe,
    out: Out = None,
    settings: Settings = None,
    until: Annotated[Until, typer.Option(help="Last stage to run.")] = "bench",
    as_json: AsJson = False,
) -> None:
    """Build what a recipe says. Run it again after a kill or a change: only what is missing or changed is made."""
    from shipvlm.recipe_file import read_recipe

    read = read_recipe(recipe, settings or ())
    target = out or default_out(read)
    refuse_problems(make_plan(read, target, until))
    changed = [part for setting in settings or () for part in ("--set", setting)]
    command = shlex.join(["shipvlm", "run", recipe.name if recipe.is_absolute() else str(recipe), *changed])
    try:
        with alone(target), shown() as (progress, say):
            done = run_recipe(read, target, until, command, progress, say)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"stopped; finished stages are kept in {target}, the same command goes on from there"
        ) from error
    result: dict[str, Any] = {"out": str(target), "stages": done}
    folders = {entry["stage"]: entry["folder"] for entry in done}
    if until != "quantize":
        result["artifact"] = folders.get("convert", folders["quantize"])
    if until == "bench":
        result["report"] = str(Path(folders["bench"], "index.html"))
    if as_json:
        print_json(result)
    else:
        _print(result)


def run_recipe(
    recipe: RecipeModel, out: Path, until: Until, command: str, progress: Progress, say: Say
) -> list[dict[str, Any]]:
    """Run the stages of `recipe` in `out`; return an entry for each, which is also written to the log there."""
    entries: list[dict[str, Any]] = []
    started = perf_counter()

    def make(folder: str, stage: Stage) -> Done:
        nonlocal started
        say(f"{stage.name}: {out / folder}")
        entry: dict[str, Any] = {"stage": stage.name, "folder": str(out / folder)}
        try:
            done = run_stage(stage, out / folder, lambda what, *part: progress(f"{stage.name}: {what}", *part), say)
        except BaseException as error:
            evidence = {"ladder": error.ladder} if isinstance(error, GateError) and hasattr(error, "ladder") else {}
            _log(out, entry | {"error": f"{type(error).__name__}: {error}"} | evidence)
            raise
        size = sum(file["bytes"] for file in done.manifest["files"].values())
        entry |= {"kept": done.kept, "bytes": size, "digest": done.digest}
        entry["seconds"] = round(perf_counter() - started, 3)  # reading its inputs included
        started = perf_counter()
        _log(out, entry)
        entries.append(entry)
        return done

    build(recipe, until, command, make)
    return entries


def _log(out: Path, entry: dict[str, Any]) -> None:
    make_folder(out)
    with (out / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **entry}) + "\n")


def _print(result: dict[str, Any]) -> None:
    if "report" in result:
        table = Path(result["report"]).with_name("bench.md").read_text(encoding="utf-8").partition("\n\n")[0]
        print(f"\n{table}")
    print()
    for entry in result["stages"]:
        kept = " (kept)" if entry["kept"] else ""
        print(
            f"{entry['stage']:<10}{entry['seconds']:>8.1f} s  {megabytes(entry['bytes']):>12}  {entry['folder']}{kept}"
        )
    print(f"{'together':<10}{sum(entry['seconds'] for entry in result['stages']):>8.1f} s")
    for name in ("artifact", "report"):
        if name in result:
            print(f"{name}: {result[name]}")
