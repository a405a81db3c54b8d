"""Whether two lists of files mean the same bytes: of two sources, or of a source and a lock."""

from collections.abc import Iterable, Mapping

from fetch.source import Listing, RemoteFile
from shipvlm.lock import LockedFile


def list_differences(wanted: Iterable[RemoteFile], listing: Listing) -> dict[str, str]:
    """{path: what is wrong with it in `listing`}, as far as lists can tell; empty when nothing is seen to differ."""
    there = {file.path: file for file in listing.files}
    found = {}
    for file in wanted:
        if problem := _difference(file, there.get(file.path)):
            found[file.path] = problem
    return found


def _difference(wanted: RemoteFile, there: RemoteFile | None) -> str | None:
    if there is None:
        return "is not there"
    if there.bytes != wanted.bytes:
        return f"{there.bytes:,} bytes there, {wanted.bytes:,} wanted"
    for name in ("sha256", "git_blob"):
        if None not in (values := (getattr(there, name), getattr(wanted, name))) and values[0] != values[1]:
            return "other bytes (sha256)" if name == "sha256" else "other bytes (git blob)"
    return None


def as_remote(files: Mapping[str, LockedFile]) -> list[RemoteFile]:
    """Locked files as a source would describe them."""
    return [RemoteFile(path, file.bytes, file.sha256, None) for path, file in files.items()]
