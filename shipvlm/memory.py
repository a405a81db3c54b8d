"""How much memory this machine has left."""

import re
from pathlib import Path

MEMORY_INFO = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that can be taken before the system has to swap; None where it does not say."""
    if not MEMORY_INFO.is_file():
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMORY_INFO.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
