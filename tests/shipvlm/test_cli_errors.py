"""What the command line says, and its exit code, when something does not work."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.shipvlm.commands import pack, run


def test_a_missing_package_is_named(capsys, monkeypatch, tiny_checkpoint: Path, picture: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "shipvlm.runtime.checkpoint", raising=False)
    code, _, err = run(capsys, "ask", "--model", tiny_checkpoint, "--image", picture, "what")
    assert code == 3
    assert "transformers" in err
    assert "make setup" in err
    assert "pip install -e '.[cpu]'" in err
    assert "shipvlm[" not in err  # nothing is published under that name


def test_what_nobody_foresaw_is_no_gate(capsys, monkeypatch, pictures: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("calib_data.load.load_records", fail)
    code, out, err = run(capsys, "data", "show", pictures)
    assert (code, out) == (4, "")
    assert err.startswith("error: RuntimeError: first line second line")
    assert err.count("\n") == 1
    code, _, err = run(capsys, "--debug", "data", "show", pictures)
    assert code == 4
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: RuntimeError")


def test_a_missing_part_of_our_own_is_no_setup_error(capsys, monkeypatch, pictures: Path) -> None:
    monkeypatch.setitem(sys.modules, "calib_data.load", None)
    code, _, err = run(capsys, "data", "show", pictures)
    assert code == 4
    assert "calib_data.load" in err


@pytest.mark.parametrize("command", ["quantize", "convert", "bench run", "bench check", "bench sweep", "ask"])
def test_a_wrong_folder_is_answered_before_torch_is_imported(command: str, tmp_path: Path) -> None:
    script = (
        "import sys; from shipvlm.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code\n"
        "sys.exit('loaded torch' if 'torch' in sys.modules else code)"
    )
    arguments = [*command.split(), str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")]
    if command == "bench check":
        arguments = arguments[:-2]
    if command == "ask":
        arguments = ["ask", "--model", str(tmp_path / "nowhere"), "--image", "x.png", "what"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "no such folder" in done.stderr


def test_an_output_that_cannot_be_written_is_bad_input(capsys, tiny_checkpoint, pictures, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.parquet").mkdir()
    pack(capsys, pictures, tmp_path / "mine.parquet")
    data = ("--data", tmp_path / "mine.parquet")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        for command in (
            ("bench", "run", tiny_checkpoint, *data, "-o", out),
            ("quantize", tiny_checkpoint, "--scheme", "w8a16", "-o", out),
            ("data", "pack", tmp_path / "mine.parquet", "-o", tmp_path / "file" / "x.parquet"),
            ("data", "pack", tmp_path / "mine.parquet", "-o", tmp_path / "folder.parquet"),
        ):
            code, _, err = run(capsys, *command)
            assert code == 2, err
            assert str(tmp_path) in err
    assert (tmp_path / "file").read_text() == "mine"
