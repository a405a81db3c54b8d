"""Whether bytes are those of a file that a source lists."""

from hashlib import sha1, sha256
from pathlib import Path

from fetch.source import RemoteFile

EMPTY = sha256().hexdigest()
CHUNK = 1 << 20  # bytes; they stay in the processor's cache between the disk and the hash


class Hashes:
    """sha256 of the bytes of `wanted` as they come; git's id of them too, where the source says that."""

    def __init__(self, wanted: RemoteFile) -> None:
        self._wanted = wanted
        self._sha256 = sha256()
        self._git = sha1(b"blob %d\0" % wanted.bytes, usedforsecurity=False) if wanted.git_blob else None

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def difference(self) -> str | None:
        """What is wrong with the bytes, when all have come; None when they are the listed ones."""
        if self._wanted.sha256 not in (None, self.sha256):
            return f"other bytes (sha256 {self.sha256} instead of {self._wanted.sha256})"
        if self._git is not None and self._git.hexdigest() != self._wanted.git_blob:
            return f"other bytes (git blob {self._git.hexdigest()} instead of {self._wanted.git_blob})"
        return None


def unverifiable(wanted: RemoteFile) -> str | None:
    """Why no bytes at all could be those of `wanted`, as it is listed; None when they can be told."""
    if wanted.sha256 is None and wanted.git_blob is None:
        return "it is listed without a hash, so no bytes can be told to be the right ones"
    if wanted.sha256 == EMPTY and wanted.bytes:
        return (
            f"it is listed with {wanted.bytes:,} bytes and the sha256 of an empty file ({EMPTY}): "
            "the list is wrong, the file need not be"
        )
    return None


def file_difference(path: Path, wanted: RemoteFile) -> tuple[str | None, str]:
    """What is wrong with the file at `path`, None when it is as listed; and its sha256, "" when the size is wrong."""
    if (size := path.stat().st_size) != wanted.bytes:
        return f"{size:,} bytes instead of {wanted.bytes:,}", ""
    hashes = Hashes(wanted)
    with path.open("rb", buffering=0) as file:
        while data := file.read(CHUNK):
            hashes.update(data)
    return hashes.difference(), hashes.sha256
