"""shipvlm convert: the one stage alone."""

from pathlib import Path
from typing import Annotated

import typer

from shipvlm.cli.common import AsJson, Settings, app, megabytes, print_json, run_alone
from shipvlm.recipe import Precision


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint folder, quantized by shipvlm or not quantized.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder for the graphs.")],
    precision: Annotated[Precision, typer.Option(help="What the graphs compute in.")] = "fp32",
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Write exact ONNX graphs of a checkpoint and hold them against it, rung by rung (exit code 1 names the first)."""
    from shipvlm.artifact import checkpoint_digest
    from shipvlm.cli.common import check_model
    from shipvlm.cli.pipeline import convert_stage
    from shipvlm.recipe_file import make_recipe

    values = {"name": "convert", "model": {"path": str(source)}, "convert": {"precision": precision}}
    recipe = make_recipe(values, settings or ())
    check_model(source)  # before the slow imports
    done = run_alone(convert_stage(recipe, "convert", source, {"checkpoint": checkpoint_digest(source)}), [source], out)
    if as_json:
        print_json({"out": str(out), "kept": done.kept, "digest": done.digest, **done.manifest["result"]})
    else:
        size = sum(file["bytes"] for file in done.manifest["files"].values())
        print(f"{out}: graphs, {megabytes(size)}, parity holds" + (", kept as it was" if done.kept else ""))
