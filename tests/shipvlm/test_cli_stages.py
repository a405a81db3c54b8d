"""The stages as single commands, and verify."""

import json
from pathlib import Path

import pytest
import torch

from shipvlm.artifact import MANIFEST
from tests.shipvlm.commands import run

FEW = ("--set", "calibration.samples=4", "--set", "quantize.observer=minmax")


@pytest.fixture
def quantized(capsys, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    code, _, err = run(capsys, "quantize", tiny_checkpoint, *FEW, "-o", tmp_path / "int8")
    assert code == 0, err
    return tmp_path / "int8"


def test_quantize_writes_a_checkpoint_that_can_be_asked(capsys, tiny_checkpoint, picture, tmp_path) -> None:
    arguments = ("quantize", tiny_checkpoint, *FEW, "-o", tmp_path / "out")
    code, out, _ = run(capsys, *arguments)
    assert (code, out.count("\n")) == (0, 1)
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["kept"]
    assert report["scheme"] == "w8a8-static"
    assert report["calibration"]["records"] == 4
    code, out, _ = run(capsys, "ask", "--model", tmp_path / "out", "--image", picture, "--max-new-tokens", 4, "what")
    assert code == 0
    assert out.strip()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scheme", "w3"), "w3"),
        (("--set", "quantize.observer=max"), "quantize.observer is 'max'"),
        (("--set", "quantize.observr=mse"), "the nearest known key is quantize.observer"),
        (("--data", "nowhere.parquet"), "nowhere.parquet"),
        (("--set", "calibration.samples=513"), "513 records are asked for, the data set has 512"),
        (("--scheme", "w4a16"), "128"),
    ],
)
def test_quantize_refuses(capsys, tiny_checkpoint: Path, tmp_path: Path, options, message: str) -> None:
    code, _, err = run(capsys, "quantize", tiny_checkpoint, "-o", tmp_path / "out", *options)
    assert code == 2, err
    assert message in err
    assert [path.name for path in tmp_path.iterdir() if path.name != ".out.lock"] == []


@pytest.mark.parametrize("command", [["quantize"], ["convert"], ["bench", "run"]])
def test_a_result_is_not_written_over_its_source(capsys, tiny_checkpoint: Path, command: list[str]) -> None:
    before = sorted(tiny_checkpoint.iterdir())
    for out in (tiny_checkpoint, tiny_checkpoint.parent):
        code, _, err = run(capsys, *command, tiny_checkpoint, "-o", out)
        assert code == 2
        assert "over its source" in err
    assert sorted(tiny_checkpoint.iterdir()) == before


def test_verify_says_what_changed(capsys, quantized: Path) -> None:
    code, out, err = run(capsys, "verify", quantized, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["files"] == len(list(quantized.iterdir())) - 1
    assert run(capsys, "verify", quantized)[1].strip().endswith(found["digest"])
    (quantized / "merges.txt").unlink()
    code, out, err = run(capsys, "verify", quantized)
    assert (code, out) == (1, "")
    assert "merges.txt missing" in err
    (quantized / MANIFEST).unlink()
    assert run(capsys, "verify", quantized)[0] == 2
    assert run(capsys, "verify", quantized / "nowhere")[0] == 2


def test_what_is_not_as_built_is_neither_asked_nor_measured(capsys, quantized, picture, tmp_path) -> None:
    (quantized / "chat_template.jinja").write_text("{{ 'hello' }}")
    for command in (
        ("ask", "--model", quantized, "--image", picture, "what"),
        ("convert", quantized, "-o", tmp_path / "graphs"),
        ("bench", "run", quantized, "-o", tmp_path / "report"),
    ):
        code, out, err = run(capsys, *command)
        assert (code, out) == (1, "")
        assert "chat_template.jinja changed" in err


@pytest.mark.parametrize("setting", ["convert=null", "convert.precision=fp16", "model.path=elsewhere"])
def test_a_single_command_is_not_overruled(capsys, tiny_checkpoint: Path, tmp_path: Path, setting: str) -> None:
    code, _, err = run(capsys, "convert", tiny_checkpoint, "-o", tmp_path / "out", "--set", setting)
    assert code == 2
    assert "this command's own arguments and options say" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is refused here")
@pytest.mark.parametrize(("command", "section"), [(["quantize"], "calibration"), (["bench", "run"], "bench")])
def test_a_gpu_that_is_not_there_is_not_replaced(capsys, tiny_checkpoint, tmp_path, command, section: str) -> None:
    few = FEW if command == ["quantize"] else ("--limit", "1")
    arguments = (*command, tiny_checkpoint, "-o", tmp_path / "out", *few, "--set", f"{section}.device=cuda")
    code, _, err = run(capsys, *arguments)
    assert code == 3, err
    assert "no CUDA device can be used here" in err or "the driver of the GPU cannot be asked" in err
    assert not (tmp_path / "out").exists()
