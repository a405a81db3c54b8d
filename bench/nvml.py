"""What the driver of an NVIDIA GPU says of the device and of who uses it (NVML, through nvidia-ml-py).

The device is the first that CUDA would show: worker processes run with CUDA_DEVICE_ORDER=PCI_BUS_ID, NVML's order.
"""

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cache
from typing import Any

from shipvlm.errors import SetupError

# Reasons for a clock that is held down: those that no steady state has. NVML's names, and its bits.
HELD_DOWN = {"hw-slowdown": 0x8, "sw-thermal": 0x20, "hw-thermal": 0x40, "hw-power-brake": 0x80}
POWER_CAP = {"sw-power-cap": 0x4}
# The second is what older drivers call it; it is to be removed with CUDA 14.
REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")


class Device:
    """One GPU. Each reading is None where the driver does not give it. `before`: the processes that had work on it when
    it was first looked at."""

    def __init__(self) -> None:
        """Raises SetupError where the package or the driver is missing, or CUDA would show no GPU."""
        self._nvml = _library()
        shown = _shown(self._nvml)
        if not shown:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            raise SetupError(
                "the driver knows no NVIDIA GPU; choose device cpu"
                if visible is None
                else f"CUDA_VISIBLE_DEVICES={visible!r} shows no device that the driver knows; "
                "begin it with the index or the whole UUID of one that is there, or unset it"
            )
        self._handle = shown[0]
        self.before = frozenset(self.processes() or ())

    @property
    def name(self) -> str:
        return str(self._read(self._nvml.nvmlDeviceGetName, self._handle))

    @property
    def driver(self) -> str:
        return str(self._read(self._nvml.nvmlSystemGetDriverVersion))

    def used(self) -> int | None:
        """Bytes of the device's memory that are taken, by whomever."""
        found = self._read(self._nvml.nvmlDeviceGetMemoryInfo, self._handle)
        return None if found is None else int(found.used)

    def free(self) -> int | None:
        """Bytes of the device's memory that nobody has taken."""
        found = self._read(self._nvml.nvmlDeviceGetMemoryInfo, self._handle)
        return None if found is None else int(found.free)

    def processes(self) -> dict[int, int | None] | None:
        """Bytes that each process with work on the device takes, by process id."""
        found = self._read(self._nvml.nvmlDeviceGetComputeRunningProcesses, self._handle)
        return None if found is None else {int(each.pid): each.usedGpuMemory for each in found}

    def own(self, processes: Collection[int]) -> int | None:
        """Which of `processes` is this one; None where it is not among them, or cannot be told.

        In a container the driver may call it by another id: then it is the only one that was not there `before`.
        """
        if os.getpid() in processes:
            return os.getpid()
        new = set(processes) - self.before
        return new.pop() if len(new) == 1 else None

    def busy(self, since: int) -> dict[int, int] | None:
        """Percent of the device that each process used at most since a time in microseconds since 1970."""
        try:
            found = self._nvml.nvmlDeviceGetProcessUtilization(self._handle, since)
        except self._nvml.NVMLError_NotFound:  # no samples since then: nobody used it
            return {}
        except self._nvml.NVMLError:
            return None
        most: dict[int, int] = {}
        for each in found:
            most[int(each.pid)] = max(most.get(int(each.pid), 0), int(each.smUtil))
        return most

    def sm_mhz(self) -> int | None:
        return self._read(self._nvml.nvmlDeviceGetClockInfo, self._handle, self._nvml.NVML_CLOCK_SM)

    def memory_mhz(self) -> int | None:
        return self._read(self._nvml.nvmlDeviceGetClockInfo, self._handle, self._nvml.NVML_CLOCK_MEM)

    def celsius(self) -> int | None:
        return self._read(self._nvml.nvmlDeviceGetTemperature, self._handle, self._nvml.NVML_TEMPERATURE_GPU)

    def watts(self) -> float | None:
        found = self._read(self._nvml.nvmlDeviceGetPowerUsage, self._handle)
        return None if found is None else found / 1e3

    def throttled(self) -> set[str] | None:
        """Why the clock is held down now."""
        for name in REASONS:
            function = getattr(self._nvml, name, None)  # an older nvidia-ml-py has only the older name
            if function and (bits := self._read(function, self._handle)) is not None:
                return {reason for reason, bit in (HELD_DOWN | POWER_CAP).items() if bits & bit}
        return None

    def _read(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._nvml.NVMLError:  # each reading is missing on some device
            return None


@cache
def device() -> Device:
    """The device of this process, the same at each call: ask before a model is opened on it, so that this process is
    not among those that were there `before`. Raises SetupError as `Device`."""
    return Device()


def names() -> list[str]:
    """The GPUs that CUDA would show by name; none where there is no driver. It takes nothing of them, as CUDA would."""
    try:
        nvml = _library()
    except SetupError:
        return []
    return [str(nvml.nvmlDeviceGetName(handle)) for handle in _shown(nvml)]


def _shown(nvml: Any) -> list[Any]:
    """Handles of the GPUs that CUDA would show, in its order: the first that is not there hides those after it (CUDA
    Programming Guide, CUDA_VISIBLE_DEVICES)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    handles = []
    with suppress(nvml.NVMLError, ValueError):
        for each in map(str, range(nvml.nvmlDeviceGetCount())) if visible is None else visible.split(","):
            name = each.strip()
            if name.startswith(("GPU-", "MIG-")):
                handles.append(nvml.nvmlDeviceGetHandleByUUID(name))
            else:
                handles.append(nvml.nvmlDeviceGetHandleByIndex(int(name)))
    return handles


def _library() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise SetupError("measuring on a GPU needs the package nvidia-ml-py; install the extra cuda") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise SetupError(f"the driver of the GPU cannot be asked ({error}); install the NVIDIA driver") from error
    return pynvml
