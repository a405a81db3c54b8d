"""Memory of a process and of its device."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import memory
from bench.memory import Watch, own_process, peak
from bench.observations import Memory

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


class Card:
    """A device on which this process, under the id 7, takes more and more, beside another."""

    def __init__(self) -> None:
        self.taken = iter([0, 5, 9, 6])

    def used(self) -> int:
        self.now = next(self.taken)
        return 100 + self.now

    def processes(self) -> dict[int, int | None]:
        return {3: 100, 7: self.now + 2} if getattr(self, "now", 0) else {3: 100}


def test_device_memory_is_what_the_driver_counts_and_the_most_above_the_start(monkeypatch):
    monkeypatch.setattr(memory, "Device", Card)
    watch = Watch("cuda")
    watch.look()
    watch.look()
    found = watch.memory()
    assert (found.device, found.process) == (9, 11)
    assert peak(found) == 11


def test_without_a_device_there_is_no_device_memory():
    found = Watch("cpu").memory()
    assert {found.device, found.process, found.allocated, found.reserved} == {None}
    assert peak(found) == found.peak_rss


def test_the_process_is_known_by_its_id_or_by_being_new():
    own = os.getpid()
    assert own_process({own: 5, 1: 2}, set()) == 5
    assert own_process({1: 2, 8: 3}, {1}) == 3  # in a container
    assert own_process({1: 2, 8: 3, 9: 4}, {1}) is None
    assert own_process({1: 2}, {1}) is None
    assert own_process({own: None}, set()) is None


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
