"""What else went on while a block was measured, and whether that disturbed it.

A block is disturbed, and measured once more, where
    other processes took more than 10 % of the time of the cores, or other machines on the host more than 5 %;
    threads that were ready to run waited for a core for more than 10 % of that time;
    the GPU held its clock down for heat or power supply (a power cap is a steady state: it is told, not refused);
    another process used more than 5 % of the GPU, or has work on it and its use cannot be read.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from bench import nvml
from bench.observations import Conditions, Gpu

OTHERS, STEAL, WAITED, GPU_OTHERS = 0.10, 0.05, 0.10, 5
TICK = os.sysconf("SC_CLK_TCK")
SENSORS = {"coretemp", "k10temp", "zenpower"}  # Linux's names of the processors' own
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Taken(NamedTuple):
    """Seconds since the start of the system or of the process: of all cores together, and of this process."""

    wall: float
    busy: float
    stolen: float
    own: float
    ran: float
    waited: float


def launched() -> Taken:
    """What was taken when a process is started, which has used nothing yet."""
    return taken()._replace(own=0.0, ran=0.0, waited=0.0)


class Watch:
    """Conditions of the time between `go` and `pause`, summed over as many of them as there are."""

    def __init__(self, device: str) -> None:
        self._device = nvml.device() if device == "cuda" else None
        self._seen: dict[str, list[float]] = {}
        self._throttled: set[str] | None = None
        self._since = time.time_ns() // 1000
        self._total = Taken(0, 0, 0, 0, 0, 0)
        self._start: Taken | None = None

    def go(self) -> None:
        self._start = taken()

    def pause(self) -> None:
        assert self._start, "go first"
        spans = zip(self._total, taken(), self._start, strict=True)
        self._total, self._start = Taken(*(total + after - before for total, after, before in spans)), None

    def look(self) -> None:
        """Reads the GPU, where there is one: after each request, while its clock is still that of the work."""
        if self._device is None:
            return
        for name in ("sm_mhz", "memory_mhz", "celsius", "watts"):
            if (value := getattr(self._device, name)()) is not None:
                self._seen.setdefault(name, []).append(value)
        if (reasons := self._device.throttled()) is not None:
            self._throttled = reasons | (self._throttled or set())

    def conditions(self) -> Conditions:
        return _conditions(self._total, self._gpu())

    def _gpu(self) -> Gpu | None:
        if self._device is None:
            return None
        others, busy = _others(self._device, self._since)
        return Gpu(
            name=self._device.name,
            driver=self._device.driver,
            sm_mhz_min=self._extreme("sm_mhz", min),
            sm_mhz_max=self._extreme("sm_mhz", max),
            memory_mhz_min=self._extreme("memory_mhz", min),
            celsius_max=self._extreme("celsius", max),
            watts_max=max(self._seen["watts"]) if "watts" in self._seen else None,
            throttled=None if self._throttled is None else tuple(sorted(self._throttled)),
            others=others,
            others_busy=busy,
        )

    def _extreme(self, name: str, which: Callable[[list[float]], float]) -> int | None:
        return int(which(self._seen[name])) if name in self._seen else None


def _others(device: nvml.Device, since: int) -> tuple[int | None, int | None]:
    """How many other processes have work on the device, and the most that one of them used of it, in percent."""
    processes, busy = device.processes(), device.busy(since)
    if processes is None:
        return None, None
    own = device.own(processes)
    others = processes.keys() - {own}
    if own is None and others - device.before:  # one of those that are new is this process, and none says which
        return len(others) - 1, None
    return len(others), None if busy is None else max((busy.get(pid, 0) for pid in others), default=0)


def since(start: Taken) -> Conditions:
    """Conditions of all the time since `start`, but for the GPU."""
    return _conditions(Taken(*(after - before for after, before in zip(taken(), start, strict=True))), None)


def _conditions(total: Taken, gpu: Gpu | None) -> Conditions:
    whole = total.wall * len(own_cores())
    ready = total.ran + total.waited
    return Conditions(
        seconds=total.wall,
        others=max(0.0, total.busy - total.own) / whole if whole else None,
        steal=total.stolen / whole if whole else None,
        waited=total.waited / ready if ready else None,
        load=os.getloadavg()[0],
        mhz=_mhz(),
        celsius=_celsius(),
        boot=_boot(),
        gpu=gpu,
    )


def disturbed(found: Conditions) -> tuple[str, ...]:
    """Why a block under these conditions is not used; nothing where it is."""
    reasons = []
    for value, most, words in (
        (found.others, OTHERS, "other processes took {} of the cores"),
        (found.steal, STEAL, "other machines on the host took {} of the cores"),
        (found.waited, WAITED, "threads waited for a core for {} of their time"),
    ):
        if value is not None and value > most:
            reasons.append(f"{words.format(f'{100 * value:.3g} %')}, at most {100 * most:.0f} % is allowed")
    if found.gpu:
        if held := set(found.gpu.throttled or ()) & set(nvml.HELD_DOWN):
            reasons.append(f"the GPU held its clock down ({', '.join(sorted(held))})")
        if found.gpu.others and (found.gpu.others_busy is None or found.gpu.others_busy > GPU_OTHERS):
            used = "" if found.gpu.others_busy is None else f", and used {found.gpu.others_busy} % of it"
            reasons.append(f"{found.gpu.others} other processes had work on the GPU{used}")
    return tuple(reasons)


def taken() -> Taken:
    """What was taken until now of the cores that this process may use."""
    busy, stolen = _cores()
    ran, waited = _ready()
    own = os.times()
    return Taken(time.monotonic(), busy, stolen, own.user + own.system, ran, waited)


def own_cores() -> set[int]:
    """The cores that this process may use."""
    return os.sched_getaffinity(0)


def _cores() -> tuple[float, float]:
    """Seconds that the cores worked, and that were stolen from them (proc(5), /proc/stat)."""
    busy = stolen = 0.0
    wanted = {f"cpu{core}" for core in own_cores()}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, fields[:8])
            busy += (user + nice + system + irq + softirq) / TICK
            stolen += steal / TICK
    return busy, stolen


def _ready() -> tuple[float, float]:
    """Seconds that the threads of this process ran, and that they waited for a core (/proc/PID/task/TID/schedstat)."""
    ran = waited = 0.0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # a thread that just ended, or a system that does not count
            on, off, _ = map(int, path.read_text().split())
            ran, waited = ran + on / 1e9, waited + off / 1e9
    return ran, waited


def _boot() -> str | None:
    """A name for this boot of this machine: 12 hexadecimal digits of BLAKE2b of its id (random(4))."""
    with suppress(OSError):
        return blake2b(BOOT.read_bytes().strip(), digest_size=6).hexdigest()
    return None


def _mhz() -> float | None:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        return fmean(clocks) if clocks else None
    return None


def _celsius() -> float | None:
    """The hottest sensor of the processor."""
    found = []
    for sensor in Path("/sys/class/hwmon").glob("*"):
        with suppress(OSError, ValueError):
            if (sensor / "name").read_text().strip() in SENSORS:
                found += [int(path.read_text()) / 1e3 for path in sensor.glob("temp*_input")]
    return max(found, default=None)
