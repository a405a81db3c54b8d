"""Memory of a process and of its device."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.memory import Watch, peak
from bench.observations import Memory
from tests.bench.made_driver import Driver, installed

BASE = {"rss": 1, "anon": 1, "file": 1, "peak_rss": 9, "peak_anon": 1, "peak_file": 1}


def test_the_peak_of_a_process_is_its_own():
    watch = Watch("cpu")
    before = watch.memory()
    block = np.ones(50_000_000)
    watch.look()
    size, taken = block.nbytes, watch.memory()
    del block
    after = watch.memory()
    assert taken.anon - before.anon > 0.9 * size
    assert taken.file - before.file < 0.1 * size
    assert after.anon < taken.anon - 0.9 * size
    assert after.peak_anon >= taken.anon
    assert after.peak_rss >= taken.rss
    script = "from bench.memory import Watch; print(Watch('cpu').memory().peak_rss)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert int(done.stdout) < size  # ru_maxrss would say what this process has


def test_device_memory_is_what_the_driver_counts_and_the_most_above_the_start(monkeypatch):
    for driver in installed(monkeypatch, Driver()):
        driver.processes, driver.used = {3: 100}, 100
        watch = Watch("cuda")
        for taken in (5, 9, 6):
            driver.processes, driver.used = {3: 100, 7: taken + 2}, 100 + taken  # as a container has it
            watch.look()
        found = watch.memory()
        assert (found.device, found.process) == (9, 11)
        assert peak(found) == 11


def test_without_a_device_there_is_no_device_memory():
    found = Watch("cpu").memory()
    assert {found.device, found.process, found.allocated, found.reserved} == {None}
    assert peak(found) == found.peak_rss


def test_what_stands_for_memory_is_the_devices_where_there_is_one():
    assert peak(Memory(**BASE)) == 9
    assert peak(Memory(**BASE, device=4)) == 4
    assert peak(Memory(**BASE, device=4, process=3)) == 3


@pytest.mark.gpu
def test_device_memory_of_a_real_device():
    import torch

    watch = Watch("cuda")
    block = torch.zeros(256 * 1024 * 1024, dtype=torch.uint8, device="cuda")
    found = watch.memory()
    assert found.device is not None
    assert 0.9 * len(block) < found.device < 8 * len(block)
    assert found.process is None or found.process > 0.9 * len(block)
    assert found.allocated == len(block)
