"""shipvlm data: look at data sets, write them as one file, and guard them against leaks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from shipvlm.cli.common import AsJson, app, print_json
from shipvlm.errors import GateError, InputError

if TYPE_CHECKING:
    from calib_data.records import Task

data_app = typer.Typer(no_args_is_help=True, help="Look at data sets and guard them against leaks.")
app.add_typer(data_app, name="data")


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
        print_json({"left": len(sets[0]), "right": len(sets[1]), "near_duplicates": pairs})
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
        print_json(summary)
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
    task: Annotated[str | None, typer.Option(help="Task of every row, such as vqa or ocr.")] = None,
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
        print_json({"records": len(records), "digest": digest(records), "out": str(out)})
    else:
        print(f"{out}: {len(records)} records")


def _field_and_name(text: str) -> tuple[str, str]:
    field, equals, name = text.partition("=")
    if not (field and equals and name):
        raise InputError(f"--column {text}: write it as FIELD=NAME, such as prompt=question")
    return field, name
