"""shipvlm bench: measure folders against each other, or one shape of model for its speed alone."""

import shlex
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from shipvlm.cli.common import AsJson, Settings, app, check_model, print_json, quiet_libraries, run_alone
from shipvlm.errors import InputError


@app.command()
def bench(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Checkpoints and artifacts; the first is the baseline.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the report; a killed run continues there.")
    ] = None,
    data: Annotated[str, typer.Option(help="A split's name, a file, a folder or a data set id.")] = "evaluation",
    limit: Annotated[int | None, typer.Option(min=1, help="Records of each task; all when left out.")] = None,
    shape: Annotated[
        str | None, typer.Option(help="Time graphs of this published size with random weights instead: qwen3-vl-2b ...")
    ] = None,
    layers: Annotated[int, typer.Option(min=1, help="With --shape: decoder layers of the timed graphs.")] = 4,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="With --shape: length of the prompt.")] = 256,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Measure time, memory and scores of checkpoints and artifacts, and hold each against the first, item by item."""
    if shape:
        if folders or out:
            raise InputError("--shape times graphs with random weights and prints: give it without folders and -o")
        _time_shape(shape, layers, prompt_tokens, as_json)
        return
    if not folders or out is None:
        raise InputError("give folders to measure, the baseline first, and -o FOLDER for the report")
    from shipvlm.artifact import MANIFEST, checkpoint_digest, folder_digest
    from shipvlm.cli.pipeline import bench_stage
    from shipvlm.recipe_file import make_recipe

    for folder in folders:
        check_model(folder)  # before the slow imports
    names = [folder.resolve().name for folder in folders]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two folders are named {twice.pop()!r}: results are kept by name, rename one")
    values = {"name": "bench", "model": {"path": str(folders[0])}, "bench": {"data": data, "limit": limit}}
    recipe = make_recipe(values, settings or ())
    digests = [folder_digest(path) if (path / MANIFEST).is_file() else checkpoint_digest(path) for path in folders]
    variants = {name: (path, digest) for name, path, digest in zip(names, folders, digests, strict=True)}
    options = ["-o", _shown(out), "--data", _shown(Path(data)), *(["--limit", str(limit)] if limit else [])]
    changes = [part for setting in settings or () for part in ("--set", setting)]
    command = shlex.join(["shipvlm", "bench", *map(_shown, folders), *options, *changes])
    run_alone(bench_stage(recipe, variants, command), folders, out)
    if as_json:
        print((out / "bench.json").read_text(encoding="utf-8"), end="")
    else:
        print((out / "bench.md").read_text(encoding="utf-8"))
        print(f"report: {out / 'index.html'}")


def _shown(path: Path) -> str:
    """A path as a report says it: one of this machine alone by its last part."""
    return path.name if path.is_absolute() else str(path)


def _time_shape(name: str, layers: int, prompt_tokens: int, as_json: bool) -> None:
    """Write FP32 and INT8 decoders of a published size to a temporary folder and time them."""
    from shipvlm.families.qwen3_vl.published import PUBLISHED
    from shipvlm.families.qwen3_vl.shape import read_shape

    if name not in PUBLISHED:
        raise InputError(f"--shape {name}: choose one of {', '.join(PUBLISHED)}")
    whole = read_shape(PUBLISHED[name])
    if layers > whole.text.layers:
        raise InputError(f"--layers {layers}: {name} has {whole.text.layers}")
    quiet_libraries()
    from bench.shape import markdown, measure_shape
    from convert.random_weights import export_random
    from shipvlm.cli.progress import shown

    shape = replace(whole, text=replace(whole.text, layers=layers))
    schemes: dict[str, Literal["w8a8-static"] | None] = {"fp32": None, "w8a8-static": "w8a8-static"}
    with TemporaryDirectory(prefix="shipvlm-") as work, shown() as (progress, _):
        folders = {label: Path(work, label) for label in schemes}
        for label, scheme in schemes.items():
            export_random(shape, folders[label], "fp32", scheme, progress=progress)
        result = measure_shape(
            folders,
            shape,
            name=name,
            total_layers=whole.text.layers,
            prompt_tokens=prompt_tokens,
            progress=progress,
        )
    if as_json:
        print_json(result)
    else:
        print(markdown(result))
