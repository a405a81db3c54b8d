"""What a source lists, checked: it comes from outside, and nothing of it is trusted with a path on disk."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from fetch.source import RemoteFile
from shipvlm.errors import InputError
from shipvlm.lock import folded, is_ours, safe_path

TOO_MANY_BYTES = 2**63  # no file system has such a file


def checked_files(files: Iterable[RemoteFile], where: str) -> tuple[RemoteFile, ...]:
    """`files` in the order of their paths, without those whose names shipvlm uses itself.

    Raises `InputError`, before anything is written, when a path leaves its folder, comes twice, or is at once a file
    and a folder, and when a size or a hash is none. Paths that differ in case alone are the same on some disks.
    """
    found: dict[str, RemoteFile] = {}
    for file in files:
        if type(file.path) is str and is_ours(file.path):
            continue
        if problem := _problem(file):
            raise InputError(f"{where}: lists {file.path!a}: {problem}; nothing was fetched. Try another source")
        if other := found.get(folded(file.path)):
            twice = "twice" if other.path == file.path else f"and {other.path!a}, which are one file on some disks"
            raise InputError(f"{where}: lists {file.path!a} {twice}; nothing was fetched. Try another source")
        found[folded(file.path)] = file
    for path in found:
        for parent in PurePosixPath(path).parents:
            if other := found.get(str(parent)):
                raise InputError(
                    f"{where}: lists {other.path!a} as a file and as a folder; nothing was fetched. Try another source"
                )
    return tuple(sorted(found.values(), key=lambda file: file.path))


def _problem(file: RemoteFile) -> str | None:
    if type(file.path) is not str:
        return "no path"
    try:
        safe_path(file.path)
        file.path.encode()
    except ValueError:
        return "no path of a file inside a folder"
    if type(file.bytes) is not int or not 0 <= file.bytes < TOO_MANY_BYTES:
        return "has no size"
    if not _is_hash(file.sha256, 64):
        return "its sha256 is none"
    if not _is_hash(file.git_blob, 40):
        return "its git id is none"
    return None


def _is_hash(value: object, digits: int) -> bool:
    """Whether it is a hash in lower-case hex, or was not given."""
    return value is None or (isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value) is not None)
