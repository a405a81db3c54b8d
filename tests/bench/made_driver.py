"""A made-up NVML: as much of pynvml as bench.nvml uses, with processes on a GPU that come and go as a test likes."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from bench import nvml

UUIDS = {"GPU-aaaa": 0, "GPU-bbbb": 1, "MIG-cccc": 2}


class Driver:
    """`processes`: bytes by process id; None where they are not told. `use`: percent that each used; None likewise.
    `held`: the bits of what holds the clock down."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    class NVMLError_NotFound(NVMLError):
        pass

    def __init__(self, names: tuple[str, ...] = ("NVIDIA Made Up",)) -> None:
        self.names = names
        self.processes: dict[int, int] | None = {}
        self.use: dict[int, tuple[int, ...]] | None = {}
        self.used, self.held = 5000, 0
        self.clocks = iter([1980, 1200, 1500])

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index):
        if not 0 <= index < len(self.names):
            raise self.NVMLError
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return self.nvmlDeviceGetHandleByIndex(UUIDS.get(uuid, -1))

    def nvmlDeviceGetName(self, handle):
        return self.names[handle]

    def nvmlSystemGetDriverVersion(self):
        return "580.1"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(used=self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        if self.processes is None:
            raise self.NVMLError
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.processes.items()]

    def nvmlDeviceGetProcessUtilization(self, handle, since):
        if self.use is None:
            raise self.NVMLError
        if not self.use:
            raise self.NVMLError_NotFound
        return [SimpleNamespace(pid=pid, smUtil=value) for pid, values in self.use.items() for value in values]

    def nvmlDeviceGetClockInfo(self, handle, which):
        return next(self.clocks) if which == self.NVML_CLOCK_SM else 2619

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return 71

    def nvmlDeviceGetPowerUsage(self, handle):
        raise self.NVMLError

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self.held


def installed(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Iterator[Driver]:
    """For a fixture: `driver` is this machine's, all of its GPUs are shown, and no process has asked for one yet."""
    monkeypatch.setattr(nvml, "_library", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml.device.cache_clear()
    yield driver
    nvml.device.cache_clear()
