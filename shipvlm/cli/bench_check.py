"""shipvlm bench check and sweep: what a run would measure, and how many requests a second an engine answers."""

import json
import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from shipvlm.cli.bench import Data, Limit, group, names_of, shown
from shipvlm.cli.common import AsJson, Settings, check_model, print_json, quiet_libraries
from shipvlm.errors import InputError, Interrupted
from shipvlm.folder import make_folder
from shipvlm.recipe import ModelSection, Recipe


@group.command()
def check(
    what: Annotated[list[Path], typer.Argument(help="A recipe, or folders as for `bench run`.")],
    data: Data = "evaluation",
    limit: Limit = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Say what would be measured, how long it takes, what so many items can decide, and what is possible at best.

    Measures the rates of this machine for some seconds, and no variant. Exits with 2 when a problem would stop the run.
    """
    recipe, folders, absent = _asked(what, data, limit, settings or [])
    for folder in folders.values():
        check_model(folder)
    quiet_libraries()
    from bench.check import check as checked
    from bench.check import lines
    from bench.variants import Variant
    from calib_data.load import load_records

    given = [Variant.of(name, folder, recipe.bench.device) for name, folder in folders.items()]
    found = checked(given, load_records(recipe.bench.data), recipe.bench, recipe.gates)
    found["problems"] += [
        {"message": f"{name} is not built yet: nothing is said of it", "stops": False} for name in absent
    ]
    if as_json:
        print_json(found)
    else:
        print("\n".join(lines(found)))
    if stops := [each["message"] for each in found["problems"] if each["stops"]]:
        raise InputError("\n  ".join(stops))


@group.command()
def sweep(
    folder: Annotated[Path, typer.Argument(help="A checkpoint or an artifact.")],
    case: Annotated[str, typer.Option(help="What is asked: vqa-small, caption, document.")] = "vqa-small",
    levels: Annotated[str, typer.Option(help="Numbers of clients that ask at once, rising.")] = "1,2,4,8",
    slo: Annotated[float, typer.Option(min=1, help="Milliseconds within which 95 of 100 answers are to come.")] = 500,
    data: Data = "evaluation",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; one a core when left out.")] = None,
    batches: Annotated[int, typer.Option(min=1, help="Batches at a level in a process; p95 needs 130.")] = 130,
    processes: Annotated[int, typer.Option(min=2, help="Fresh processes, each of which measures all levels.")] = 3,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the result to this file too, as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Raise the number of clients until answers come too late: requests a second, p50 and p95 at each level.

    Ctrl-C ends it early: what was measured until then is printed, and what is missing.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: cpu or cuda")
    try:
        numbers = [int(level) for level in levels.split(",")]
    except ValueError as error:
        raise InputError(f"--levels {levels}: numbers with commas, such as 1,2,4,8") from error
    check_model(folder)
    if out:
        _check_file(out)
    quiet_libraries()
    from bench.plan import spread
    from bench.sweep import measure_sweep
    from bench.sweep_findings import markdown
    from bench.variants import Variant
    from calib_data.load import load_records
    from shipvlm.cli import progress as screen

    asked: dict[str, Any] = {
        "case": case,
        "levels": levels,
        "slo": f"{slo:g}",
        "data": shown(Path(data)),
        "device": device,
    }
    asked |= {"threads": threads, "batches": batches, "processes": processes}
    options = [part for name, value in asked.items() if value is not None for part in (f"--{name}", str(value))]
    found: dict[str, Any] | None = None
    try:
        with screen.shown() as (progress, say):
            for found in measure_sweep(
                Variant.of(folder.resolve().name, folder, device),  # type: ignore[arg-type]
                spread(load_records(data), max(64, *numbers)),
                levels=numbers,
                case=case,
                slo_seconds=slo / 1e3,
                batches=batches,
                processes=processes,
                threads=threads,
                data=Path(data).name if Path(data).exists() else data,
                command=shlex.join(["shipvlm", "bench", "sweep", shown(folder), *options]),
                progress=progress,
                say=say,
            ):
                if out:
                    _write(out, json.dumps(found, indent=2, allow_nan=False) + "\n")
    except KeyboardInterrupt:
        left = f"{len(found['missing'])} measurements are missing" if found else "nothing was measured yet"
        kept = f"; the others are kept in {out}" if found and out else ""
        raise Interrupted(f"stopped: {left}{kept}") from None
    finally:  # whatever ended it
        if found and as_json:
            print_json(found)
        elif found:
            print(markdown(found), end="")


def _asked(
    what: list[Path], data: str, limit: int | None, settings: list[str]
) -> tuple[Recipe, dict[str, Path], list[str]]:
    """The recipe, the folders of the variants that are there, and the names of those that are not."""
    from shipvlm.cli.pipeline import ARTIFACT, BASELINE, QUANTIZED
    from shipvlm.cli.plan import default_out
    from shipvlm.recipe_file import make_recipe, read_recipe

    if len(what) == 1 and what[0].is_file():
        recipe = read_recipe(what[0], settings)
        scheme, built = recipe.quantize.scheme, default_out(recipe)
        made = {scheme: QUANTIZED} | ({"onnx": BASELINE, f"onnx-{scheme}": ARTIFACT} if recipe.convert else {})
        there = {name: built / part for name, part in made.items() if (built / part).is_dir()}
        return recipe, {"original": recipe.model.path} | there, sorted(made.keys() - there.keys())
    model = ModelSection(path=what[0]).model_dump(mode="json")
    values: dict[str, Any] = {"name": "bench", "model": model, "bench": {"data": data, "limit": limit}}
    return make_recipe(values, settings), dict(zip(names_of(what), what, strict=True)), []


def _check_file(out: Path) -> None:
    """Make the folder of a file that is written later. Raises `InputError` where it cannot be."""
    make_folder(out.parent)
    if out.is_dir():
        raise InputError(f"{out}: is a folder; give the name of a file in it")


def _write(out: Path, text: str) -> None:
    """The file changes as a whole: a killed sweep leaves what was measured before."""
    work = out.with_name(f".{out.name}.partial")
    work.write_text(text, encoding="utf-8")
    os.replace(work, out)
