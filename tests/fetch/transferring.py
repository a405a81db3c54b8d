"""One file that tests fetch, and the fetch as they ask for it."""

from collections.abc import Callable
from pathlib import Path

from fetch.source import Place, RemoteFile
from fetch.transfer import fetch_file
from tests.fetch.serving import Server, blob

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes


def listed(content: bytes, git: bool = False) -> RemoteFile:
    """As a list has it: with its sha256, or with git's id of it."""
    known = blob(content)
    return RemoteFile("x", known.size, None if git else known.sha256, known.git_blob if git else None)


def bring(
    server: Server,
    part: Path,
    wanted: RemoteFile | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> str:
    return fetch_file(lambda: Place(server.url + "/x"), wanted or listed(CONTENT), part, on_bytes)


def ranges(server: Server) -> list[str | None]:
    return [request.headers.get("range") for request in server.requests]
