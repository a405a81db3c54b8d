"""What a source lists, checked: it comes from outside, and nothing of it is trusted with a path on disk."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from fetch.source import RemoteFile
from shipvlm.errors import InputError
from shipvlm.lock import LOCK, QUARANTINE, UNFINISHED, safe_path

REPO = r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*"


def checked_repo(repo: str) -> str:
    """`repo` when it is owner/name. Raises `InputError` otherwise."""
    if not re.fullmatch(REPO, repo):
        raise InputError(f"{repo!r} is no repository; give owner/name, such as Qwen/Qwen3-VL-8B-Instruct")
    return repo


def checked_files(files: Iterable[RemoteFile], where: str) -> tuple[RemoteFile, ...]:
    """`files` in the order of their paths, without those whose names shipvlm uses itself.

    Raises `InputError`, before anything is written, when a path leaves its folder, comes twice, or is at once a file
    and a folder, and when a size or a hash is none.
    """
    found: dict[str, RemoteFile] = {}
    for file in files:
        if file.path.split("/")[0] in (UNFINISHED, QUARANTINE, LOCK):
            continue
        if problem := _problem(file):
            raise InputError(f"{where}: lists {file.path!a}: {problem}; nothing was fetched. Try another source")
        if file.path in found:
            raise InputError(f"{where}: lists {file.path!a} twice; nothing was fetched. Try another source")
        found[file.path] = file
    for path in found:
        for parent in PurePosixPath(path).parents:
            if str(parent) in found:
                raise InputError(
                    f"{where}: lists {str(parent)!a} as a file and as a folder; nothing was fetched. Try another source"
                )
    return tuple(found[path] for path in sorted(found))


def _problem(file: RemoteFile) -> str | None:
    try:
        safe_path(file.path)
        file.path.encode()
    except ValueError:
        return "no path of a file inside a folder"
    if not file.path.isprintable():
        return "a name with control characters"
    if not isinstance(file.bytes, int) or isinstance(file.bytes, bool) or file.bytes < 0:
        return "has no size"
    if file.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
        return "its sha256 is none"
    if file.git_blob is not None and not re.fullmatch(r"[0-9a-f]{40}", file.git_blob):
        return "its git id is none"
    return None
