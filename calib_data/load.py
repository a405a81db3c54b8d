"""The one door through which pictures and questions come in: `load_records`."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from calib_data import external
from calib_data.external import Row
from calib_data.records import TASKS, Record, Task, decode
from shipvlm.errors import InputError, SetupError

FIELDS = ("id", "task", "image", "prompt", "answers", "source", "licence")
REQUIRED = ("task", "image", "prompt", "answers")
SPLITS = Path(__file__).parent / "splits"
SHIPPED = ("calibration", "evaluation", "heldout")  # names that stand for the files in SPLITS
REPORTED = 20  # broken rows named in one error
MAX_IMAGE_BYTES = 64 * 2**20


class Table(NamedTuple):
    """Rows from one door, before they are checked. Pictures that are given by path are read from `folders` only."""

    name: str
    rows: Iterable[Row]
    folders: tuple[Path, ...] = ()


def load_records(
    spec: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    task: Task | None = None,
    split: str | None = None,
    config: str | None = None,
) -> list[Record]:
    """Reads and checks records. `spec` is one of:

    - the name of a shipped split: calibration, evaluation, heldout;
    - a Parquet file, its pictures inside (what `records.write_parquet` writes);
    - a folder with one *.jsonl, whose rows name pictures in that folder:
      {"image": "receipts/1.jpg", "task": "ocr", "prompt": "What is the total?", "answers": ["12.50"]};
    - a Hugging Face dataset: a local dataset folder or an id, with its `split` and, if it has several, its `config`;
    - the name of a public evaluation set: ai2d, chartqa, docvqa, mmmu, ocrbench (`calib_data.external`), which brings
      columns and tasks of its own; `split` may narrow it ("test[:200]").

    columns: {field: name of the column that holds it}, for fields named otherwise; the fields are FIELDS.
    task: the task of every row, whatever a column says. `answers` may be one text or a list; `answer` is another name
    for it. `id`, `source` and `licence` may be missing: they become the row number, the name of `spec`, "unspecified".

    Raises InputError naming every broken row (the first REPORTED of them) with its number and the reason, and
    SetupError where a dataset is on the hub and the hub cannot be reached.
    """
    columns = _checked_columns(columns or {}, task)
    named = None if Path(spec).exists() else external.find(str(spec))
    if named and (columns or task or config):
        raise InputError(f"{spec}: it has columns and tasks of its own: give it a split at most")
    table = _open_external(named, split) if named else _open(spec, split, config)
    records: list[Record] = []
    broken: list[str] = []
    first_row: dict[str, int] = {}
    for number, row in table.rows:
        try:
            record = _record(row, number, table, columns, task)
            if record.id in first_row:
                raise InputError(f"the id {record.id!r} is that of row {first_row[record.id]} too")
        except InputError as error:
            broken.append(f"row {number}: {error}")
            continue
        first_row[record.id] = number
        records.append(record)
    if broken:
        more = f"\n  and {len(broken) - REPORTED} more" if len(broken) > REPORTED else ""
        lines = "".join(f"\n  {line}" for line in broken[:REPORTED])
        raise InputError(f"{table.name}: {len(broken)} of {len(broken) + len(records)} rows are broken{lines}{more}")
    if not records:
        raise InputError(f"{table.name}: it holds no rows")
    return records


def _open(spec: str | Path, split: str | None, config: str | None) -> Table:
    path = Path(spec)
    if path.is_file():
        if path.suffix != ".parquet":
            raise InputError(f"{path}: a file of records must be Parquet (*.parquet); a JSONL is given by its folder")
        return Table(str(path), _parquet_rows(path))
    if path.is_dir():
        listings = sorted(path.glob("*.jsonl"))
        if len(listings) > 1:
            raise InputError(f"{path}: one *.jsonl is expected, found {', '.join(file.name for file in listings)}")
        if listings:
            return Table(str(listings[0]), _jsonl_rows(listings[0]), (path,))
        return Table(str(path), _dataset_rows(str(path), split, config), (path,))
    if spec in SHIPPED:
        shipped = SPLITS / f"{spec}.parquet"
        if not shipped.is_file():
            raise InputError(f"{shipped}: the shipped split is missing: restore it from the repository")
        return Table(str(spec), _parquet_rows(shipped))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(spec)) or str(spec).startswith(".") or path.suffix == ".parquet":
        raise InputError(f"{spec}: no such file or folder, and no Hugging Face dataset id (owner/name) either")
    return Table(str(spec), _dataset_rows(str(spec), split, config), _caches())


def _open_external(source: external.Source, split: str | None) -> Table:
    rows = _dataset_rows(source.place, split or source.task.split, source.task.config)
    folders = _caches() if source.place == source.task.dataset else (Path(source.place),)
    return Table(source.name, external.as_records(source, rows), folders)


def _caches() -> tuple[Path, ...]:
    from datasets import config as settings

    return Path(settings.HF_DATASETS_CACHE), Path(settings.HF_CACHE_HOME) / "hub"


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        rows = (row for batch in file.iter_batches(256) for row in batch.to_pylist())
        yield from enumerate(rows, start=1)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: it cannot be read as Parquet: {error}") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    """Row numbers are line numbers; blank lines count and hold no row."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield number, f"not JSON in UTF-8: {error}"
                continue
            yield number, row if isinstance(row, dict) else f"a JSON object is expected, got {type(row).__name__}"


