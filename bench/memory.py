"""Memory of this process and, where there is a GPU, of its device, in bytes.

`ru_maxrss` would be the obvious peak, but Linux starts it in a child at its parent's peak; /proc counts anew.
"""

import re
import sys
from pathlib import Path
from typing import Any

from bench import nvml
from bench.observations import Memory

NOW = {"rss": "VmRSS", "anon": "RssAnon", "file": "RssFile"}  # proc(5), /proc/PID/status


class Watch:
    """Memory from here on. Made before anything is taken of the device, so that its delta is this process's."""

    def __init__(self, device: str) -> None:
        self._device = nvml.device() if device == "cuda" else None
        self._before = self._device.used() if self._device else None
        self._most: dict[str, int] = {}

    def look(self) -> None:
        """Takes note of what is used now: of what has no peak of its own, only what was seen counts."""
        for name, value in (_status(NOW) | self._on_device()).items():
            self._most[name] = max(self._most.get(name, 0), value)

    def memory(self) -> Memory:
        """What is used now, and the most until now."""
        self.look()
        now = _status(NOW)
        peaks = {f"peak_{name}": self._most[name] for name in now}
        peaks["peak_rss"] = max(peaks["peak_rss"], _status({"peak": "VmHWM"})["peak"])  # which lags a little behind
        process, device = self._most.get("process"), self._most.get("device")
        return Memory(**now, **peaks, process=process, device=device, **self._allocator())

    def _on_device(self) -> dict[str, int]:
        if self._device is None:
            return {}
        found = {}
        used = self._device.used()
        if used is not None and self._before is not None:
            found["device"] = max(0, used - self._before)
        processes = self._device.processes() or {}
        own = self._device.own(processes)
        size = None if own is None else processes[own]
        return found if size is None else found | {"process": size}

    def _allocator(self) -> dict[str, int]:
        """The peaks of torch's allocator, where torch is in use on the device."""
        torch: Any = sys.modules.get("torch")
        if self._device is None or torch is None or not torch.cuda.is_initialized():
            return {}
        return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


def peak(memory: Memory) -> int:
    """The one number that stands for memory: on a GPU what the driver counts for the process (the device's delta where
    it cannot), else the most that was resident."""
    on_device = memory.process if memory.process is not None else memory.device
    return memory.peak_rss if on_device is None else on_device


def _status(fields: dict[str, str]) -> dict[str, int]:
    text = Path("/proc/self/status").read_text()
    found = {}
    for name, field in fields.items():
        match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
        if match is None:
            raise OSError(f"/proc/self/status has no {field}")
        found[name] = int(match[1]) * 1024
    return found
