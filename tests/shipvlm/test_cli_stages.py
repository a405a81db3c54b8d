"""The stages as single commands, and verify."""

import json
from pathlib import Path

import pytest
import torch

from shipvlm.artifact import MANIFEST
from tests.shipvlm.commands import pack, run

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


@pytest.mark.parametrize("command", ["quantize", "convert", "bench"])
def test_a_result_is_not_written_over_its_source(capsys, tiny_checkpoint: Path, command: str) -> None:
    before = sorted(tiny_checkpoint.iterdir())
    for out in (tiny_checkpoint, tiny_checkpoint.parent):
        code, _, err = run(capsys, command, tiny_checkpoint, "-o", out)
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
        ("bench", quantized, "-o", tmp_path / "report"),
    ):
        code, out, err = run(capsys, *command)
        assert (code, out) == (1, "")
        assert "chat_template.jinja changed" in err


def test_bench_compares_with_the_first(capsys, tiny_checkpoint, quantized, pictures, tmp_path) -> None:
    pack(capsys, pictures, tmp_path / "mine.parquet")
    arguments = ("bench", tiny_checkpoint, quantized, "--data", tmp_path / "mine.parquet", "--limit", 2)
    few = [f"bench.{name}" for name in ("latency_items=1", "latency_tokens=2", "warmup=0", "repeats=1", "blocks=1")]
    settings = [part for name in few for part in ("--set", name)]
    code, out, err = run(capsys, *arguments, *settings, "-o", tmp_path / "report", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report == json.loads((tmp_path / "report" / "bench.json").read_text())
    assert report["baseline"] == "qwen3_vl"
    assert (tmp_path / "report" / "index.html").is_file()
    code, out, _ = run(capsys, *arguments, *settings, "-o", tmp_path / "report")
    assert code == 0
    assert str(tmp_path / "report" / "index.html") in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give folders to measure"),
        (("--shape", "qwen3-vl-3b"), "choose one of qwen3-vl-2b"),
        (("--shape", "qwen3-vl-2b", "--layers", "99"), "has 28"),
        (("--shape", "qwen3-vl-2b", "-o", "x"), "without folders and -o"),
    ],
)
def test_bench_refuses(capsys, options: tuple[str, ...], message: str) -> None:
    code, out, err = run(capsys, "bench", *options)
    assert (code, out) == (2, "")
    assert message in err


def test_bench_refuses_two_of_one_name(capsys, tiny_checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = run(capsys, "bench", tiny_checkpoint, tiny_checkpoint, "-o", tmp_path / "report")
    assert code == 2
    assert "'qwen3_vl'" in err


@pytest.mark.parametrize("setting", ["convert=null", "convert.precision=fp16", "model.path=elsewhere"])
def test_a_single_command_is_not_overruled(capsys, tiny_checkpoint: Path, tmp_path: Path, setting: str) -> None:
    code, _, err = run(capsys, "convert", tiny_checkpoint, "-o", tmp_path / "out", "--set", setting)
    assert code == 2
    assert "this command's own arguments and options say" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is refused here")
@pytest.mark.parametrize(("command", "section"), [("quantize", "calibration"), ("bench", "bench")])
def test_a_gpu_that_is_not_there_is_not_replaced(capsys, tiny_checkpoint, tmp_path, command: str, section: str) -> None:
    few = FEW if command == "quantize" else ("--limit", "1")
    arguments = (command, tiny_checkpoint, "-o", tmp_path / "out", *few, "--set", f"{section}.device=cuda")
    code, _, err = run(capsys, *arguments)
    assert code == 3, err
    assert "no CUDA device can be used here" in err
    assert not (tmp_path / "out").exists()
