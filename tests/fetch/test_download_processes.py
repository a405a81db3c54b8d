"""Downloads that end by force, and two at once: each is a process of its own, as a person starts it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fetch.download import download
from fetch.hub import hub_source
from tests.fetch.fake_hub import FakeHub
from tests.fetch.serving import ALWAYS, Fault

WEIGHTS = "model.safetensors"
FILES = {WEIGHTS: bytes(range(256)) * 8000, "config.json": b"{}"}  # 2,048,000 bytes
SLOW = Fault(rate=400_000, times=ALWAYS)
PROGRAM = """
import sys
from pathlib import Path
from fetch.download import download
from fetch.hub import hub_source
from shipvlm.errors import ShipvlmError
from shipvlm.stages import alone

url, out = sys.argv[1], Path(sys.argv[2])
try:
    with alone(out):
        source = hub_source(url, None, False)
        listing = source.list("owner/tiny", None)
        download(listing.files, [(source, listing)], out, lambda *_: None, print)
except ShipvlmError as error:
    sys.exit(str(error))
"""


def start(hub: FakeHub, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, hub.url, str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def part_of(process: subprocess.Popen, out: Path, at_least: int) -> Path:
    """The part of the weights, when so many bytes of it are there."""
    part = out / ".fetch" / f"{WEIGHTS}.part"
    end = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size >= at_least):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    return part


def check_only_the_rest_comes(hub: FakeHub, out: Path, there: int) -> None:
    hub.cdn.faults.clear()
    hub.cdn.requests.clear()
    source = hub_source(hub.url, None, False)
    listing = source.list("owner/tiny", None)
    download(listing.files, [(source, listing)], out, lambda *_: None, print)
    assert [request.headers.get("range") for request in hub.cdn.requests] == [f"bytes={there}-"]
    assert {path: (out / path).read_bytes() for path in FILES} == FILES


def test_after_kill_9_in_mid_file_only_the_rest_comes(hub, tmp_path):
    hub.cdn.fail("*", SLOW)
    out = tmp_path / "out"
    with start(hub, out) as process:
        part = part_of(process, out, 300_000)
        process.kill()
        process.wait()
    there = part.stat().st_size
    assert part.read_bytes() == FILES[WEIGHTS][:there]
    assert there < len(FILES[WEIGHTS])
    check_only_the_rest_comes(hub, out, there)


@pytest.mark.parametrize("stalled", [False, True])
def test_ctrl_c_ends_it_at_once_and_keeps_what_came(hub, tmp_path, stalled):
    hub.cdn.fail("*", SLOW if not stalled else Fault(drop_after=300_000))
    hub.cdn.fail("*", Fault(hang=60.0, times=ALWAYS))
    out = tmp_path / "out"
    with start(hub, out) as process:
        part = part_of(process, out, 300_000)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=30)[1]
    assert time.monotonic() - sent < 5
    assert "KeyboardInterrupt" in error
    assert process.returncode != 0
    check_only_the_rest_comes(hub, out, part.stat().st_size)


def test_a_second_process_is_told_that_another_one_writes_there(hub, tmp_path):
    hub.cdn.fail("*", SLOW)
    out = tmp_path / "out"
    with start(hub, out) as first:
        part = part_of(first, out, 1)
        with start(hub, out) as second:
            error = second.communicate(timeout=30)[1]
        assert "another shipvlm is writing there" in error
        assert first.poll() is None
        first.kill()
        first.wait()
    check_only_the_rest_comes(hub, out, part.stat().st_size)
