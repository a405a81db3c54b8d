"""Moves the bytes of one file: on from where an earlier attempt or process ended, hashed on the way."""

import errno
import re
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import BinaryIO

import requests

from fetch.hashing import CHUNK, Hashes, unverifiable
from fetch.request import Refused, opened
from fetch.retry import Again, retrying
from fetch.source import Place, RemoteFile
from shipvlm.errors import ExecutionError, SetupError

# Bytes at a time: enough that Python's own work does not count (TLS gives 16 kB a piece), and so few that a slow source
# is seen to move. A connection that is reset loses what it has of them.
BLOCK = 1 << 17
SMALL_BLOCK = 1 << 13  # of a source that is slow, or not known yet: it is seen to be slow before 128 kB are there
PROGRESS = 1 << 16  # bytes that an attempt must add, so that its failure does not count
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class TransferError(ExecutionError):
    """The network or a server failed for good; what came is kept."""


class Mismatch(Exception):
    """What a source gave, or would give, is not the file that is listed."""


def fetch_file(place: Callable[[], Place], wanted: RemoteFile, part: Path, on_bytes: Callable[[int], None]) -> str:
    """Complete `part` to the bytes of `wanted` and return their sha256.

    `on_bytes` gets how many bytes are there, before more are written and at the end; what it raises stops the transfer.

    Raises `Mismatch` when the bytes or their number are wrong (`part` stays as it is: whole and wrong in the first
    case), `Refused` when the server says no, the last `Again` when it failed too often without getting on, and
    `SetupError` when the disk is full. Whatever is raised, bytes that came are kept and the next call goes on there.
    """
    if problem := unverifiable(wanted):
        raise Mismatch(problem)
    try:
        with part.open("ab+", buffering=0) as file:
            arriving = _Arriving(file, wanted, on_bytes)
            while arriving.count < wanted.bytes:
                retrying()(_attempt, place, arriving)
    except OSError as error:
        raise SetupError(_disk_trouble(error, part, wanted)) from error
    on_bytes(wanted.bytes)
    if problem := arriving.hashes.difference():
        raise Mismatch(problem)
    return arriving.hashes.sha256


class _Arriving:
    """The open file, how much of it is there, its hashes so far, and how far it ever came."""

    def __init__(self, file: BinaryIO, wanted: RemoteFile, on_bytes: Callable[[int], None]) -> None:
        self.file, self.wanted, self.on_bytes = file, wanted, on_bytes
        self.restart(keep=True)
        self.furthest = self.count

    def restart(self, keep: bool = False) -> None:
        """Begin with what is in the file, or with nothing."""
        self.count, self.hashes = 0, Hashes(self.wanted)
        self.file.seek(0)
        if keep and self.file.seek(0, 2) <= self.wanted.bytes:
            self.file.seek(0)
            while data := self.file.read(CHUNK):
                self.on_bytes(self.count)
                self.hashes.update(data)
                self.count += len(data)
        else:
            self.file.truncate(0)

    def add(self, data: bytes) -> None:
        self.on_bytes(self.count)
        rest = memoryview(data)
        while rest:
            rest = rest[self.file.write(rest) :]
        self.hashes.update(data)
        self.count += len(data)


def _attempt(place: Callable[[], Place], arriving: _Arriving) -> None:
    """Ask once for what is missing. An attempt that got on a good way and then broke counts as none."""
    arriving.on_bytes(arriving.count)
    try:
        with opened(place(), start=arriving.count) as response:
            _check(response, arriving)
            block = SMALL_BLOCK
            while left := arriving.wanted.bytes - arriving.count:
                asked = monotonic()
                data = response.raw.read(min(block, left), decode_content=False)
                block = min(BLOCK, 2 * block) if monotonic() - asked < 1 else SMALL_BLOCK
                if not data:
                    raise Again("the connection ended early")
                arriving.add(data)
    except Again:
        if arriving.count < arriving.furthest + PROGRESS:
            raise
        arriving.furthest = arriving.count


def _check(response: requests.Response, arriving: _Arriving) -> None:
    """Make sure that the body continues what is there, or begin anew."""
    status, size = response.status_code, _whole_size(response)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Refused("it compresses the file, though it was asked not to", status)
    if size not in (None, arriving.wanted.bytes):
        came = "an empty file" if size == 0 else f"{size:,} bytes"
        raise Mismatch(f"{came} instead of {arriving.wanted.bytes:,} bytes")
    if status == 200:
        if arriving.count:
            arriving.restart()
    elif status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {arriving.count}-"):
        arriving.restart()
        raise Again("it answers with another part of the file than was asked for")


def _whole_size(response: requests.Response) -> int | None:
    """Bytes of the whole file, as far as the response says them."""
    if response.status_code == 200:
        said = response.headers.get("Content-Length", "")
    else:
        said = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(said) if re.fullmatch(r"\d{1,18}", said, re.ASCII) else None


def _disk_trouble(error: OSError, part: Path, wanted: RemoteFile) -> str:
    there = part.stat().st_size if part.is_file() else 0
    if error.errno in DISK_FULL:
        return (
            f"{part.parent}: the disk is full, {wanted.bytes - there:,} bytes of {wanted.path} are still to come; "
            "make room and run the same again, it goes on from there"
        )
    return f"{part}: cannot be written ({error.strerror}); give another folder with -o"
