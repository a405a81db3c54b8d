"""Where the files of a fetch lie in its folder: on their way, set aside, in place; never outside of it.

A link on the way is refused and not followed: somebody else may have put it there.
"""

from itertools import count
from pathlib import Path

from shipvlm.errors import InputError
from shipvlm.lock import QUARANTINE, UNFINISHED, safe_path


def final_path(folder: Path, path: str) -> Path:
    """Where the file belongs. Its parents are made. Raises `InputError` when that leaves `folder`, or is no file."""
    return _plain_file(_below(folder, _safe(path)))


def part_path(folder: Path, path: str) -> Path:
    """Where the bytes of the file go until all are there. Its parents are made. Raises as `final_path` does."""
    return _plain_file(_below(folder, f"{UNFINISHED}/{_safe(path)}.part"))


def set_aside(folder: Path, path: str) -> Path:
    """Move the wrong file `path` of `folder` to its quarantine and return where it is now. A link is moved itself.

    Raises `InputError` as `final_path` does.
    """
    return _quarantined(folder, path, _below(folder, _safe(path)))


def set_part_aside(folder: Path, path: str) -> Path:
    """`set_aside` for the bytes that came for the file and were not the right ones."""
    return _quarantined(folder, path, part_path(folder, path))


def _quarantined(folder: Path, path: str, source: Path) -> Path:
    for number in count(1):
        target = _below(folder, f"{QUARANTINE}/{path}.{number}")
        if not (target.exists() or target.is_symlink()):
            break
    return source.rename(target)


def _safe(path: str) -> str:
    try:
        return safe_path(path)
    except ValueError as error:
        raise InputError(f"{error}; fetch from another source") from error


def _below(folder: Path, relative: str) -> Path:
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
