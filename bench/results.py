"""Finds and reads what a run has written, here or on another machine."""

import json
from pathlib import Path
from typing import Any

from bench import plan
from bench.report import REPORT, SCHEMA_VERSION, build
from shipvlm.errors import InputError

KEYS = (
    "baseline",
    "candidate",
    "complete",
    "missing",
    "gates",
    "cases",
    "variants",
    "limits",
    "flips",
    "data",
    "settings",
    "command",
    "machine",
    "libraries",
    "judgement",
)


def folder_of(result: Path) -> Path:
    """The folder of a result, given that or its bench.json; or of the run that was cut off before it became one.

    Raises InputError, naming `result`, where there is neither.
    """
    folder = result.parent if result.is_file() else result
    for found in (folder, folder.parent / f".{folder.name}.partial"):
        if (found / REPORT).is_file() or (found / plan.PLAN).is_file():
            return found
    raise InputError(f"{result}: holds no result, and no run that was cut off; give the folder of `bench run -o`")


def is_cut_off(folder: Path) -> bool:
    """Whether a folder that `folder_of` found is of a run that has not ended: a bench.json in it may be old."""
    return folder.name.endswith(".partial") or not (folder / REPORT).is_file()


def read(result: Path) -> dict[str, Any]:
    """The report of a result, as `folder_of` finds it, or in a bench.json of any name; of a run that was cut off made
    of what was measured. Nothing is written. Raises as `folder_of`, `read_report` and `bench.plan.read`."""
    if result.is_file():
        return read_report(result)
    folder = folder_of(result)
    if not is_cut_off(folder):
        return read_report(folder)
    made = plan.read(folder)
    return build(made, plan.lines(folder, made), ())


def read_report(path: Path) -> dict[str, Any]:
    """The report in a folder or a bench.json. Raises InputError where there is none of this version, and naming what is
    missing where it is not whole."""
    file = path / REPORT if path.is_dir() else path
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: holds no {REPORT} that can be read ({error}); give what bench run wrote") from error
    advice = "give what bench run wrote, or make it anew from its raw lines: bench report --raw"
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        said = f"is a report of version {version}, this shipvlm reads {SCHEMA_VERSION}"
        raise InputError(f"{path}: {said}; {advice}")
    if lacking := [name for name in KEYS if name not in found]:
        raise InputError(f"{path}: is no whole report, it lacks {', '.join(lacking)}; {advice}")
    for name in ("baseline", "candidate"):
        if found[name] not in found["variants"]:
            has = ", ".join(found["variants"])
            raise InputError(f"{path}: names {found[name]!r} as its {name}, and has only {has}; {advice}")
    return dict(found)
