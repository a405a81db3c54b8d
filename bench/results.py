"""Reads what a run has written, here or on another machine."""

import json
from pathlib import Path
from typing import Any

from bench.report import REPORT, SCHEMA_VERSION
from shipvlm.errors import InputError


def read_report(path: Path) -> dict[str, Any]:
    """The report in a folder or a bench.json. Raises InputError where there is none of this version."""
    file = path / REPORT if path.is_dir() else path
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: holds no {REPORT} that can be read ({error}); give what bench run wrote") from error
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: is a report of version {version}, this shipvlm reads {SCHEMA_VERSION}; measure again"
        )
    return dict(found)
