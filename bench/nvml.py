"""What the driver of an NVIDIA GPU says of the device and of who uses it (NVML, through nvidia-ml-py).

The device is the first that CUDA would show: worker processes run with CUDA_DEVICE_ORDER=PCI_BUS_ID, NVML's order.
"""

import os
from collections.abc import Callable
from typing import Any

from shipvlm.errors import SetupError

# Reasons for a clock that is held down: those that no steady state has. NVML's names, and its bits.
HELD_DOWN = {"hw-slowdown": 0x8, "sw-thermal": 0x20, "hw-thermal": 0x40, "hw-power-brake": 0x80}
POWER_CAP = {"sw-power-cap": 0x4}


class Device:
    """One GPU. Each reading is None where the driver does not give it."""

    def __init__(self) -> None:
        """Raises SetupError where the package or the driver is missing."""
        self._nvml = _library()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        try:
            by_name = visible.startswith(("GPU-", "MIG-"))
            handle = self._nvml.nvmlDeviceGetHandleByUUID if by_name else self._nvml.nvmlDeviceGetHandleByIndex
            self._handle = handle(visible if by_name else int(visible or 0))
        except (self._nvml.NVMLError, ValueError) as error:
            raise SetupError(
                f"NVML knows no device {visible!r}: set CUDA_VISIBLE_DEVICES to one that is there"
            ) from error

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

    def processes(self) -> dict[int, int | None]:
        """Bytes that each process with work on the device takes, by process id."""
        found = self._read(self._nvml.nvmlDeviceGetComputeRunningProcesses, self._handle) or []
        return {int(each.pid): each.usedGpuMemory for each in found}

    def busy(self, since: int) -> dict[int, int] | None:
        """Percent of the device that each process used at most since a time in microseconds since 1970."""
        found = self._read(self._nvml.nvmlDeviceGetProcessUtilization, self._handle, since)
        if found is None:
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

    def throttled(self) -> set[str]:
        """Why the clock is held down now."""
        bits = self._read(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons, self._handle) or 0
        return {name for name, bit in (HELD_DOWN | POWER_CAP).items() if bits & bit}

    def _read(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._nvml.NVMLError:  # each reading is missing on some device
            return None


def names() -> list[str]:
    """The GPUs of this machine by name; none where there is no driver. It takes nothing of them, as CUDA would."""
    try:
        nvml = _library()
    except SetupError:
        return []
    handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
    return [str(nvml.nvmlDeviceGetName(handle)) for handle in handles]


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
