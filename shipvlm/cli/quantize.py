"""shipvlm quantize: the one stage alone."""

from pathlib import Path
from typing import Annotated

import typer

from shipvlm.cli.common import AsJson, Settings, app, check_model, megabytes, print_json, run_alone
from shipvlm.recipe import ModelSection, Scheme


@app.command()
def quantize(
    source: Annotated[Path, typer.Argument(help="Checkpoint folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New checkpoint folder.")],
    scheme: Annotated[
        Scheme,
        typer.Option(help="INT8 weights and inputs, or weights alone: 8 bits a channel, or 4 bits in groups of 128."),
    ] = "w8a8-static",
    data: Annotated[
        str, typer.Option(help="Calibration set: a split's name, a file, a folder or a data set id.")
    ] = "calibration",
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Write a quantized checkpoint in Hugging Face layout (compressed-tensors)."""
    from shipvlm.cli.pipeline import quantize_stage, start
    from shipvlm.recipe_file import make_recipe

    values = {
        "name": "quantize",
        "model": ModelSection(path=source).model_dump(mode="json"),
        "calibration": {"data": data},
        "quantize": {"scheme": scheme},
    }
    recipe = make_recipe(values, settings or ())
    check_model(source, hashed=True)  # before the slow imports
    done = run_alone(quantize_stage(recipe, start(source)), [source], out)
    if as_json:
        print_json({"out": str(out), "kept": done.kept, "digest": done.digest, **done.manifest["result"]})
    else:
        size = sum(file["bytes"] for file in done.manifest["files"].values())
        print(f"{out}: {scheme}, {megabytes(size)}" + (", kept as it was" if done.kept else ""))
