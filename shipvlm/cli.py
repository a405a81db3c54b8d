"""The command line: the only file that knows all stages. Heavy imports stand inside the commands, so help is fast."""

import json
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.console import Console
from rich.table import Table

from shipvlm.errors import ExecutionError, GateError, InputError, SetupError, ShipvlmError

if TYPE_CHECKING:
    from PIL.Image import Image

    from calib_data.records import Task

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
data_app = typer.Typer(no_args_is_help=True, help="Look at data sets and guard them against leaks.")
app.add_typer(data_app, name="data")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `shipvlm` command. An error prints its message to stderr and sets the exit code."""
    options: dict[str, bool] = {}
    try:
        app(args=arguments, obj=options)
    except Exception as error:
        if options.get("debug"):
            traceback.print_exc()
        reported = _reported(error)
        print(f"error: {reported}", file=sys.stderr)
        sys.exit(reported.exit_code)


def _reported(error: Exception) -> ShipvlmError:
    """What to say about an exception. One that nobody foresaw must not leave with 1, which stands for a gate."""
    if isinstance(error, ShipvlmError):
        return error
    own = ("shipvlm", "calib_data", "quantize", "bench")
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in own:
        return SetupError(
            f"the package {error.name} is not installed: in the checkout, run make setup or pip install -e '.[cpu]'"
        )
    message = " ".join(str(error).split())
    return ExecutionError(f"{type(error).__name__}: {message} (shipvlm --debug COMMAND ... says where)")


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

    Exit codes: 0 done, 1 a gate did not pass, 2 bad input, 3 this machine lacks something, 4 the work failed.
    """
    context.ensure_object(dict)["debug"] = debug


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask about the pictures.")],
    model: Annotated[Path, typer.Option(help="Checkpoint folder.")],
    image: Annotated[list[Path], typer.Option(help="Picture file; give it again for several pictures.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the model runs.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Ask a checkpoint a question about one or several pictures (greedy; FP32 on the CPU)."""
    from shipvlm.folder import check_folder

    check_folder(model)  # before the slow imports: a wrong path is answered at once
    pictures = tuple(_open_picture(path) for path in image)
    _quiet_libraries()

    import torch

    from shipvlm.runtime.checkpoint import Request, generate, load

    start = perf_counter()
    checkpoint = load(model, dtype=torch.float32 if device == "cpu" else "auto", device=device)
    loaded = perf_counter()
    [answer] = generate(checkpoint, [Request(question, pictures)], max_new_tokens)
    seconds = {"load": round(loaded - start, 3), "answer": round(perf_counter() - loaded, 3)}
    if as_json:
        _print_json({"answer": answer.text, "tokens": len(answer.token_ids), "seconds": seconds})
    else:
        print(answer.text)


@app.command()
def quantize(
    source: Annotated[Path, typer.Argument(help="Checkpoint folder.")],
    scheme: Annotated[
        Literal["w8a16", "w4a16"], typer.Option(help="Weights of 8 bits a channel, or of 4 bits in groups of 128.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="New checkpoint folder.")],
    as_json: AsJson = False,
) -> None:
    """Write a quantized checkpoint in Hugging Face layout."""
    from shipvlm.folder import check_folder

    check_folder(source)  # before the slow imports
    _quiet_libraries()
    from quantize.checkpoint import quantize_checkpoint

    report = quantize_checkpoint(source, scheme, out)
    if as_json:
        _print_json(report)
    else:
        before, after = (report["weight_bytes"][side] / 1e6 for side in ("source", "out"))
        layers = len(report["audit"]["quantized"])
        print(f"{out}: {layers} layers as {scheme}, {before:.1f} MB -> {after:.1f} MB")


@app.command()
def bench(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoint folders; the first is the baseline.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results; a killed run continues there.")],
    data: Annotated[str, typer.Option(help="A split's name, a file, a folder or a data set id.")] = "evaluation",
    limit: Annotated[int | None, typer.Option(min=1, help="Records of each task; all when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score checkpoints task by task and hold each against the first, item by item."""
    from shipvlm.folder import check_folder

    for folder in checkpoints:
        check_folder(folder)  # before the slow imports
    _quiet_libraries()
    from bench.report import compare

    if not as_json:
        compare(checkpoints, limit, out, data)
        return
    with redirect_stdout(sys.stderr):  # its progress and its table
        report = compare(checkpoints, limit, out, data)
    _print_json(report)


@data_app.command()
def check(
    left: Annotated[str, typer.Argument(help="Evaluation set: a split's name, a file, a folder or a data set id.")],
    right: Annotated[str, typer.Argument(help="Calibration or training set, given the same way.")],
    as_json: AsJson = False,
) -> None:
    """Compare two data sets and exit with 1 when they share a picture or a near-duplicate of one."""
    from calib_data.leakage import check as near_duplicates
    from calib_data.load import load_records

    sets = load_records(left), load_records(right)
    pairs = [{"left": a, "right": b, "distance": round(distance, 4)} for a, b, distance in near_duplicates(*sets)]
    if as_json:
        _print_json({"left": len(sets[0]), "right": len(sets[1]), "near_duplicates": pairs})
    else:
        for pair in pairs:
            print(f"{pair['left']}  {pair['right']}  distance {pair['distance']}")
        print(f"{len(sets[0])} and {len(sets[1])} records, {len(pairs)} near-duplicates")
    if pairs:
        raise GateError(f"{left} and {right} share pictures; remove one of each pair from one side")


@data_app.command()
def show(
    data: Annotated[
        str, typer.Argument(help="A split's name, a Parquet file, a folder with a JSONL, or a data set id.")
    ],
    as_json: AsJson = False,
) -> None:
    """Read a data set whole, which validates it, and count its records by task, source and licence."""
    from collections import Counter

    from calib_data.load import load_records
    from calib_data.records import picture

    records = load_records(data)
    sizes = [picture(record).size for record in records]
    summary: dict[str, Any] = {
        "records": len(records),
        **{name: dict(Counter(getattr(record, name) for record in records)) for name in ("task", "source", "licence")},
        "image_bytes": sum(len(record.image) for record in records),
        "width": [min(width for width, _ in sizes), max(width for width, _ in sizes)],
        "height": [min(height for _, height in sizes), max(height for _, height in sizes)],
    }
    if as_json:
        _print_json(summary)
        return
    table = Table("", "", show_header=False)
    for name, value in summary.items():
        text = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else str(value)
        text = f"{value[0]} to {value[1]} px" if isinstance(value, list) else text
        table.add_row(name, text)
    Console().print(table)


@data_app.command()
def pack(
    data: Annotated[str, typer.Argument(help="A folder with a JSONL, a Parquet file, or a data set id.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Parquet file to write, pictures inside.")],
    column: Annotated[
        list[str] | None, typer.Option(help="FIELD=NAME: the column that holds a field; give it again for another.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task of every row: vqa, caption, consistency or ocr.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set id.")] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of a data set id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read a data set of any form and write the one file that the other commands take."""
    from calib_data.load import load_records
    from calib_data.records import digest, write_parquet

    if out.suffix != ".parquet":
        raise InputError(f"{out}: the file to write must be named *.parquet")
    columns = dict(_field_and_name(text) for text in column or [])
    records = load_records(data, columns=columns, task=cast("Task | None", task), split=split, config=config)
    try:
        write_parquet(records, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give the name of another file") from error
    if as_json:
        _print_json({"records": len(records), "digest": digest(records), "out": str(out)})
    else:
        print(f"{out}: {len(records)} records")


def _field_and_name(text: str) -> tuple[str, str]:
    field, equals, name = text.partition("=")
    if not (field and equals and name):
        raise InputError(f"--column {text}: write it as FIELD=NAME, such as prompt=question")
    return field, name


def _open_picture(path: Path) -> "Image":
    from calib_data.records import decode

    try:
        return decode(path.read_bytes())
    except (OSError, InputError) as error:
        raise InputError(f"{path}: {error}; give a picture file (PNG, JPEG or WebP)") from error


def _quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice out of the command's output; their errors arrive as exceptions."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
