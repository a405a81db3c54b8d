"""Makes sure that a fetch writes in its own folder alone, and overwrites nothing: a place for what is on its way,
for what is set aside, for what is right.

A link on the way is refused and not followed: somebody else may have put it there.
"""

import filecmp
from pathlib import Path

from shipvlm.errors import InputError
from shipvlm.lock import QUARANTINE, UNFINISHED, safe_path

KEPT = 2  # wrong copies of one file


def final_path(folder: Path, path: str) -> Path:
    """Where the file belongs. Its parents are made. Raises `InputError` when that leaves `folder`, or is no file."""
    return _plain_file(below(folder, _safe(path)))


def part_path(folder: Path, path: str) -> Path:
    """Where the bytes of the file go until all are there. Its parents are made. Raises as `final_path` does."""
    return _plain_file(below(folder, f"{UNFINISHED}/{_safe(path)}.part"))


def set_aside(folder: Path, path: str) -> Path:
    """Move the wrong file `path` of `folder` to its quarantine and return where it is now. A link is moved itself.

    Of one file the last two are kept, and the same bytes once.
    Raises `InputError` as `final_path` does.
    """
    return _quarantined(folder, path, below(folder, _safe(path)))


def set_part_aside(folder: Path, path: str) -> Path:
    """`set_aside` for the bytes that came for the file and were not the right ones."""
    return _quarantined(folder, path, part_path(folder, path))


def _quarantined(folder: Path, path: str, source: Path) -> Path:
    place = below(folder, f"{QUARANTINE}/{path}")
    ends = {entry: entry.name.removeprefix(f"{place.name}.") for entry in place.parent.iterdir()}
    numbered = {int(end): entry for entry, end in ends.items() if end.isdecimal() and entry.name != end}
    earlier = [entry for _, entry in sorted(numbered.items()) if entry.is_symlink() or not entry.is_dir()]
    for copy in earlier:
        if not (copy.is_symlink() or source.is_symlink()) and filecmp.cmp(copy, source, shallow=False):
            source.unlink()
            return copy
    target = source.rename(place.with_name(f"{place.name}.{max(numbered, default=0) + 1}"))
    for copy in earlier[: 1 - KEPT]:
        copy.unlink()
    return target


def _safe(path: str) -> str:
    try:
        return safe_path(path)
    except ValueError as error:
        raise InputError(f"{error}; fetch from another source") from error


def below(folder: Path, relative: str) -> Path:
    """`folder/relative`, with the folders on the way made."""
    *parents, name = relative.split("/")
    place = folder
    for parent in parents:
        place = place / parent
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise InputError(f"{place}: is a link or a file where a folder is needed; move it away")
        place.mkdir(exist_ok=True)
    return place / name


def _plain_file(place: Path) -> Path:
    if place.is_symlink() or (place.exists() and not place.is_file()):
        raise InputError(f"{place}: is a link or a folder where a file is needed; move it away")
    return place
