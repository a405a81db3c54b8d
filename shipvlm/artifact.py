"""What a folder holds, written down with it: `manifest.json` has size and sha256 of every file, and how it was made.

Every stage writes one. A folder that has one is verified before it is loaded, so nobody measures or serves anything
else than what was built.
"""

import json
import os
from collections.abc import Iterable, Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from shipvlm.errors import GateError, InputError
from shipvlm.folder import MANIFEST, SIDE_FILES, WEIGHTS_INDEX, weight_files
from shipvlm.lock import check_finished, check_table, some

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


def verify(folder: Path) -> dict[str, Any]:
    """Hash every file of `folder` again and return its manifest.

    Raises `GateError` naming files that changed, are missing or are not in the manifest, `InputError` as
    `read_manifest` does.
    """
    manifest = read_manifest(folder)
    wanted, found = manifest["files"], file_table(folder)
    different = {
        "changed": [name for name in wanted if name in found and found[name] != wanted[name]],
        "missing": [name for name in wanted if name not in found],
        "not in the manifest": [name for name in found if name not in wanted],
    }
    if any(different.values()):
        parts = [f"{some(names)} {kind}" for kind, names in different.items() if names]
        raise GateError(f"{folder}: is not what was built: {'; '.join(parts)}. Build it again, or fetch it again")
    return manifest


def folder_digest(folder: Path) -> str:
    """sha256 of the manifest: one number for all that is in a folder and how it was made."""
    return sha256((folder / MANIFEST).read_bytes()).hexdigest()


def checkpoint_digest(folder: Path) -> str:
    """sha256 of a checkpoint's files: weights, their index, and `SIDE_FILES`. Other files there do not matter.

    Raises `GateError` when the folder was fetched and its bytes are not those of its lock, `InputError` when its
    download was broken off.
    """
    check_finished(folder)
    side = [name for name in (*SIDE_FILES, WEIGHTS_INDEX) if (folder / name).is_file()]
    table = _table(folder, [*(path.name for path in weight_files(folder)), *side])
    check_table(folder, table)
    return sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def file_table(folder: Path) -> dict[str, dict[str, Any]]:
    """{relative path: {bytes, sha256}} of every file below `folder` but its manifest, in name order.

    Raises `InputError` for a link, which could change without a file here changing, and for what is no plain file.
    """
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise InputError(f"{path}: is a link or no plain file; put the file itself there")
    names = (path.relative_to(folder).as_posix() for path in paths)
    return _table(folder, (name for name in names if name != MANIFEST))


def _table(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {name: _entry(folder / name) for name in sorted(names)}


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": file_digest(file, "sha256").hexdigest()}
