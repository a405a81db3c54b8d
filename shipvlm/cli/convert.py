"""shipvlm convert: the one stage alone."""

from pathlib import Path
from typing import Annotated

import typer

from shipvlm.cli.common import AsJson, Settings, app, megabytes, print_json, run_alone
from shipvlm.recipe import ModelSection, Precision


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint folder, quantized by shipvlm or not quantized.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder for the graphs.")],
    precision: Annotated[Precision, typer.Option(help="What the graphs compute in.")] = "fp32",
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Write exact ONNX graphs of a checkpoint and hold them against it, rung by rung (exit code 1 names the first)."""
    from shipvlm.cli.common import check_model
    from shipvlm.cli.pipeline import convert_stage, start
    from shipvlm.recipe_file import make_recipe

    model = ModelSection(path=source).model_dump(mode="json")
    values = {"name": "convert", "model": model, "convert": {"precision": precision}}
    recipe = make_recipe(values, settings or ())
    check_model(source, hashed=True)  # before the slow imports
    begin = start(source)
    stage = convert_stage(recipe, "convert", source, begin.inputs("checkpoint"), provenance=begin.provenance)
    done = run_alone(stage, [source], out)
    if as_json:
        print_json({"out": str(out), "kept": done.kept, "digest": done.digest, **done.manifest["result"]})
    else:
        size = sum(file["bytes"] for file in done.manifest["files"].values())
        print(f"{out}: graphs, {megabytes(size)}, parity holds" + (", kept as it was" if done.kept else ""))
