"""Commands as a person gives them, in this process."""

from pathlib import Path

import pytest

from shipvlm.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


def pack(capsys, folder: Path, out: Path) -> tuple[int, str, str]:
    return run(capsys, "data", "pack", folder, "-o", out, "--column", "prompt=question", "--task", "vqa", "--json")
