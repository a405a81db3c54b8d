"""shipvlm plan and run: a recipe from checkpoint to report, killed and run again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.bench.made_run import made_report
from tests.shipvlm.commands import run

ROOT = Path(__file__).parents[2]
FOLDERS = ("quantized", "onnx-baseline", "artifact")
RECIPE = """
name: small
model: {path: MODEL}
calibration: {samples: 8, batch_size: 2}
quantize: {observer: minmax}
convert: {parity: {items: 2, decode_steps: 4, answers: 4, top1_min: 0.5}}
bench: {limit: 1, max_new_tokens: 4, latency_items: 1, warmup: 1, repeats: 1, blocks: 1}
"""


@pytest.fixture(scope="module")
def recipe(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE.replace("MODEL", str(tiny_checkpoint)))
    return path


@pytest.fixture(scope="module")
def unbroken(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from the beginning to the artifact."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    done = finished(recipe, out, "--until", "convert")
    assert done.returncode == 0, done.stderr
    return out


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from shipvlm.cli import main; main()", *map(str, arguments)]


def finished(recipe: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command("run", recipe, "-o", out, *options), cwd=ROOT, capture_output=True, text=True)


def stop_when(pattern: str, out: Path, sent: int, *arguments: object) -> tuple[int, str]:
    """Start `shipvlm run`, signal it as soon as `pattern` is there; its exit code and stderr."""
    process = subprocess.Popen(command("run", *arguments, "-o", out), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    try:
        while not list(out.glob(pattern)):
            assert process.poll() is None, f"it ended before there was {pattern}"
            assert time.monotonic() < until, f"no {pattern}"
            time.sleep(0.002)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
        return process.returncode, err
    finally:
        process.kill()
        process.wait()


def contents(out: Path) -> dict[str, bytes]:
    paths = [path for name in FOLDERS for path in (out / name).rglob("*") if path.is_file()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def partial(out: Path) -> list[str]:
    return [path.name for path in out.glob(".*") if path.suffix != ".lock"]


@pytest.mark.slow
def test_an_artifact_says_how_it_was_made(capsys, unbroken: Path) -> None:
    text = (unbroken / "artifact" / "manifest.json").read_text()
    manifest = json.loads(text)
    assert set(manifest["provenance"]) == {"quantize", "baseline"}
    assert manifest["provenance"]["quantize"]["inputs"].keys() == {"source", "calibration"}
    assert manifest["provenance"]["quantize"]["section"]["quantize"]["scheme"] == "w8a8-static"
    assert manifest["result"]["parity"]
    assert manifest["provenance"]["baseline"]["result"]["parity"]
    assert str(unbroken.parent) not in text
    assert run(capsys, "verify", unbroken / "artifact")[0] == 0


@pytest.mark.slow
def test_a_run_ends_with_a_report_and_a_second_one_keeps_all(capsys, monkeypatch, recipe, unbroken: Path) -> None:
    def measure(variants: list[Any], records: list[Any], section: Any, out: Path, **options: Any) -> None:
        """What bench is asked for; the measuring itself is tests/bench's matter."""
        options["progress"]("timing", 1, 1)
        options["say"]("at most 2x possible")
        asked = {
            "variants": [(variant.name, variant.folder.name, variant.engine) for variant in variants],
            "counts": [len(records), section.limit, options["gates"].score],
            "command": options["command"],
        }
        judgement: dict[str, Any] = {"verdict": "FAIL" if section.limit == 8 else "PASS", "checks": []}
        (out / "bench.json").write_text(json.dumps(made_report() | {"judgement": judgement, "asked": asked}))
        (out / "index.html").touch()
        (out / "bench.md").write_text("**PASS**: it holds.\n\n### Tables\n")

    monkeypatch.setattr("bench.run.run", measure)
    before = contents(unbroken)
    runs = []
    for _ in range(2):
        code, out, err = run(capsys, "run", recipe, "-o", unbroken, "--set", "bench.limit=7", "--json")
        assert code == 0, err
        runs.append(json.loads(out))
    names = ("quantize", "baseline", "convert", "bench")
    kept = [[(stage["stage"], stage["kept"]) for stage in made["stages"]] for made in runs]
    assert kept[0] == [(name, name != "bench") for name in names]
    assert kept[1] == [(name, True) for name in names]
    assert runs[1]["artifact"] == str(unbroken / "artifact")
    assert runs[1]["report"] == str(unbroken / "report" / "index.html")
    assert contents(unbroken) == before
    report = json.loads((unbroken / "report" / "bench.json").read_text())
    assert report["asked"]["variants"] == [
        ["original", "qwen3_vl", "transformers"],
        ["w8a8-static", "quantized", "transformers"],
        ["onnx", "onnx-baseline", "onnxruntime"],
        ["onnx-w8a8-static", "artifact", "onnxruntime"],
    ]
    assert report["asked"]["counts"] == [1600, 7, 0.03]
    assert report["asked"]["command"] == "shipvlm run small.yaml --set bench.limit=7"
    log = [json.loads(line) for line in (unbroken / "log.jsonl").read_text().splitlines()]
    assert [entry["kept"] for entry in log[-4:]] == [True] * 4
    code, out, _ = run(capsys, "run", recipe, "-o", unbroken, "--set", "bench.limit=7")
    assert f"report: {unbroken / 'report' / 'index.html'}" in out
    assert "**PASS**: it holds.\n" in out
    assert "Tables" not in out
    for _ in range(2):  # made, then kept: it still does not pass
        code, out, err = run(capsys, "run", recipe, "-o", unbroken, "--set", "bench.limit=8", "--json")
        assert code == 1
        assert "onnx-w8a8-static does not hold what is asked of it" in err
        assert json.loads(out)["report"] == str(unbroken / "report" / "index.html")


