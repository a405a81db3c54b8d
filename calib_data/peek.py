"""How many records a data set has, told in a moment: no picture is read, so its rows may still turn out broken."""

import json
from pathlib import Path

from calib_data import external
from calib_data.load import FIELDS, SHIPPED, SPLITS
from shipvlm.errors import InputError

PICTURE = "image"


def count_records(spec: str) -> int | None:
    """The number of records that `load.load_records(spec)` would read; None for what only `datasets` can open.

    Raises `InputError` for a file or folder that is missing or has no pictures, and for a word that is neither
    the name of a set nor like a data set id.
    """
    path = Path(spec)
    if path.is_dir():
        listings = sorted(path.glob("*.jsonl"))
        return _jsonl_rows(listings[0]) if len(listings) == 1 else None
    if spec in SHIPPED and not path.exists():
        path = SPLITS / f"{spec}.parquet"
    if path.is_file() and path.suffix == ".parquet":
        return _parquet_rows(path)
    if not path.exists() and external.find(spec):
        return None
    if path.suffix or spec.count("/") != 1 or path.exists():
        names = ", ".join((*SHIPPED, *external.NAMES))
        raise InputError(f"{spec}: no set ({names}), no Parquet file, no folder, and no data set id (owner/name)")
    return None


def _parquet_rows(path: Path) -> int:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: it cannot be read as Parquet: {error}") from error
    _require_pictures(path, file.schema_arrow.names)
    return int(file.metadata.num_rows)


def _jsonl_rows(path: Path) -> int:
    with path.open("rb") as file:
        lines = [line for line in file if line.strip()]
    try:
        first = json.loads(lines[0].decode("utf-8-sig")) if lines else {}
    except ValueError as error:
        raise InputError(f"{path}: row 1 is not JSON in UTF-8: {error}") from error
    _require_pictures(path, list(first) if isinstance(first, dict) else [])
    return len(lines)


def _require_pictures(path: Path, columns: list[str]) -> None:
    if PICTURE not in columns:
        raise InputError(
            f"{path}: it has no pictures: no column {PICTURE!r} among {', '.join(columns) or 'none'}; "
            f"the fields are {', '.join(FIELDS)}, and shipvlm data pack renames columns"
        )
