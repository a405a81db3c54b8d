"""Memory of this process and, where there is a GPU, of its device, in bytes.

`ru_maxrss` would be the obvious peak, but Linux starts it in a child at its parent's peak; /proc counts anew.
"""

import re
from pathlib import Path


def rss() -> int:
    """Resident bytes now; mapped files that were read count too."""
    return _status("VmRSS")


def peak_rss() -> int:
    """The most resident bytes since this program was started."""
    return _status("VmHWM")


class Vram:
    """Device memory taken since this object was made, whoever took it: a GPU is measured alone."""

    def __init__(self, device: str) -> None:
        self.device = device if device == "cuda" else None
        self.before = self._used()
        self.most = 0

    def peak(self) -> int | None:
        """The most bytes seen at any call; None without a GPU. An allocator that keeps what it once took shows its
        peak."""
        if self.device is None:
            return None
        self.most = max(self.most, self._used() - self.before)
        return self.most

    def _used(self) -> int:
        if self.device is None:
            return 0
        import torch

        if not torch.cuda.is_available():  # opening the model says so, better
            return 0
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024
