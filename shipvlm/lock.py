"""`checkpoint.lock.json`: the bytes that a fetched checkpoint consists of, on every machine and from every source."""

import json
import re
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shipvlm.errors import GateError, InputError

LOCK = "checkpoint.lock.json"
SCHEMA_VERSION = 1
# In a fetched folder: what is on its way (the lock too, until all is there), and bytes that were not the right ones.
UNFINISHED, QUARANTINE = ".fetch", ".quarantine"
NAMED = 5  # files that an error lists


def safe_path(path: str) -> str:
    """`path` when it names a file below a folder and nothing else; raises `ValueError` otherwise."""
    parts = path.split("/")
    if not path or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is no path of a file inside a folder")
    if parts[0] in (UNFINISHED, QUARANTINE, LOCK):
        raise ValueError(f"{path!r} is a name that shipvlm uses itself")
    return path


SafePath = Annotated[str, AfterValidator(safe_path)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LockedFile(BaseModel):
    """Size in bytes and sha256 of one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Lock(BaseModel):
    """What was fetched, from where, and its bytes.

    `files` are what is loaded: any source must have exactly these. `documents` are the model card and the licence as
    they were found: kept and verified on disk, but sources word them differently.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    repo: str  # owner/name; the folder's own name for a local folder
    revision: str  # as it was asked for: a branch, a tag or a commit
    commit: str | None  # what that was on `source`; None for a folder
    source: str  # hf, modelscope, folder
    endpoint: str | None  # None for a folder
    licence: str | None  # as the model card names it
    files: dict[SafePath, LockedFile]
    documents: dict[SafePath, LockedFile]


def read_lock(path: Path) -> Lock:
    """The lock in the file `path`. Raises `InputError` when it cannot be read or is none."""
    try:
        return Lock.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a {LOCK} of shipvlm fetch") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: is no lock: {place}: {first['msg']}; fetch the checkpoint again") from error


def write_lock(lock: Lock, path: Path) -> None:
    """Write `lock`, the same bytes for the same lock."""
    path.write_text(json.dumps(_ordered(lock), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _ordered(lock: Lock) -> dict[str, Any]:
    values = lock.model_dump(mode="json")
    return values | {name: dict(sorted(values[name].items())) for name in ("files", "documents")}


def check_finished(folder: Path) -> None:
    """Raise `InputError` when a fetch into `folder` was broken off."""
    if (folder / UNFINISHED / LOCK).is_file():
        raise InputError(f"{folder}: its download is not complete; the same shipvlm fetch goes on from there")


def differences(folder: Path, lock: Lock) -> dict[str, str]:
    """Hash every locked file in `folder`: {path: what is wrong with it}, empty when all are as locked.

    A link counts as wrong: what it points to can change without the folder changing.
    """
    found = {}
    for path, wanted in sorted({**lock.files, **lock.documents}.items()):
        if problem := difference(folder / path, wanted):
            found[path] = problem
    return found


def difference(path: Path, wanted: LockedFile) -> str | None:
    """What is wrong with one file, None when it is as locked."""
    if path.is_symlink():
        return "a link"
    if not path.is_file():
        return "missing"
    if (size := path.stat().st_size) != wanted.bytes:
        return f"{size:,} bytes instead of {wanted.bytes:,}"
    with path.open("rb") as file:
        return None if file_digest(file, "sha256").hexdigest() == wanted.sha256 else "other bytes (sha256)"


def verify_lock(folder: Path) -> Lock:
    """Hash the files of `folder` again and return its lock.

    Raises `GateError` naming the files that are not as locked, `InputError` as `read_lock` and `check_finished` do.
    """
    check_finished(folder)
    lock = read_lock(folder / LOCK)
    if wrong := differences(folder, lock):
        parts = [f"{path}: {problem}" for path, problem in list(wrong.items())[:NAMED]]
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise GateError(
            f"{folder}: is not what {LOCK} says: {'; '.join(parts)}{more}. "
            "Run the same shipvlm fetch again: it sets these files aside and fetches only them"
        )
    return lock


def is_commit(revision: str) -> bool:
    """Whether a revision is a full git commit, which never moves."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None
