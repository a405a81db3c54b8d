"""What a folder holds, written down with it: `manifest.json` has size and sha256 of every file, and how it was made.

Every stage writes one. A folder that has one is verified before it is loaded, so nobody measures or serves anything
else than what was built.
"""

import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from shipvlm.errors import GateError, InputError
from shipvlm.folder import MANIFEST, SIDE_FILES, WEIGHTS_INDEX, weight_files
from shipvlm.lock import Lock, OnBytes, check_finished, check_table, file_sha256, some

SCHEMA_VERSION = 1


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `facts` and the table of the files in `folder` to its `manifest.json`; return what was written.

    `facts` must say the same whenever the same is built: no time of day, no duration, no path of a machine.
    All files get the permissions of a new file: libraries write some that their owner alone may read.
    """
    manifest = {"schema_version": SCHEMA_VERSION, **facts, "files": file_table(folder)}
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    for name in manifest["files"]:
        (folder / name).chmod((folder / MANIFEST).stat().st_mode)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, unchecked. Raises `InputError` when there is none or it is not one of ours."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: has no {MANIFEST}; give a folder that shipvlm run, quantize or convert wrote"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); build the folder again") from error
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path}: is no manifest of schema version {SCHEMA_VERSION}; build the folder again")
    files = manifest.get("files")
    if not (isinstance(files, dict) and all(isinstance(entry, dict) for entry in files.values())):
        raise InputError(f"{path}: lists no files; build the folder again")
    return manifest


def verify(folder: Path, on_bytes: OnBytes = lambda *_: None, spare: Collection[str] = ()) -> dict[str, Any]:
    """Hash every file of `folder` again and return its manifest. `on_bytes` as for `shipvlm.lock.differences`.

    `spare`: files that may be gone, but not changed.
    Raises `GateError` naming files that changed, are missing or are not in the manifest, `InputError` as
    `read_manifest` does.
    """
    manifest = read_manifest(folder)
    wanted, found = manifest["files"], file_table(folder, on_bytes)
    different = {
        "changed": [name for name in wanted if name in found and found[name] != wanted[name]],
        "missing": [name for name in wanted if name not in found and name not in spare],
        "not in the manifest": [name for name in found if name not in wanted],
    }
    if any(different.values()):
        parts = [f"{some(names)} {kind}" for kind, names in different.items() if names]
        raise GateError(f"{folder}: is not what was built: {'; '.join(parts)}. Build it again, or fetch it again")
    return manifest


def folder_digest(folder: Path) -> str:
    """sha256 of the manifest: one number for all that is in a folder and how it was made."""
    return sha256((folder / MANIFEST).read_bytes()).hexdigest()


def checkpoint_digest(folder: Path, verified: Lock | None = None) -> str:
    """sha256 of a checkpoint's files: weights, their index, and `SIDE_FILES`. Other files there do not matter.

    `verified`: the lock that this process has just held every byte against; the sha256 of its files are taken.
    Raises `GateError` when the folder was fetched and its bytes are not those of its lock, `InputError` when its
    download was broken off.
    """
    check_finished(folder)
    side = [name for name in (*SIDE_FILES, WEIGHTS_INDEX) if (folder / name).is_file()]
    names = sorted([*(path.name for path in weight_files(folder)), *side])
    known = {name: file.model_dump() for name, file in verified.files.items()} if verified else {}
    table = {name: known[name] if name in known else _entry(folder / name) for name in names}
    check_table(folder, table)
    return sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def file_table(folder: Path, on_bytes: OnBytes = lambda *_: None) -> dict[str, dict[str, Any]]:
    """{relative path: {bytes, sha256}} of every file below `folder` but its manifest, in name order.

    `on_bytes` as for `shipvlm.lock.differences`.
    Raises `InputError` for a link, which could change without a file here changing, and for what is no plain file.
    """
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise InputError(f"{path}: is a link or no plain file; put the file itself there")
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    names = sorted(name for name in sizes if name != MANIFEST)
    for name in names:
        on_bytes(name, 0, sizes[name])
    return {name: _entry(folder / name, partial(_told, on_bytes, name, sizes[name])) for name in names}


def _told(on_bytes: OnBytes, name: str, size: int, count: int) -> None:
    on_bytes(name, count, size)


def _entry(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path, on_bytes)}
