"""`checkpoint.lock.json`: the bytes that a fetched checkpoint consists of, on every machine and from every source."""

import json
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shipvlm.data_files import is_document, refused
from shipvlm.errors import GateError, InputError
from shipvlm.folder import SIDE_FILES, WEIGHTS_INDEX
from shipvlm.words import plain

LOCK = "checkpoint.lock.json"
# In a fetched folder: what is on its way (the lock too, until all is there), and bytes that were not the right ones.
UNFINISHED, QUARANTINE = ".fetch", ".quarantine"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAMED = 5  # files that an error lists
HASHERS = 4  # files that are hashed at the same time
CHUNK = 4 << 20  # bytes


def safe_path(path: str) -> str:
    """`path` when it names a file below a folder and nothing else; raises `ValueError` otherwise."""
    parts = path.split("/")
    if not path or not path.isprintable() or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is no path of a file inside a folder")
    if is_ours(path):
        raise ValueError(f"{path!r} is a name that shipvlm uses itself")
    return path


def is_ours(path: str) -> bool:
    """Whether `path` is, or lies in, what shipvlm keeps for itself in a fetched folder, on any disk."""
    return folded(path).split("/")[0] in (UNFINISHED, QUARANTINE, LOCK)


def folded(path: str) -> str:
    """The same for all paths that a disk may take for one: some tell neither case nor the ways to write an accent."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _loaded(path: str) -> str:
    if problem := refused(path):
        raise ValueError(f"it {problem}")
    return path


def _document(path: str) -> str:
    if not is_document(path):
        raise ValueError("it is no model card, licence or notice")
    return path


SafePath = Annotated[str, AfterValidator(safe_path)]
LoadedPath = Annotated[SafePath, AfterValidator(_loaded)]
DocumentPath = Annotated[SafePath, AfterValidator(_document)]
Plain = Annotated[str, AfterValidator(plain)]  # it is printed
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
OnBytes = Callable[[str, int, int], None]  # path, bytes of it that are hashed, its size; from any thread
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


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

    schema_version: Literal[1] = 1
    repo: Plain  # owner/name; the folder's own name for a local folder
    revision: Plain | None  # as it was asked for: a branch, a tag or a commit; None for a folder
    commit: Commit | None  # what that was on `source`; None where the source has none, and for a folder
    source: Literal["hf", "modelscope", "folder"]
    endpoint: Plain | None  # None for a folder
    licence: Plain | None  # as the model card names it
    include: tuple[str, ...] = ()  # patterns of further files that were asked for
    files: dict[LoadedPath, LockedFile]
    documents: dict[DocumentPath, LockedFile]


def read_lock(path: Path) -> Lock:
    """The lock in the file `path`. Raises `InputError` when it cannot be read or is none."""
    try:
        return Lock.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a {LOCK} of shipvlm fetch") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the file"
        problem = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: is no lock: {ascii(place)[1:-1]}: {problem}; fetch the checkpoint again") from error


def write_lock(lock: Lock, path: Path) -> None:
    """Write `lock`, the same bytes for the same lock; `path` has the old one or the new one, never a part."""
    text = json.dumps(_ordered(lock), indent=2, ensure_ascii=False) + "\n"
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # a link that somebody else put there is removed and not written through
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(new, flags, 0o666), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _ordered(lock: Lock) -> dict[str, Any]:
    values = lock.model_dump(mode="json")
    return values | {name: dict(sorted(values[name].items())) for name in ("files", "documents")}


def check_finished(folder: Path) -> None:
    """Raise `InputError` when a fetch into `folder` was broken off."""
    if (folder / UNFINISHED / LOCK).is_file():
        raise InputError(f"{folder}: its download is not complete; the same shipvlm fetch goes on from there")


def differences(folder: Path, lock: Lock, on_bytes: OnBytes = lambda *_: None) -> dict[str, str]:
    """Hash every locked file in `folder`: {path: what is wrong with it}, empty when all are as locked.

    `on_bytes` is told of each file before the first is hashed, then how far each is.

    A link counts as wrong: what it points to can change without the folder changing. So does a file beside the locked
    ones that would be loaded with them.
    """
    wanted = sorted({**lock.files, **lock.documents}.items())
    for path, file in wanted:
        on_bytes(path, 0, file.bytes)
    with ThreadPoolExecutor(HASHERS) as pool:
        problems = pool.map(lambda item: difference(folder, item[0], item[1], on_bytes), wanted)
        found = {path: problem for (path, _), problem in zip(wanted, problems, strict=True) if problem}
    return dict.fromkeys(strangers(folder, lock.files), "not in the lock, and would be loaded") | found


def strangers(folder: Path, known: Collection[str]) -> list[str]:
    """Files in `folder` that would be loaded with a checkpoint or an adapter and are none of the `known` ones."""
    loaded = {*SIDE_FILES, WEIGHTS_INDEX, ADAPTER_CONFIG}
    names = (path.name for path in folder.iterdir() if path.name in loaded or path.suffix == ".safetensors")
    return sorted(name for name in names if name not in known)


def difference(folder: Path, path: str, wanted: LockedFile, on_bytes: OnBytes = lambda *_: None) -> str | None:
    """What is wrong with one file of `folder`, None when it is as locked. `on_bytes` as for `differences`."""
    file = folder / path
    if any(part.is_symlink() for part in (file, *file.parents[: path.count("/")])):
        return "a link"
    if not file.is_file():
        return "missing"
    if (size := file.stat().st_size) != wanted.bytes:
        return f"{size:,} bytes instead of {wanted.bytes:,}"
    found = file_sha256(file, lambda count: on_bytes(path, count, wanted.bytes))
    return None if found == wanted.sha256 else "other bytes (sha256)"


def file_sha256(file: Path, on_bytes: Callable[[int], None]) -> str:
    """sha256 of a file. `on_bytes` gets how many bytes are hashed."""
    total, count = sha256(), 0
    with file.open("rb") as opened:
        while data := opened.read(CHUNK):
            total.update(data)
            on_bytes(count := count + len(data))
    return total.hexdigest()


def verify_lock(folder: Path, on_bytes: OnBytes = lambda *_: None) -> Lock:
    """Hash the files of `folder` again and return its lock. `on_bytes` as for `differences`.

    Raises `GateError` naming the files that are not as locked, `InputError` as `read_lock` and `check_finished` do.
    """
    check_finished(folder)
    lock = read_lock(folder / LOCK)
    refuse(folder, differences(folder, lock, on_bytes))
    return lock


def check_table(folder: Path, table: Mapping[str, Mapping[str, Any]]) -> None:
    """Hold the files of a checkpoint that were just hashed, {path: {bytes, sha256}}, against the lock of `folder`.

    For who must hash them anyway. Without a lock there is nothing to hold. Raises as `verify_lock` does.
    """
    if not (folder / LOCK).is_file():
        return
    lock = read_lock(folder / LOCK)
    wrong = dict.fromkeys(strangers(folder, lock.files), "not in the lock, and would be loaded")
    for path, entry in table.items():
        if path in lock.files and LockedFile(**entry) != lock.files[path]:
            wrong[path] = "other bytes"
    wrong |= {path: "missing" for path in lock.files if not (folder / path).is_file()}
    refuse(folder, wrong)


def refuse(folder: Path, wrong: Mapping[str, str]) -> None:
    """Raise `GateError` when a file of `folder` is wrong: {path: how}."""
    if wrong:
        raise GateError(
            f"{folder}: is not what {LOCK} says: {some(wrong)}. "
            "Run the same shipvlm fetch again: it sets these files aside and fetches only them"
        )


def some(files: Mapping[str, str] | Sequence[str]) -> str:
    """The first few of {path: what is wrong with it}, or of paths alone, in words."""
    parts = [f"{path}: {files[path]}" for path in files] if isinstance(files, Mapping) else files
    more = f" and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return ("; " if isinstance(files, Mapping) else ", ").join(parts[:NAMED]) + more


def files_digest(lock: Lock) -> str:
    """sha256 of the table of `files`: one number for what is loaded, the same from whichever source it came."""
    return sha256(json.dumps(_ordered(lock)["files"], sort_keys=True).encode()).hexdigest()


def origin(folder: Path) -> dict[str, str | None] | None:
    """Where a fetched checkpoint is from, for the manifests of what is made of it; None for one that has no lock.

    Says nothing of the way it took: two machines that fetched the same bytes of the same commit say the same.
    """
    if not (folder / LOCK).is_file():
        return None
    lock = read_lock(folder / LOCK)
    return {"repo": lock.repo, "commit": lock.commit, "licence": lock.licence, "sha256": files_digest(lock)}


def is_commit(revision: str) -> bool:
    """Whether a revision is a full git commit, which never moves."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None
