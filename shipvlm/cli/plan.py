"""shipvlm plan: what a recipe would build, before anything is built."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from shipvlm.cli.common import AsJson, Recipe, Settings, app, megabytes, print_json
from shipvlm.errors import InputError
from shipvlm.recipe import Recipe as RecipeModel
from shipvlm.schemes import Verdict

if TYPE_CHECKING:
    from shipvlm.plan_checks import Merging

VERDICTS = get_args(Verdict)

Out = Annotated[
    Path | None, typer.Option("-o", "--out", help="Folder for all results; build/NAME OF THE RECIPE when left out.")
]


@app.command()
def plan(recipe: Recipe, out: Out = None, settings: Settings = None, as_json: AsJson = False) -> None:
    """Say in seconds what a recipe would build, how large, where it will run, and every problem that can be seen.

    Exits with 2 when a problem would stop the run.
    """
    from shipvlm.recipe_file import read_recipe

    read = read_recipe(recipe, settings or ())
    found = make_plan(read, out or default_out(read))
    if as_json:
        print_json(found)
    else:
        _print(found)
    refuse_problems(found)


def default_out(recipe: RecipeModel) -> Path:
    return Path("build") / recipe.name


def make_plan(recipe: RecipeModel, out: Path, until: str = "bench") -> dict[str, Any]:
    """`shipvlm.plan.plan`, with the data sets of the recipe counted and its adapters read."""
    from calib_data.peek import count_records
    from shipvlm.plan import plan

    records: dict[str, int | str | None] = {}
    parity = [recipe.convert.parity.data] if recipe.convert else []
    for data in (recipe.calibration.data, recipe.bench.data, *parity):
        try:
            records[data] = count_records(data)
        except InputError as error:
            records[data] = str(error)
    return plan(recipe, out, records, until, _merging(recipe))


def _merging(recipe: RecipeModel) -> "Merging | str | None":
    """What the headers of the recipe's adapters say, held against the checkpoint where it is there."""
    if not recipe.model.adapters:
        return None
    from fetch.adapter_fit import check_adapters, largest_change, notes
    from fetch.adapters import read_adapter
    from shipvlm.families.qwen3_vl.parameters import parameter_shapes
    from shipvlm.families.qwen3_vl.shape import read_shape
    from shipvlm.folder import check_folder
    from shipvlm.plan_checks import Merging

    try:
        adapters = [read_adapter(folder) for folder in recipe.model.adapters]
    except InputError as error:
        return str(error)
    try:
        shapes = parameter_shapes(read_shape(check_folder(recipe.model.path)))
    except InputError:
        return Merging(0)  # what is wrong with the checkpoint is said of model.path
    try:
        check_adapters(adapters, shapes)
    except InputError as error:
        return str(error)
    return Merging(largest_change(adapters, shapes), tuple(notes(recipe.model.path, adapters)))


def refuse_problems(found: dict[str, Any]) -> None:
    """Raise `InputError` with the problems that would stop the run."""
    stops = [f"{problem['where']}: {problem['message']}" for problem in found["problems"] if problem["stops"]]
    if stops:
        raise InputError("\n  ".join(stops))


def _print(found: dict[str, Any]) -> None:
    model, target = found["model"], found["target"]
    if model:
        print(
            f"{found['recipe']['model']['path']}: {model['parameters'] / 1e6:,.1f} million parameters, "
            f"{megabytes(model['stored_bytes'])} as {', '.join(model['types'])}; "
            f"{model['quantized_linears']} Linears, {model['quantized_share']:.0%} of them, become {target['scheme']}"
        )
        print(f"{'stage':<10}{'on disk':>12}{'memory, about':>15}  writes")
        for stage in found["stages"]:
            size = megabytes(stage["disk_bytes"]) if stage["disk_bytes"] else "small"
            memory = f"{stage['memory_bytes'] / 1e9:.1f} GB"
            print(f"{stage['name']:<10}{size:>12}{memory:>15}  {Path(found['out'], stage['folder'])}: {stage['makes']}")
        print(f"served, each token of a request adds {model['kv_cache_bytes_a_token'] / 1024:.0f} KiB of KV cache")
    print(f"\n{target['scheme']} runs:")
    for verdict in VERDICTS:
        for runtime, devices, reason in _grouped(found["loads_in"], verdict):
            print(f"  {verdict:<10}  {runtime} on {', '.join(devices)}: {reason}")
    notes = [problem for problem in found["problems"] if not problem["stops"]]  # the others are the command's error
    for note in notes:
        print(f"note: {note['where']}: {note['message']}")


def _grouped(lines: list[dict[str, str]], verdict: str) -> list[tuple[str, list[str], str]]:
    """Runtimes with the devices of which the same is said."""
    groups: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        if line["verdict"] == verdict:
            groups.setdefault((line["runtime"], line["reason"]), []).append(line["device"])
    return [(runtime, devices, reason) for (runtime, reason), devices in groups.items()]