@pytest.mark.slow
def test_killed_within_each_stage_and_run_again_it_gives_the_same_bytes(
    recipe: Path, unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for folder in (*FOLDERS, "report"):
        code, _ = stop_when(f".{folder}*.partial/*", out, signal.SIGKILL, recipe)  # it has begun to write
        assert code == -signal.SIGKILL
        assert not (out / folder).exists()
        assert len(partial(out)) == 1
    done = finished(recipe, out, "--until", "convert", "--json")
    assert done.returncode == 0, done.stderr
    assert all(stage["kept"] for stage in json.loads(done.stdout)["stages"])
    assert contents(out) == contents(unbroken)


@pytest.mark.slow
def test_stopped_by_hand_it_says_how_to_go_on(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, err = stop_when(".quantized.*.partial", out, signal.SIGINT, recipe)
    assert code == 130, err
    assert "the same command goes on from there" in err.splitlines()[-1]
    assert partial(out) == []
    assert not (out / "quantized").exists()
    assert "KeyboardInterrupt" in (out / "log.jsonl").read_text()


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(capsys, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(command("run", recipe, "-o", out), cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        while not list(out.glob(".quantized.*.partial")):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGSTOP)
        code, _, err = run(capsys, "run", recipe, "-o", out)
        assert (code, "another shipvlm is writing there" in err) == (2, True)
    finally:
        process.kill()
        process.communicate()


def test_a_changed_recipe_makes_only_what_follows_anew(capsys, recipe: Path, tmp_path: Path) -> None:
    def stages(*settings: str) -> list[Any]:
        options = [part for setting in settings for part in ("--set", setting)]
        code, out, err = run(capsys, "run", recipe, "-o", tmp_path / "out", "--until", "quantize", *options, "--json")
        assert code == 0, err
        return [(stage["stage"], stage["kept"]) for stage in json.loads(out)["stages"]]

    assert stages() == [("quantize", False)]
    assert stages("bench.limit=3", "convert.parity.items=1") == [("quantize", True)]
    assert stages("calibration.samples=4") == [("quantize", False)]
    assert stages("calibration.samples=4", "quantize.observer=mse") == [("quantize", False)]


def test_plan_prints_and_run_refuses_the_same_problems(capsys, recipe: Path, tmp_path: Path) -> None:
    code, out, err = run(capsys, "plan", recipe, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert f"{tmp_path / 'out' / 'artifact'}: graphs, w8a8-static fp32" in out
    assert "fast        onnxruntime on cpu" in out
    bad = ("--set", "target.device=hopper", "--set", "calibration.data=calibraton")
    code, out, err = run(capsys, "plan", recipe, *bad, "--json")
    assert code == 2
    stops = [problem["where"] for problem in json.loads(out)["problems"] if problem["stops"]]
    assert stops == ["quantize.scheme", "calibration.data"]
    assert all(where in err for where in stops)
    code, out, refused = run(capsys, "run", recipe, "-o", tmp_path / "out", *bad)
    assert (code, out, refused) == (2, "", err)
    assert not (tmp_path / "out").exists()


def test_a_stage_that_fails_is_in_the_log(capsys, monkeypatch, recipe: Path, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("quantize.stage.run", fail)
    code, _, err = run(capsys, "run", recipe, "-o", tmp_path / "out")
    assert (code, "no luck" in err) == (4, True)
    [entry] = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert (entry["stage"], entry["error"]) == ("quantize", "RuntimeError: no luck")
    assert partial(tmp_path / "out") == []
