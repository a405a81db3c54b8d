"""shipvlm verify of a large folder: how far it is, on a terminal and nowhere else."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from shipvlm.artifact import MANIFEST, verify, write_manifest
from shipvlm.cli import progress as shown
from shipvlm.lock import CHUNK, LOCK, Lock, LockedFile, file_sha256, verify_lock, write_lock
from tests.shipvlm.commands import run

FILES = {"model.safetensors": b"w" * (CHUNK + 5), "config.json": b"{}"}


def locked(folder: Path) -> Path:
    files = {name: LockedFile(bytes=len(content), sha256=_sha256(folder / name)) for name, content in FILES.items()}
    lock = Lock(
        repo="tiny",
        revision=None,
        commit=None,
        source="folder",
        endpoint=None,
        licence=None,
        files=files,
        documents={},
    )
    write_lock(lock, folder / LOCK)
    return folder


def _sha256(path: Path) -> str:
    return file_sha256(path, lambda _: None)


def built(folder: Path) -> Path:
    write_manifest(folder, {"stage": "quantize"})
    return folder


@pytest.fixture(params=[locked, built], ids=["fetched", "built"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    return request.param(tmp_path)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is drawn where stderr is a terminal."""
    text = io.StringIO()
    monkeypatch.setattr(shown, "_console", lambda: Console(file=text, force_terminal=True, width=120))
    return text


def test_every_byte_is_told_of_and_how_many_there_are_before_the_first(folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    check: Callable[..., object] = verify if (folder / MANIFEST).is_file() else verify_lock
    check(folder, lambda *call: told.append(call))
    sizes = {name: len(content) for name, content in FILES.items()}
    assert sorted(told[: len(sizes)]) == [(name, 0, size) for name, size in sorted(sizes.items())]
    assert {name: done for name, done, _ in told} == sizes
    assert ("model.safetensors", CHUNK, sizes["model.safetensors"]) in told


def test_a_terminal_shows_bytes_rate_and_time_left(capsys, folder: Path, terminal: io.StringIO) -> None:
    code, out, _ = run(capsys, "verify", folder)
    assert (code, out.count("\n")) == (0, 1)
    drawn = terminal.getvalue()
    assert shown.ALL in drawn and "4.2/4.2 MB" in drawn and "/s" in drawn and "left" in drawn


def test_a_damaged_folder_ends_the_bars_and_names_the_file(capsys, folder: Path, terminal: io.StringIO) -> None:
    (folder / "config.json").write_bytes(b"[]")
    code, out, err = run(capsys, "verify", folder)
    assert (code, out, "config.json" in err) == (1, "", True)
    assert shown.ALL in terminal.getvalue()


def test_json_draws_nothing_on_a_terminal(capsys, folder: Path, terminal: io.StringIO) -> None:
    code, out, _ = run(capsys, "verify", folder, "--json")
    assert (code, json.loads(out)["files"], terminal.getvalue()) == (0, 2, "")


def test_a_log_gets_the_result_alone(capsys, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "LARGE", 1)
    monkeypatch.setattr(shown, "QUIET_SECONDS", 0)
    assert not sys.stderr.isatty()
    code, out, err = run(capsys, "verify", folder)
    assert (code, out.count("\n"), err) == (0, 1, "")