def _dataset_rows(spec: str, split: str | None, config: str | None) -> Iterator[Row]:
    """No code of a dataset is run: `datasets` has no dataset scripts any more."""
    import datasets

    try:
        data = datasets.load_dataset(spec, name=config, split=split)
    except ConnectionError as error:
        raise SetupError(
            f"{spec}: it is on the hub, which cannot be reached from here ({error}): set HF_ENDPOINT to a mirror, or "
            "fetch a copy where there is a network and give its folder (of a named set: NAME@FOLDER)"
        ) from error
    except Exception as error:  # datasets raises errors of many libraries here
        raise InputError(f"{spec}: datasets.load_dataset cannot load it: {type(error).__name__}: {error}") from error
    if not isinstance(data, datasets.Dataset):
        raise InputError(
            f"{spec}: it has the splits {', '.join(map(str, data))}: "
            "name one, shipvlm data pack --split NAME writes it to a file"
        )
    for column, feature in data.features.items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(column, datasets.Image(decode=False))
    yield from enumerate(data, start=1)


def _checked_columns(columns: Mapping[str, str], task: Task | None) -> Mapping[str, str]:
    for field in columns:
        if field not in FIELDS:
            raise InputError(f"column mapping: unknown field {field!r}{_nearest(field, FIELDS)}")
    if task is not None and task not in TASKS:
        raise InputError(f"unknown task {task!r}{_nearest(task, TASKS)}")
    if task is not None and "task" in columns:
        raise InputError("column mapping: give either a column for the task or one task for all rows, not both")
    return columns


def _nearest(word: str, known: Sequence[str]) -> str:
    return f": did you mean {difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]!r}?"


def _record(
    row: Mapping[str, Any] | str, number: int, table: Table, columns: Mapping[str, str], task: Task | None
) -> Record:
    if isinstance(row, str):
        raise InputError(row)
    if "answers" in row and "answer" in row and "answers" not in columns:
        raise InputError("it has both 'answer' and 'answers': one of them is enough")
    found = {field: row[name] for field in FIELDS if (name := _column(field, row, columns)) is not None}
    if isinstance(found.get("id"), int):
        found["id"] = str(found["id"])
    defaults = {"id": str(number), "source": Path(table.name).name, "licence": "unspecified"}
    fields = defaults | {field: value for field, value in found.items() if value is not None}
    if task is not None:
        fields["task"] = task
    for field in REQUIRED:
        if field not in fields:
            raise InputError(_missing(field, row, columns))
    answers = fields["answers"]
    fields["answers"] = (answers,) if isinstance(answers, str) else tuple(answers) if _is_list(answers) else answers
    fields["image"] = _image_bytes(fields["image"], table.folders)
    try:
        record = Record.model_validate(fields)
    except ValidationError as error:
        raise InputError("; ".join(_reason(problem) for problem in error.errors())) from error
    decode(record.image)
    return record


def _column(field: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> str | None:
    """The row's column that holds a field; None when it has none."""
    if field in columns:
        if columns[field] not in row:
            raise InputError(_missing(field, row, columns))
        return columns[field]
    names = ("answers", "answer") if field == "answers" else (field,)
    return next((name for name in names if name in row), None)


def _missing(field: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    name = columns.get(field, field)
    if name in row:
        return f"the column {name!r} is empty"
    return f"the column {name!r} is missing: it has {', '.join(repr(str(column)) for column in row) or 'none'}"


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, bytes)


def _image_bytes(value: object, folders: Sequence[Path]) -> object:
    """The encoded picture of a cell: bytes, {"bytes", "path"} as `datasets` has it, or a path relative to a folder."""
    if isinstance(value, Mapping):
        if value.get("bytes"):
            return value["bytes"]
        value = value.get("path") or ""
    elif isinstance(value, str) and (Path(value).is_absolute() or ".." in Path(value).parts):
        raise InputError(f"image: {value!r} must be a path relative to its folder, without '..'")
    if not isinstance(value, str):
        return value
    if not folders:
        raise InputError(f"image: it holds no picture, only the path {value!r}: store the bytes")
    file = _inside(folders, value)
    if file.stat().st_size > MAX_IMAGE_BYTES:
        raise InputError(f"image: {value!r} is larger than {MAX_IMAGE_BYTES // 2**20} MiB")
    return file.read_bytes()


def _inside(folders: Sequence[Path], name: str) -> Path:
    """The file `name` of one of the folders. Raises InputError when there is none or a link leads out of them."""
    where = " or ".join(map(str, folders))
    try:
        files = [(folder / name).resolve() for folder in folders]
        inside = [file for file, folder in zip(files, folders, strict=True) if file.is_relative_to(folder.resolve())]
        found = next((file for file in inside if file.is_file()), None)
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, a loop of links
        raise InputError(f"image: {name!r} is no path: {error}") from error
    if not inside:
        raise InputError(f"image: {name!r} leads out of {where}")
    if found is None:
        raise InputError(f"image: there is no file {name!r} in {where}")
    return found


def _reason(problem: Any) -> str:
    """One problem that pydantic found, in words."""
    field, *rest = problem["loc"]
    where = f"{field}[{rest[0]}]" if rest else str(field)
    match problem["type"]:
        case "string_pattern_mismatch":
            return f"{where} is blank"
        case "too_short":
            return f"{where} is empty"
        case "literal_error":
            return f"unknown {where} {problem['input']!r}{_nearest(str(problem['input']), TASKS)}"
        case _:
            return f"{where}: {problem['msg'].lower()}, got {type(problem['input']).__name__}"
