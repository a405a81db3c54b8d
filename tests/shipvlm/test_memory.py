"""What the system says of its memory."""

from pathlib import Path

import pytest

from shipvlm import memory
from shipvlm.memory import available_memory


def test_available_memory_is_what_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "MEMORY_INFO", path)
    assert available_memory() is None
    path.write_text("MemTotal:  100 kB\nMemFree:  10 kB\nMemAvailable:   42 kB\n")
    assert available_memory() == 42 * 1024
