"""shipvlm bench check and sweep: what a run would measure, and how many requests a second an engine answers."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from shipvlm.cli.bench import Data, Limit, group, names_of
from shipvlm.cli.common import AsJson, Settings, check_model, print_json, quiet_libraries
from shipvlm.errors import InputError
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
    batches: Annotated[int, typer.Option(min=1, help="Batches at each level; p95 needs 130.")] = 130,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the result to this file too, as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Raise the number of clients until answers come too late: requests a second, p50 and p95 at each level."""
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: cpu or cuda")
    try:
        numbers = [int(level) for level in levels.split(",")]
    except ValueError as error:
        raise InputError(f"--levels {levels}: numbers with commas, such as 1,2,4,8") from error
    check_model(folder)
    quiet_libraries()
    from bench.plan import spread
    from bench.sweep import markdown, measure_sweep
    from bench.variants import Variant
    from calib_data.load import load_records
    from shipvlm.cli.progress import shown

    with shown() as (progress, _):
        found = measure_sweep(
            Variant.of(folder.resolve().name, folder, device),  # type: ignore[arg-type]
            spread(load_records(data), max(64, *numbers)),
            levels=numbers,
            case=case,
            slo_seconds=slo / 1e3,
            batches=batches,
            threads=threads,
            progress=progress,
        )
    if out:
        out.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(found)
    else:
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
