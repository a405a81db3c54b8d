"""What else went on: readings of this machine, of one that was made up, and the thresholds."""

import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from bench import conditions, nvml
from bench.conditions import Taken, Watch, disturbed, own_cores
from bench.observations import Conditions, Gpu
from shipvlm.errors import SetupError

QUIET = Conditions(seconds=1.0, others=0.02, steal=0.0, waited=0.01, load=0.5)
BUSY_LOOP = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"others": 0.1, "steal": 0.05, "waited": 0.1}, None),  # the most that is allowed
        ({"others": None, "steal": None, "waited": None, "load": 50.0}, None),  # not readable; load is only told
        ({"others": 0.43}, "other processes took 43 % of the cores, at most 10 % is allowed"),
        ({"steal": 0.2}, "other machines on the host took 20 % of the cores, at most 5 % is allowed"),
        ({"waited": 0.5}, "threads waited for a core for 50 % of their time"),
        ({"gpu": Gpu(name="g", driver="1", throttled=("sw-power-cap",), others=0)}, None),
        ({"gpu": Gpu(name="g", driver="1", throttled=("hw-thermal", "sw-power-cap"))}, r"clock down \(hw-thermal\)"),
        ({"gpu": Gpu(name="g", driver="1", others=2, others_busy=5)}, None),
        ({"gpu": Gpu(name="g", driver="1", others=2, others_busy=60)}, "2 other processes .* GPU, and used 60 % of it"),
        ({"gpu": Gpu(name="g", driver="1", others=1)}, "1 other processes had work on the GPU"),
    ],
)
def test_a_block_is_disturbed_above_the_written_thresholds(change, reason):
    found = disturbed(QUIET.model_copy(update=change))
    assert len(found) == (reason is not None)
    if reason:
        assert re.search(reason, found[0])


def test_shares_are_of_the_time_between_go_and_pause(monkeypatch):
    cores = len(own_cores())
    readings = iter(
        [
            Taken(10, 100, 5, 20, 1, 1),
            Taken(14, 100 + 3 * cores, 5 + 0.4 * cores, 20 + cores, 3, 1.5),  # 4 s: busy 3, own 1, stolen 0.4 a core
            Taken(100, 500, 90, 70, 50, 50),
            Taken(106, 500 + 3 * cores, 90, 70 + 3 * cores, 53, 50.5),  # 6 s: all of it its own
        ]
    )
    monkeypatch.setattr(conditions, "taken", lambda: next(readings))
    watch = Watch("cpu")
    for _ in range(2):
        watch.go()
        watch.pause()
    found = watch.conditions()
    assert found.seconds == pytest.approx(10)
    assert found.others == pytest.approx(0.2)
    assert found.steal == pytest.approx(0.04)
    assert found.waited == pytest.approx(1 / 6)


def test_of_a_start_all_is_counted_since_its_process_was_launched(monkeypatch):
    cores = len(own_cores())
    here = Taken(10, 100, 5, 20, 7, 1)  # of the parent: its own time is not that of the process which it starts
    there = Taken(14, 100 + 2 * cores, 5, 1.2 * cores, 3, 0.1)
    readings = iter([here, there])
    monkeypatch.setattr(conditions, "taken", lambda: next(readings))
    found = conditions.since(conditions.launched())
    assert found.seconds == 4
    assert found.others == pytest.approx(0.2)
    assert found.waited == pytest.approx(0.1 / 3.1)


def test_a_process_beside_this_one_is_seen():
    """Planted: a loop on each core. On a machine that is busy already the share of others is high before, too."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP]) for _ in own_cores()]
    try:
        time.sleep(0.3)
        watch = Watch("cpu")
        watch.go()
        start = time.process_time()
        while time.process_time() - start < 0.3:
            pass
        watch.pause()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    found = watch.conditions()
    assert found.others is not None
    assert found.others > 0.3
    assert disturbed(found)


class Driver:
    """As much of pynvml as is used: one GPU that gets hot, with this process and another on it."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, own: int, busy: bool = True) -> None:
        self.own, self.busy, self.clocks, self.asked = own, busy, iter([1980, 1200, 1500]), 0

    def nvmlInit(self): ...

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        if index:
            raise self.NVMLError
        return "handle"

    def nvmlDeviceGetName(self, handle):
        return "NVIDIA Made Up"

    def nvmlSystemGetDriverVersion(self):
        return "580.1"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(used=5000)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        self.asked += 1
        others = [SimpleNamespace(pid=77, usedGpuMemory=1000)]
        return others if self.asked == 1 else [*others, SimpleNamespace(pid=self.own, usedGpuMemory=2000)]

    def nvmlDeviceGetProcessUtilization(self, handle, since):
        if not self.busy:
            raise self.NVMLError
        return [SimpleNamespace(pid=pid, smUtil=use) for pid, use in ((77, 3), (77, 9), (self.own, 95))]

    def nvmlDeviceGetClockInfo(self, handle, which):
        return next(self.clocks) if which == 1 else 2619

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return 71

    def nvmlDeviceGetPowerUsage(self, handle):
        raise self.NVMLError

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return 0x40 | 0x4 | 0x1


@pytest.mark.parametrize("own", [None, 12345])  # its own id, and another as a container has it
@pytest.mark.parametrize("busy", [True, False])
def test_a_gpu_is_read_after_each_request(monkeypatch, own, busy):
    driver = Driver(own or os.getpid(), busy)
    monkeypatch.setattr(nvml, "_library", lambda: driver)
    watch = Watch("cuda")
    for _ in range(3):
        watch.look()
    watch.go()
    watch.pause()
    gpu = watch.conditions().gpu
    assert gpu == Gpu(
        name="NVIDIA Made Up",
        driver="580.1",
        sm_mhz_min=1200,
        sm_mhz_max=1980,
        memory_mhz_min=2619,
        celsius_max=71,
        watts_max=None,
        throttled=("hw-thermal", "sw-power-cap"),
        others=1,
        others_busy=9 if busy else None,
    )
    assert nvml.names() == ["NVIDIA Made Up"]


def test_a_device_that_is_not_there_is_a_setup_error(monkeypatch):
    monkeypatch.setattr(nvml, "_library", lambda: Driver(1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(SetupError, match="NVML knows no device '3'"):
        nvml.Device()


def test_without_a_driver_there_are_no_gpus(monkeypatch):
    def absent():
        raise SetupError("no driver")

    monkeypatch.setattr(nvml, "_library", absent)
    assert nvml.names() == []
    with pytest.raises(SetupError):
        Watch("cuda")
