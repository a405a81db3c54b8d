"""A stage whose result can be known beforehand, to be run, killed and run again: python -m ... OUT SECONDS [kind]."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipvlm.stages import Done, Progress, Stage, alone, run_stage

FILES = 20


def stage(seconds: float = 0.0, resumes: bool = False, **changes: Any) -> Stage:
    """Writes FILES files, taking `seconds`; one that resumes leaves those that are whole alone."""

    def make(out: Path, progress: Progress) -> Mapping[str, Any]:
        for number in range(FILES):
            progress("write", number, FILES)
            path, text = out / f"{number}.txt", "x" * number
            if not path.exists() or path.read_text() != text:  # a kill may leave a file that was opened but not written
                path.write_text(text)
                time.sleep(seconds / FILES)
        return {"files": FILES}

    facts: dict[str, Any] = {
        "name": "made",
        "inputs": {"source": "0"},
        "section": {"a": 1},
        "code": ("shipvlm.runtime",),
        "libraries": ("numpy", "no-such-distribution"),
    }
    return Stage(**(facts | changes), make=make, resumes=resumes)


def run(made: Stage, out: Path, said: list[str] | None = None) -> Done:
    with alone(out):
        return run_stage(made, out / "made", lambda *_: None, (said if said is not None else []).append)


if __name__ == "__main__":
    folder, seconds, kind = sys.argv[1:]
    run(stage(float(seconds), kind == "resumes"), Path(folder))
