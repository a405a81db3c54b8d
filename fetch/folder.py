"""A checkpoint in a local folder: listed, and copied file by file, links handled on purpose.

A link is read as the file that it points to when that lies in the folder, or in the blobs of the Hugging Face cache
whose snapshot the folder is. Any other link would bring in what nobody named, and is refused.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from fetch.listed import checked_files
from fetch.source import Listing, RemoteFile
from shipvlm.errors import GateError, InputError, SetupError
from shipvlm.lock import LOCK, check_finished, read_lock

CHUNK = 4 << 20  # bytes


def folder_listing(folder: Path) -> Listing:
    """All files of `folder`, but those in hidden folders (.git, .cache); the sha256 of those that a lock there has.

    Raises `InputError` when it is no folder, its own fetch was broken off, it holds a link to elsewhere or a file
    that is none (a pipe, a device), or it cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds the checkpoint's config.json")
    if (folder / "snapshots").is_dir() and not (folder / "config.json").is_file():
        raise InputError(f"{folder}: is a hub's cache; give the folder of one commit in {folder / 'snapshots'}")
    check_finished(folder)
    locked = read_lock(folder / LOCK) if (folder / LOCK).is_file() else None
    known = {**locked.files, **locked.documents} if locked else {}
    try:
        found = [
            RemoteFile(path, size, known[path].sha256 if path in known else None, None)
            for path, size in _walk(folder, folder.resolve())
        ]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return Listing("folder", folder.resolve().name, None, "", None, checked_files(found, str(folder)))


def copy_file(folder: Path, wanted: RemoteFile, part: Path, on_bytes: Callable[[int], None]) -> str:
    """Copy one file of a listing to `part`, with its data on the disk, and return its sha256.

    `on_bytes` gets how much of it there is, before each write; what it raises stops the copy.
    Raises `GateError` when it is not what the listing says, `InputError` as `folder_listing` does, `SetupError` when
    the disk of `part` is full.
    """
    total, count = sha256(), 0
    with _opened(folder, wanted.path) as source:
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as target:
                while data := source.read(CHUNK):
                    count += len(data)
                    on_bytes(count)
                    target.write(data)
                    total.update(data)
                target.flush()
                os.fsync(target.fileno())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SetupError(f"{part.parent}: the disk is full; make room and run it again") from error
            raise InputError(f"{wanted.path}: cannot be copied ({error.strerror})") from error
    found = total.hexdigest()
    if count != wanted.bytes or wanted.sha256 not in (None, found):
        raise GateError(
            f"{folder / wanted.path}: is not what it was ({count:,} bytes, sha256 {found}; expected {wanted.bytes:,}, "
            f"{wanted.sha256 or 'any'}); take another copy of the checkpoint"
        )
    return found


def _walk(folder: Path, root: Path) -> Iterator[tuple[str, int]]:
    """Relative path and size of each file below `folder`, whose real path is `root`."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith("."):
                yield from ((f"{entry.name}/{path}", size) for path, size in _walk(Path(entry.path), root))
            continue
        yield entry.name, _real_file(Path(entry.path), root).stat().st_size


def _real_file(path: Path, root: Path) -> Path:
    """What `path` is when all links are followed: a file in `root`, or in the blobs beside its snapshots."""
    real = Path(os.path.realpath(path))  # Path.resolve raises on a link to itself, with a version's own error
    blobs = [root.parent.parent / "blobs"] if root.parent.name == "snapshots" else []
    if not any(real.is_relative_to(place) for place in (root, *blobs)):
        raise InputError(f"{path}: is a link to {real}, outside the folder; put the file itself in its place")
    if not real.exists():
        raise InputError(f"{path}: is a link to {real}, which does not exist; remove it, or complete the download")
    if real.is_dir():
        raise InputError(f"{path}: is a link to a folder; put the folder itself in its place")
    if not real.is_file():
        raise InputError(f"{path}: is no file (a pipe, a device); remove it")
    return real


def _opened(folder: Path, path: str) -> BinaryIO:
    """`path` in `folder` for reading: what was a file when it was listed may be something else by now."""
    real = _real_file(folder / path, folder.resolve())
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(f"{folder / path}: cannot be read ({error.strerror})") from error
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise InputError(f"{folder / path}: is no file any more; put it back")
    return file
