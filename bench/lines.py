"""JSON lines on disk: what was measured, one line each, written as it happens and found again after a kill."""

import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from shipvlm.errors import InputError


def append(path: Path, lines: Iterable[str]) -> None:
    """Appends `lines` (without line ends); a line that an earlier process left half written goes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_torn(path):
        kept = path.read_bytes()
        path.write_bytes(kept[: kept.rfind(b"\n") + 1])
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))


def read(path: Path, runs: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of `runs`, each with its number from 1.

    Lines of other runs are left out whatever their form, and so is a last line that was cut off; a file that does not
    exist has none. Raises InputError naming the line that is no JSON object.
    """
    if not path.is_file():
        return
    *lines, _torn = path.read_bytes().split(b"\n")  # not splitlines: an answer may hold other line separators
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            of_run = fields.get("run") in runs
        except (ValueError, AttributeError) as error:
            raise unreadable(path, number, error) from error
        if of_run:
            yield number, fields


def _is_torn(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:  # its last byte, not all of it: this is done for every line
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def unreadable(path: Path, number: int, error: Exception) -> InputError:
    """What to say about a line that is not what this version writes."""
    return InputError(
        f"{path}, line {number}: not a line of this version ({type(error).__name__}); "
        "delete the line or the file, and it is measured again"
    )
