"""Counts the bytes that come, and tells the one who shows them how much there is before the first comes."""

from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from fetch.source import RemoteFile
from fetch.space import bytes_to_come
from shipvlm.stages import BytesProgress


class Meter:
    """A `BytesProgress` that passes on to another and adds up in `came` what was transferred."""

    def __init__(self, out: Path, progress: BytesProgress) -> None:
        self.came = 0
        self._out, self._progress = out, progress
        self._last: dict[str, int] = {}
        self._mutex = Lock()

    def announced(self, files: Iterable[RemoteFile]) -> list[RemoteFile]:
        """`files`, of which it is known from now on how large they are and how much an earlier fetch left of them."""
        listed = list(files)
        for file in listed:
            self._last[file.path] = file.bytes - bytes_to_come([file], self._out)
            self._progress(file.path, self._last[file.path], file.bytes)
        return listed

    def __call__(self, path: str, done: int, size: int) -> None:
        with self._mutex:
            self.came += max(0, done - self._last[path])
            self._last[path] = done
        self._progress(path, done, size)
