"""shipvlm bench: one small run from folders to a report, and what can be said of results that are there."""

import json
from pathlib import Path

import pytest

from bench import plan, report
from convert.export import export_graphs
from shipvlm.artifact import MANIFEST, write_manifest
from tests.bench.made_run import made_report, made_run, write_run
from tests.shipvlm.commands import pack, run

FEW = ("measure=[accuracy]", "max_new_tokens=4")


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result as `bench run` leaves it."""
    made, lines, data = made_run(80)
    write_run(tmp_path / "result", made, lines)
    report.rebuild(tmp_path / "result", data)
    write_manifest(tmp_path / "result", {"stage": "bench"})
    return tmp_path / "result"


@pytest.mark.slow
def test_run_compares_with_the_first(capsys, tiny_checkpoint: Path, pictures, tmp_path: Path) -> None:
    pack(capsys, pictures, tmp_path / "mine.parquet")
    export_graphs(tiny_checkpoint, tmp_path / "graphs", "fp32")  # no manifest: nothing says how they were made
    settings = [part for name in FEW for part in ("--set", f"bench.{name}")]
    arguments = (
        "bench",
        "run",
        tiny_checkpoint,
        tmp_path / "graphs",
        "--data",
        tmp_path / "mine.parquet",
        "--limit",
        2,
        *settings,
    )
    code, out, err = run(capsys, *arguments, "-o", tmp_path / "report", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((tmp_path / "report" / "bench.json").read_text())
    assert (found["baseline"], found["candidate"]) == ("qwen3_vl", "graphs")
    assert list(found["variants"]) == ["qwen3_vl", "graphs", "null"]
    assert found["judgement"]["verdict"] == "INCONCLUSIVE"  # two items
    code, out, _ = run(capsys, *arguments, "-o", tmp_path / "report")
    assert code == 0
    assert out.startswith("**INCONCLUSIVE**")
    assert str(tmp_path / "report" / "index.html") in out
    assert str(tmp_path) not in (tmp_path / "report" / "index.html").read_text()


def test_run_refuses_two_of_one_name(capsys, tiny_checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = run(capsys, "bench", "run", tiny_checkpoint, tiny_checkpoint, "-o", tmp_path / "report")
    assert (code, "'qwen3_vl'" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shape", "qwen3-vl-3b"), "choose one of qwen3-vl-2b"),
        (("shape", "qwen3-vl-2b", "--layers", "99"), "has 28"),
        (("run", "nowhere"), "-o"),
        (("report", "nowhere"), "holds no result"),
        (("gate", "nowhere"), "nowhere: holds no result"),
        (("compare", "nowhere", "nowhere"), "nowhere: holds no result"),
        (("sweep", "nowhere", "--levels", "1,x"), "numbers with commas"),
        (("check", "nowhere"), "nowhere"),
    ],
)
def test_what_is_wrong_is_said(capsys, arguments, message: str) -> None:
    code, out, err = run(capsys, "bench", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_report_writes_the_same_again(capsys, result: Path) -> None:
    before = {name: (result / name).read_bytes() for name in ("bench.json", "bench.md", "index.html")}
    for name in ("bench.md", "index.html"):
        (result / name).write_text("old")
    code, _, err = run(capsys, "bench", "report", result)
    assert (code, "changed" in err) == (1, True)  # it was not that result
    write_manifest(result, {"stage": "bench"})
    code, out, _ = run(capsys, "bench", "report", result)
    assert code == 0
    assert out.startswith("**")
    assert {name: (result / name).read_bytes() for name in before} == before
    code, out, _ = run(capsys, "bench", "report", result, "--raw")
    assert code == 0
    assert json.loads((result / "bench.json").read_text())["variants"] == json.loads(before["bench.json"])["variants"]
    assert run(capsys, "verify", result)[0] == 0
    assert json.loads((result / MANIFEST).read_text())["stage"] == "bench"


def test_report_of_a_run_that_was_cut_off(capsys, tmp_path: Path) -> None:
    made, lines, _ = made_run(80)
    write_run(tmp_path / ".mine.partial", made, {**lines, "null": lines["null"][:30]})
    code, out, err = run(capsys, "bench", "report", tmp_path / "mine")
    assert code == 0, err
    assert "Not complete: " in out
    assert (tmp_path / ".mine.partial" / "index.html").is_file()


def test_a_run_that_was_cut_off_is_judged_and_compared(capsys, result: Path, tmp_path: Path) -> None:
    made, lines, _ = made_run(80)
    write_run(tmp_path / ".cut.partial", made, {**lines, "onnx-w8a8-static": lines["onnx-w8a8-static"][:-30]})
    code, out, err = run(capsys, "bench", "gate", tmp_path / "cut", "--set", "gates.score=0.1")
    assert (code, out.startswith("**INCONCLUSIVE**")) == (1, True)
    assert "Not complete: " in out
    assert err.endswith("The run was cut off: give its command again, and it goes on.\n")
    assert run(capsys, "bench", "gate", tmp_path / "cut", "--set", "gates.size=0.9")[0] == 0
    code, out, err = run(capsys, "bench", "compare", result, tmp_path / "cut")
    assert code == 0, err
    assert f"{tmp_path / 'cut'} is not complete: " in " ".join(out.split())
    code, _, err = run(capsys, "bench", "compare", result, "nothere")
    assert (code, err.startswith("error: nothere: holds no result")) == (2, True)


def test_nothing_is_judged_where_nothing_was_compared(capsys, tmp_path: Path) -> None:
    made, lines, data = made_run(80)
    names = ("original", "null")
    alone = made.model_copy(update={"variants": {name: made.variants[name] for name in names}})
    write_run(tmp_path / "b1", alone, {name: lines[name] for name in names})
    assert report.rebuild(tmp_path / "b1", data)["judgement"] is None
    for options in ((), ("--set", "gates.size=1.5"), ("--json",)):
        code, out, err = run(capsys, "bench", "gate", tmp_path / "b1", *options)
        assert (code, out) == (2, "")
        assert "nothing was compared, original is the only folder that was measured" in err
        assert "shipvlm bench run original CANDIDATE -o OUT" in err


def test_a_committed_result_is_read_as_it_is(capsys, result: Path, tmp_path: Path) -> None:
    """Without what answers are held to; and without its manifest and page."""
    references = plan.references(result)
    references.write_bytes(b"large")
    write_manifest(result, {"stage": "bench"})
    references.unlink()
    code, _, err = run(capsys, "bench", "report", result, "--raw")
    assert code == 0, err
    assert run(capsys, "verify", result)[0] == 0
    references.write_bytes(b"of something else")
    assert run(capsys, "bench", "report", result)[0] == 1
    references.unlink()
    for name in (MANIFEST, "index.html"):
        (result / name).unlink()
    for arguments in (("report", result), ("report", result, "--raw"), ("compare", result, result)):
        assert run(capsys, "bench", *arguments)[0] == 0
    assert run(capsys, "bench", "gate", result, "--set", "gates.size=0.9")[0] == 0


def test_a_result_that_is_not_whole_is_bad_input(capsys, result: Path) -> None:
    found = json.loads((result / "bench.json").read_text())
    (result / "bench.json").write_text(json.dumps({name: found[name] for name in found if name != "gates"}))
    code, _, err = run(capsys, "bench", "gate", result)
    assert (code, "is no whole report, it lacks gates" in err) == (2, True)
    (result / "bench.json").write_text(json.dumps(found | {"gates": {"speed": 2}}))
    code, _, err = run(capsys, "bench", "gate", result)
    assert (code, "gates.speed" in err) == (2, True)


@pytest.mark.parametrize(
    ("settings", "code", "word"),
    [
        (("gates.size=0.9", "gates.ttft=1.5"), 0, "**PASS**"),
        (("gates.size=0.8",), 1, "**FAIL**"),
        (("gates.score=0.01",), 1, "**INCONCLUSIVE**"),
    ],
)
def test_gate_exits_with_1_unless_it_passes(capsys, result: Path, settings, code: int, word: str) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    found, out, err = run(capsys, "bench", "gate", result, *options)
    assert found == code, err
    assert out.startswith(word)
    found, out, _ = run(capsys, "bench", "gate", result / "bench.json", *options, "--json")
    assert found == code
    assert len(json.loads(out)["checks"]) == len(settings)


def test_gate_asks_what_a_recipe_says_or_the_run_did(capsys, result: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: mine\nmodel: {path: nowhere}\ngates: {score: null, memory: 0.5}\n")
    assert run(capsys, "bench", "gate", result, "--recipe", recipe)[0] == 0
    assert "score all" in run(capsys, "bench", "gate", result)[1]
    code, _, err = run(capsys, "bench", "gate", result, "--set", "gates.score=null")
    assert (code, "no gate is set" in err) == (2, True)
    code, _, err = run(capsys, "bench", "gate", result, "--set", "bench.limit=3")
    assert (code, "only gates are asked here" in err) == (2, True)


def test_compare_prints_a_table_or_json(capsys, result: Path) -> None:
    code, out, err = run(capsys, "bench", "compare", result, result, "--variant", "original", "--variant", "onnx")
    assert code == 0, err
    assert out.splitlines()[0].split("|")[2].strip() == "original"
    found = json.loads(run(capsys, "bench", "compare", result, result, "--json")[1])
    assert found["difference"]["all"]["value"] == 0
    assert run(capsys, "bench", "compare", result, result, *(["--variant", "onnx"] * 3))[0] == 2


def test_check_says_what_would_be_measured(
    capsys, monkeypatch, tiny_checkpoint: Path, pictures, tmp_path: Path
) -> None:
    pack(capsys, pictures, tmp_path / "mine.parquet")
    limits = made_report()["limits"]
    known = limits["vqa-small"]["variants"]
    known["qwen3_vl"] = known["original"]
    monkeypatch.setattr("bench.check.measure_limits", lambda *_: limits)
    code, out, err = run(
        capsys, "bench", "check", tiny_checkpoint, "--data", tmp_path / "mine.parquet", "--set", "bench.blocks=3"
    )
    assert code == 0, err
    assert "variants: qwen3_vl, null" in out
    assert "at most 1.43x possible" in out
    assert "note: bench.blocks is 3: with fewer than 5 every time is AMBIGUOUS" in out
    assert "no margin can be decided" in out


def test_a_command_that_is_shown_runs_where_it_was_typed_and_names_no_machine(monkeypatch, tmp_path: Path) -> None:
    from shipvlm.cli.bench import shown

    monkeypatch.chdir(tmp_path)
    assert shown(Path("a/b")) == "a/b"
    assert shown(tmp_path / "a" / "b") == "a/b"
    assert shown(tmp_path.parent / "elsewhere" / "b") == ".../b"
