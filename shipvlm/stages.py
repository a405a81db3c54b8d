"""Runs one stage: what is there and still right is kept, the rest is made anew and appears whole.

A stage's key is the sha256 of the digests of its inputs, its section of the recipe, the code that it runs and the
libraries that decide its bytes. It writes into a hidden folder beside its place, which is renamed at the end.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from glob import escape
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shipvlm.artifact import MANIFEST, folder_digest, read_manifest, verify, write_manifest
from shipvlm.errors import GateError, InputError
from shipvlm.folder import make_folder, replace_folder, written_whole

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, how much there is
BytesProgress = Callable[[str, int, int], None]  # path, bytes of it so far, its size; from any thread
Say = Callable[[str], None]  # one line for the person who waits


@dataclass(frozen=True)
class Stage:
    """One step: all that decides its result, and the function that makes it.

    `make(folder, progress)` writes into an empty folder and returns facts for the manifest (JSON, the same every time).
    One that `resumes` gets the folder of its last attempt or result instead, and must itself tell what still holds.
    """

    name: str
    inputs: Mapping[str, str]  # what it reads: name -> sha256
    section: Mapping[str, Any]  # its part of the recipe, as JSON
    code: tuple[str, ...]  # packages and modules that it runs
    libraries: tuple[str, ...]  # distributions whose version can change its bytes
    make: Callable[[Path, Progress], Mapping[str, Any]]
    provenance: Mapping[str, Any] = field(default_factory=dict)  # how the inputs were made
    resumes: bool = False


@dataclass(frozen=True)
class Done:
    """A finished stage: its folder, its manifest, the sha256 of that, and whether it was there already."""

    folder: Path
    manifest: dict[str, Any]
    digest: str
    kept: bool


def run_stage(stage: Stage, target: Path, progress: Progress, say: Say) -> Done:
    """Make `stage` in `target`, or keep what is there when its key is the same and no file changed.

    Raises `InputError` when `target` is something else than a result of this stage, or another process writes there;
    what `make` raises passes through, and nothing half made is left.
    """
    with alone(target):
        return _run_stage(stage, target, progress, say)


def _run_stage(stage: Stage, target: Path, progress: Progress, say: Say) -> Done:
    identity = {
        "stage": stage.name,
        "inputs": dict(stage.inputs),
        "section": dict(stage.section),
        "versions": {"code": code_digest(stage.code), **library_versions(stage.libraries)},
    }
    key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    remove_leftovers(target)
    if target.exists() and _is_current(stage, target, identity, key, say):
        return Done(target, read_manifest(target), folder_digest(target), kept=True)
    with _resumed(target) if stage.resumes else written_whole(target) as work:
        result = dict(stage.make(work, progress))
        write_manifest(work, {**identity, "key": key, "result": result, "provenance": dict(stage.provenance)})
    return Done(target, read_manifest(target), folder_digest(target), kept=False)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the sole right to write `folder`, of all processes that ask for it. It ends with the process, killed or not.

    The file that stands for it is removed at the end; one that a killed process left does no harm.
    Raises `InputError` when another process has it.
    """
    path = folder.resolve().parent / f".{folder.resolve().name}.lock"
    make_folder(path.parent)
    with path.open("a") as lock:
        if not _is_held(lock.fileno(), path):
            raise InputError(f"{folder}: another shipvlm is writing there; wait for it to end, or give another folder")
        try:
            yield
        finally:
            with suppress(OSError):  # where nothing may be removed, it stays
                path.unlink()


def _is_held(descriptor: int, path: Path) -> bool:
    """Take the lock on an open file; False when another has it, or has just given it up and removed the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def remove_leftovers(target: Path) -> None:
    """Remove the hidden folders of killed runs beside `target`."""
    for leftover in target.parent.glob(f".{escape(target.name)}.????????.partial"):
        shutil.rmtree(leftover)


def code_digest(modules: tuple[str, ...]) -> str:
    """sha256 of the source files of `modules`, packages whole: a changed stage makes its result anew, unasked."""
    total = sha256()
    for module in modules:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None, f"there is no module {module}"
        folder = Path(spec.origin).parent
        paths = folder.rglob("*") if spec.submodule_search_locations else [Path(spec.origin)]
        for path in sorted(path for path in paths if path.suffix in (".py", ".j2")):
            total.update(f"{module}/{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return total.hexdigest()


def library_versions(names: tuple[str, ...]) -> dict[str, str | None]:
    """Installed versions, None for what is not installed."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_current(stage: Stage, target: Path, identity: Mapping[str, Any], key: str, say: Say) -> bool:
    """Whether `target` holds what would be made. What it holds instead is said."""
    if not (target / MANIFEST).is_file():
        raise InputError(f"{target}: exists and is no result of shipvlm; move it away or give another folder")
    there = read_manifest(target)
    if there.get("stage") != stage.name:
        raise InputError(
            f"{target}: holds the result of {there.get('stage')}, not of {stage.name}; give another folder"
        )
    if there.get("key") != key:
        changed = [
            f"{part}.{name}"
            for part in ("inputs", "section", "versions")
            for name in sorted({*identity[part], *there[part]})
            if identity[part].get(name) != there[part].get(name)
        ]
        say(f"{stage.name}: made anew, for {', '.join(changed)} changed since {target} was made")
        return False
    try:
        verify(target)
    except GateError as error:
        say(f"{stage.name}: made anew. {error}")
        return False
    return True


@contextmanager
def _resumed(target: Path) -> Iterator[Path]:
    """The folder of the last attempt, or a copy of the last result, to go on in; it becomes `target` at the end."""
    work = target.parent / f".{target.name}.partial"
    if target.exists() and not work.exists():
        shutil.copytree(target, work)
    make_folder(work)
    (work / MANIFEST).unlink(missing_ok=True)
    yield work
    replace_folder(work, target)
