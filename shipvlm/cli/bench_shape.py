"""shipvlm bench shape: how fast a published size would be, by graphs of it with random weights."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from shipvlm.cli.bench import group
from shipvlm.cli.common import AsJson, print_json, quiet_libraries
from shipvlm.errors import InputError


@group.command()
def shape(
    name: Annotated[str, typer.Argument(help="A published size: qwen3-vl-2b ...")],
    layers: Annotated[int, typer.Option(min=1, help="Decoder layers of the timed graphs.")] = 4,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of the prompt.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Time FP32 and INT8 decoder graphs of a published size, with random weights, beside each other."""
    from shipvlm.families.qwen3_vl.published import PUBLISHED
    from shipvlm.families.qwen3_vl.shape import read_shape

    if name not in PUBLISHED:
        raise InputError(f"{name}: choose one of {', '.join(PUBLISHED)}")
    whole = read_shape(PUBLISHED[name])
    if layers > whole.text.layers:
        raise InputError(f"--layers {layers}: {name} has {whole.text.layers}")
    quiet_libraries()
    from bench.shape import markdown, measure_shape
    from convert.random_weights import export_random
    from shipvlm.cli.progress import shown

    made = replace(whole, text=replace(whole.text, layers=layers))
    schemes: dict[str, Literal["w8a8-static"] | None] = {"fp32": None, "w8a8-static": "w8a8-static"}
    with TemporaryDirectory(prefix="shipvlm-") as work, shown() as (progress, _):
        folders = {label: Path(work, label) for label in schemes}
        for label, scheme in schemes.items():
            export_random(made, folders[label], "fp32", scheme, progress=progress)
        result = measure_shape(
            folders,
            made,
            name=name,
            total_layers=whole.text.layers,
            prompt_tokens=prompt_tokens,
            progress=progress,
        )
    if as_json:
        print_json(result)
    else:
        print(markdown(result))
