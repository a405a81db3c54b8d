"""Disk space for a fetch, known before its first byte."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from fetch.source import RemoteFile
from shipvlm.errors import SetupError
from shipvlm.lock import UNFINISHED

MARGIN = 0.05  # of what is to come: the file system's own needs, and what else is written meanwhile


def bytes_to_come(files: Iterable[RemoteFile], folder: Path) -> int:
    """Bytes of `files` that are not in `folder` yet, whole or in part."""
    return sum(file.bytes - _there(file, folder) for file in files)


def check_space(files: Iterable[RemoteFile], folder: Path) -> None:
    """Raise `SetupError` when what is still to come of `files` does not fit on the disk of `folder`."""
    missing = bytes_to_come(files, folder)
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    needed = int(missing * (1 + MARGIN))
    if needed > free:
        raise SetupError(
            f"{folder}: {_size(missing)} are still to come and {_size(free)} are free on that disk; free "
            f"{_size(needed - free)}, or give a folder on another disk with -o. What is there is kept"
        )


def _there(file: RemoteFile, folder: Path) -> int:
    target, part = folder / file.path, folder / UNFINISHED / f"{file.path}.part"
    if target.is_file() and target.stat().st_size == file.bytes:
        return file.bytes
    return min(part.stat().st_size, file.bytes) if part.is_file() else 0


def _size(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count / 1e3:,.1f} kB"
