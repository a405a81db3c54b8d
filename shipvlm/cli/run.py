"""shipvlm run: a recipe from checkpoint to report. What is there and still right is kept."""

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from shipvlm.cli.bench import refuse_failed
from shipvlm.cli.common import AsJson, Recipe, Settings, app, megabytes, print_json
from shipvlm.cli.pipeline import Until, build
from shipvlm.cli.plan import Out, default_out, make_plan, refuse_problems
from shipvlm.cli.progress import bytes_shown, shown
from shipvlm.errors import GateError, InputError, Interrupted
from shipvlm.folder import make_folder
from shipvlm.lock import Lock, files_digest
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
    """Fetch and build what a recipe says. Run it again after a kill or a change: what is still right is kept."""
    from shipvlm.recipe_file import read_recipe

    read = read_recipe(recipe, settings or ())
    target = out or default_out(read)
    refuse_problems(make_plan(read, target, until))
    changed = [part for setting in settings or () for part in ("--set", setting)]
    command = shlex.join(["shipvlm", "run", recipe.name if recipe.is_absolute() else str(recipe), *changed])
    done: list[dict[str, Any]] = []
    try:
        with alone(target):
            verified = None
            if read.model.repo:
                entry, verified = _fetch(read, target)
                done.append(entry)
                refuse_problems(make_plan(read, target, until))  # now the checkpoint can be seen
            if until != "fetch":
                with shown() as (progress, say):
                    done += run_recipe(read, target, until, command, progress, say, verified)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"stopped; finished stages are kept in {target}, the same command goes on from there"
        ) from error
    result: dict[str, Any] = {"out": str(target), "stages": done}
    folders = {entry["stage"]: entry["folder"] for entry in done}
    if until not in ("fetch", "quantize"):
        result["artifact"] = folders.get("convert", folders["quantize"])
    if until == "bench":
        result["report"] = str(Path(folders["bench"], "index.html"))
    if as_json:
        print_json(result)
    else:
        _print(result)
    if until == "bench":
        refuse_failed(Path(folders["bench"]))


def run_recipe(
    recipe: RecipeModel,
    out: Path,
    until: Until,
    command: str,
    progress: Progress,
    say: Say,
    verified: Lock | None = None,
) -> list[dict[str, Any]]:
    """Run the stages of `recipe` that build in `out`; return an entry for each, which is also written to the log.

    `verified` as for `shipvlm.artifact.checkpoint_digest`.
    """
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
        for note in done.manifest["result"].get("notes", []):
            say(f"{stage.name}: {note}")
        return done

    build(recipe, until, command, make, verified)
    return entries


def _fetch(recipe: RecipeModel, out: Path) -> tuple[dict[str, Any], Lock]:
    """Fetch the checkpoint of `recipe`, or verify the one that is there; return its entry, as `run_recipe` does.

    And its lock: every file was hashed and is as it says.
    """
    from fetch.access import AccessError, commands
    from fetch.card import licence_line
    from fetch.existing import part_of_another
    from fetch.stage import fetch

    model, started = recipe.model, perf_counter()
    entry: dict[str, Any] = {"stage": "fetch", "folder": str(model.path), "repo": model.repo}
    try:
        with bytes_shown() as (progress, say):
            say(f"fetch: {model.path}")
            done = fetch(model, progress, say)
            if done.adapter:
                raise InputError(f"{model.repo}: is a LoRA adapter: name its base in model.repo, it in model.adapters")
            if not done.kept:
                say(licence_line(done.lock.licence, list(done.lock.documents), model.path))
            if done.terms:
                say(f"terms: {done.terms}")
    except BaseException as error:
        _log(out, entry | {"error": f"{type(error).__name__}: {error}"})
        if isinstance(error, AccessError):
            again = commands(
                str(model.repo),
                model.path,
                model.revision,
                model.source,
                model.endpoint,
                model.include,
                model.lock,
                part=model.path if part_of_another(model.path, "modelscope", model.lock) else None,
            )
            raise error.also(**again) from error
        raise
    lock = done.lock
    size = sum(file.bytes for file in (*lock.files.values(), *lock.documents.values()))
    entry |= {"commit": lock.commit, "kept": done.kept, "bytes": size, "digest": files_digest(lock)}
    entry["seconds"] = round(perf_counter() - started, 3)
    _log(out, entry)
    return entry, lock


def _log(out: Path, entry: dict[str, Any]) -> None:
    make_folder(out)
    with (out / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **entry}) + "\n")


def _print(result: dict[str, Any]) -> None:
    if "report" in result:
        text = Path(result["report"]).with_name("bench.md").read_text(encoding="utf-8")
        print(f"\n{text.partition('### ')[0].rstrip()}")  # the verdict, without the tables
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
