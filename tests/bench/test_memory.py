"""Memory of a process and of its device."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.memory import Vram, peak_rss, rss


def test_the_peak_of_a_process_is_its_own():
    before = rss()
    block = np.ones(50_000_000)
    assert rss() - before > 0.9 * block.nbytes
    assert peak_rss() >= rss()
    script = "from bench.memory import peak_rss; print(peak_rss())"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert int(done.stdout) < block.nbytes  # ru_maxrss would say what this process has


def test_device_memory_is_the_most_above_the_start(monkeypatch):
    used = iter([5, 9, 7, 12, 6])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 - next(used), 100))
    vram = Vram("cuda")
    assert [vram.peak() for _ in range(4)] == [4, 4, 7, 7]


def test_without_a_device_there_is_no_device_memory():
    assert Vram("cpu").peak() is None


@pytest.mark.gpu
def test_device_memory_of_a_real_device():
    vram = Vram("cuda")
    block = torch.zeros(256 * 1024 * 1024, dtype=torch.uint8, device="cuda")
    assert 0.9 * len(block) < (vram.peak() or 0) < 4 * len(block)
