"""What the commands share: the application, options that mean the same everywhere, and how results are printed."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shipvlm.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from shipvlm.stages import Done, Stage

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="KEY=VALUE: a field of the recipe, such as bench.limit=null; give it again for another."
    ),
]
Recipe = Annotated[Path, typer.Argument(help="Recipe file (YAML), such as recipes/default.yaml.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"shipvlm {version('shipvlm')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error too.")] = False,
) -> None:
    """Take a vision-language checkpoint to production artifacts with written evidence.

    Exit codes: 0 done, 1 a gate did not pass, 2 bad input, 3 this machine lacks something, 4 the work failed,
    5 a source of checkpoints refuses.
    """
    context.ensure_object(dict)["debug"] = debug


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice out of the command's output; their errors arrive as exceptions."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def open_picture(path: Path) -> "Image":
    """The picture in a file. Raises `InputError` naming the file."""
    from calib_data.records import decode

    try:
        return decode(path.read_bytes())
    except (OSError, InputError) as error:
        raise InputError(f"{path}: {error}; give a picture file (PNG, JPEG or WebP)") from error


def check_model(folder: Path, hashed: bool = False) -> None:
    """Refuse what is neither a checkpoint nor a graph set, or not what was built or fetched, before slow imports.

    `hashed`: the caller takes `checkpoint_digest`, which holds the bytes against the lock: they are read once.
    """
    from shipvlm.artifact import MANIFEST, verify
    from shipvlm.folder import GRAPHS, check_folder, check_side_files
    from shipvlm.lock import LOCK, check_finished, verify_lock

    check_finished(folder)
    if (folder / GRAPHS).is_file():
        check_side_files(folder)
    else:
        check_folder(folder)
    if (folder / MANIFEST).is_file():
        verify(folder)
    elif (folder / LOCK).is_file() and not hashed:
        verify_lock(folder)
    elif (folder / GRAPHS).is_file():
        print(f"{folder}: has no {MANIFEST}, so nothing says whether it is what was built", file=sys.stderr)


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def run_alone(stage: "Stage", sources: Sequence[Path], out: Path) -> "Done":
    """Run one stage outside of a recipe, its result in `out`. Raises `InputError` where `out` is or holds a source."""
    from shipvlm.cli.progress import shown
    from shipvlm.stages import run_stage

    for source in sources:
        if source.resolve().is_relative_to(out.resolve()):
            raise InputError(f"{out}: the result cannot be written over its source {source}; give another folder")
    with shown() as (progress, say):
        return run_stage(stage, out, progress, say)
