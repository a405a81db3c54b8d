"""What else went on: readings of this machine, of one that was made up, and the thresholds."""

import os
import re
import subprocess
import sys
import time

import pytest

from bench import conditions, memory
from bench.conditions import Taken, Watch, disturbed, own_cores
from bench.observations import Conditions, Gpu
from tests.bench.made_driver import Driver, installed

QUIET = Conditions(seconds=1.0, others=0.02, steal=0.0, waited=0.01, load=0.5)
BUSY_LOOP = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"others": 0.1, "steal": 0.05, "waited": 0.1}, None),  # the most that is allowed
        ({"others": None, "steal": None, "waited": None, "load": 50.0}, None),  # not readable; load is only told
        ({"others": 0.43}, "other processes took 43 % of the cores, at most 10 % is allowed"),
        ({"steal": 0.0512}, "other machines on the host took 5.12 % of the cores, at most 5 % is allowed"),
        ({"steal": 0.2}, "other machines on the host took 20 % of the cores, at most 5 % is allowed"),
        ({"waited": 0.5}, "threads waited for a core for 50 % of their time"),
        ({"gpu": Gpu(name="g", driver="1", throttled=("sw-power-cap",), others=0)}, None),
        ({"gpu": Gpu(name="g", driver="1", throttled=("hw-thermal", "sw-power-cap"))}, r"clock down \(hw-thermal\)"),
        ({"gpu": Gpu(name="g", driver="1")}, None),  # nothing of it is known
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


@pytest.fixture
def driver(monkeypatch):
    yield from installed(monkeypatch, Driver())


@pytest.mark.parametrize("own", [None, 12345])  # its own id, and another as a container has it
def test_a_gpu_is_read_after_each_request(driver, own):
    driver.processes, driver.held = {77: 1000}, 0x40 | 0x4 | 0x1
    memory.Watch("cuda")
    driver.processes = {77: 1000, own or os.getpid(): 2000}
    driver.use = {77: (3, 9), own or os.getpid(): (95,)}
    watch = Watch("cuda")
    for _ in range(3):
        watch.look()
    watch.go()
    watch.pause()
    assert watch.conditions().gpu == Gpu(
        name="NVIDIA Made Up",
        driver="580.1",
        sm_mhz_min=1200,
        sm_mhz_max=1980,
        memory_mhz_min=2619,
        celsius_max=71,
        watts_max=None,
        throttled=("hw-thermal", "sw-power-cap"),
        others=1,
        others_busy=9,
    )


OWN, OTHER, LATER = 12345, 77, 88  # as the driver of the host calls them; none is this process's id in its container


@pytest.mark.parametrize(
    ("before", "during", "use", "others", "busy", "reason"),
    [
        ([], [OWN], {OWN: (95,)}, 0, 0, None),
        ([OTHER], [OTHER, OWN], {OWN: (95,)}, 1, 0, None),  # it only holds memory
        ([OTHER], [OTHER, OWN], {OTHER: (60,), OWN: (95,)}, 1, 60, "1 other processes .* GPU, and used 60 % of it"),
        ([OTHER], [OTHER, OWN], None, 1, None, "1 other processes had work on the GPU"),
        ([], [OWN, LATER], {OWN: (35,), LATER: (60,)}, 1, None, "1 other processes had work on the GPU"),  # who is who?
        ([OTHER], [OWN], {OTHER: (60,), OWN: (95,)}, 0, 0, None),  # it ended before
        ([OTHER], [OTHER, OWN], {}, 1, 0, None),  # no samples: nobody used it
    ],
)
def test_in_a_container_a_model_that_was_opened_is_no_other_process(driver, before, during, use, others, busy, reason):
    driver.processes = dict.fromkeys(before, 1000)
    watch = memory.Watch("cuda")
    driver.processes, driver.use = dict.fromkeys([*before, OWN], 1000), use  # the model is opened
    around = Watch("cuda")
    driver.processes = dict.fromkeys(during, 1000)
    around.go()
    around.pause()
    found = around.conditions()
    assert (found.gpu.others, found.gpu.others_busy) == (others, busy)
    assert watch.memory().process == (None if LATER in during else 1000)
    reasons = disturbed(QUIET.model_copy(update={"gpu": found.gpu}))
    assert len(reasons) == (reason is not None)
    if reason:
        assert re.search(reason, reasons[0])


def test_of_a_process_that_has_its_own_id_a_later_one_is_told_apart(driver):
    memory.Watch("cuda")
    watch = Watch("cuda")
    driver.processes = {os.getpid(): 1000, LATER: 10}
    driver.use = {os.getpid(): (95,), LATER: (4,)}
    gpu = watch.conditions().gpu
    assert (gpu.others, gpu.others_busy) == (1, 4)


def test_who_is_on_the_gpu_and_what_holds_it_down_may_be_unknown(driver, monkeypatch):
    def unknown(*_):
        raise Driver.NVMLError

    monkeypatch.setattr(driver, "nvmlDeviceGetCurrentClocksEventReasons", unknown)
    driver.processes = None
    watch = Watch("cuda")
    watch.look()
    gpu = watch.conditions().gpu
    assert (gpu.throttled, gpu.others, gpu.others_busy) == (None, None, None)
    assert disturbed(QUIET.model_copy(update={"gpu": gpu})) == ()
    assert Gpu.model_validate_json(gpu.model_dump_json(exclude_none=True)) == gpu  # as a line is written


def test_a_clock_that_nothing_held_down_is_known_to_be_so(driver):
    watch = Watch("cuda")
    watch.look()
    assert watch.conditions().gpu.throttled == ()


def test_a_boot_of_a_machine_has_one_name_which_is_not_its_id(monkeypatch, tmp_path):
    start = conditions.launched()
    boot = conditions.since(start).boot
    assert boot == Watch("cpu").conditions().boot
    assert re.fullmatch("[0-9a-f]{12}", boot)
    assert boot not in conditions.BOOT.read_text().replace("-", "")
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(conditions, "BOOT", tmp_path / "boot_id")
    assert conditions.since(start).boot not in (boot, None)
    monkeypatch.setattr(conditions, "BOOT", tmp_path / "absent")
    assert conditions.since(start).boot is None
