"""What a run is to measure: variants, keys, what is missing."""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from bench import environment, plan
from bench.observations import Answered, Conditions, Ended, Line, Memory, Timed
from bench.plan import Missing, missing, sample, spread
from bench.variants import Variant, variants_of
from quantize.stage import run as quantize
from shipvlm.errors import InputError
from shipvlm.recipe import BenchSection, GateSection, QuantizeSection
from tests.bench.made_records import records

DATA = records(24)
SECTION = BenchSection(limit=3, latency_items=2, repeats=2, blocks=2, workloads=("vqa-small", "batch8"))
MEMORY = Memory(rss=1, anon=1, file=1, peak_rss=1, peak_anon=1, peak_file=1)


@pytest.fixture(scope="module")
def folders(tiny_checkpoint, tiny_graphs, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("folders")
    (folder / "quantized").mkdir()
    quantize(tiny_checkpoint, QuantizeSection(scheme="w8a16"), None, folder / "quantized", lambda *_: None)
    return {"base": tiny_checkpoint, "graphs": tiny_graphs, "quantized": folder / "quantized"}


@pytest.fixture(scope="module")
def given(folders) -> list[Variant]:
    return [Variant.of(name, folder) for name, folder in folders.items()]


def made(given, section=SECTION, data=DATA, **change) -> plan.Plan:
    scored = sample(data, section.limit)
    timed = change.get("timed", scored[:4])
    return plan.make(variants_of(given, section), scored, timed, section, GateSection(), "shipvlm bench x")


def test_a_variant_is_what_lies_in_its_folder(given, tmp_path):
    assert [each.engine for each in given] == ["transformers", "onnxruntime", "transformers"]
    assert [each.timed for each in given] == [True, True, False]  # nobody serves simulated integers
    with pytest.raises(InputError, match=r"no config\.json"):
        Variant.of("nothing", tmp_path)


def test_the_null_is_always_there_and_forms_of_the_baseline_on_request(given):
    assert [each.name for each in variants_of(given, SECTION)] == ["base", "graphs", "quantized", "null"]
    more = variants_of(given[:1], BenchSection(variants=("compile", "bnb-nf4", "fp16")))
    assert [(each.name, each.engine, each.dtype, each.timed) for each in more] == [
        ("base", "transformers", None, True),
        ("compile", "compile", None, True),
        ("bnb-nf4", "bnb-nf4", None, True),
        ("fp16", "transformers", "float16", False),  # for scores and fidelity: on a CPU it is not made to be fast
        ("null", "transformers", None, True),
    ]
    on_gpu = [Variant.of("base", given[0].folder, "cuda")]
    assert variants_of(on_gpu, BenchSection(variants=("fp16",)))[1].timed


@pytest.mark.parametrize(
    ("order", "change", "message"),
    [
        ([], {}, "at least one variant"),
        (["graphs"], {"variants": ("compile",)}, "compile is a form of a checkpoint"),
        (["base"], {"variants": ("fp32",)}, "fp32 is what the baseline computes in"),
        (["base", "base"], {}, "two variants are named 'base'"),
        (["quantized", "base"], {}, "the baseline is a quantized checkpoint"),
    ],
)
def test_variants_that_cannot_be_measured_are_refused(given, order, change, message):
    by_name = {each.name: each for each in given}
    with pytest.raises(InputError, match=message):
        variants_of([by_name[name] for name in order], SECTION.model_copy(update=change))


@pytest.mark.parametrize("name", ["a b", "../x", ".hidden", "", "null", "fp16", "compile"])
def test_names_that_cannot_be_files_or_are_taken_are_refused(given, name):
    with pytest.raises(InputError, match=r"cannot be named|the name of a form of the baseline; rename"):
        variants_of([Variant.of(name, given[0].folder)], SECTION)


def test_a_plan_is_found_again_and_names_no_folder(given, tmp_path):
    made_plan = made(given)
    assert plan.write(tmp_path, made_plan) is False
    assert plan.write(tmp_path, made_plan) is True
    assert plan.read(tmp_path) == made_plan
    assert str(tmp_path.parent) not in (tmp_path / "plan.json").read_text()
    assert [item.id for item in made_plan.items] == [record.id for record in sample(DATA, 3)]
    (tmp_path / "plan.json").write_text(json.dumps({"baseline": "x"}))
    with pytest.raises(InputError, match="holds no run of this version"):
        plan.read(tmp_path)


@pytest.mark.parametrize(("measure", "count"), [(("timing",), 0), (("timing", "accuracy"), 12)])
def test_items_are_those_that_are_answered(given, measure, count):
    assert len(made(given, SECTION.model_copy(update={"measure": measure})).items) == count


def keys(given, section=SECTION, **change) -> dict[tuple[str, str], str]:
    return {
        (name, phase): key
        for name, each in made(given, section, **change).variants.items()
        for phase, key in each.keys.items()
    }


def test_every_variant_and_phase_has_a_key_of_its_own(given):
    found = keys(given)
    assert len(set(found.values())) == len(found) == 8


@pytest.mark.parametrize(
    ("change", "phases"),
    [
        ({"threads": 1}, {"timing", "accuracy"}),
        ({"max_new_tokens": 7}, {"accuracy"}),
        ({"batch_size": 2}, {"accuracy"}),
        ({"limit": 2}, {"accuracy"}),
        ({"workloads": ("vqa-small",)}, {"timing"}),
        ({"repeats": 9}, {"timing"}),
        ({"warmup": 9}, {"timing"}),
        ({"latency_items": 9}, {"timing"}),
        ({"blocks": 9}, set()),  # more of the same
        ({"measure": ("timing",)}, set()),
    ],
)
def test_a_key_is_of_what_decides_its_lines_and_of_nothing_else(given, change, phases):
    before, timed = keys(given), sample(DATA, 3)[:4]
    after = keys(given, SECTION.model_copy(update=change), timed=timed)
    assert {phase for (name, phase), key in after.items() if key != before[name, phase]} == phases


def test_other_libraries_or_code_are_another_key(given, monkeypatch):
    before = keys(given)
    with monkeypatch.context() as patch:
        patch.setattr(plan, "libraries", lambda names: {"torch": "0"})
        assert not set(keys(given).values()) & set(before.values())
    monkeypatch.setattr(plan, "code_digest", lambda modules: "other" if modules is plan.TIMES else "same")
    other = keys(given)
    monkeypatch.setattr(plan, "code_digest", lambda modules: "same")
    again = keys(given)
    assert {phase for (name, phase), key in other.items() if key != again[name, phase]} == {"timing"}


def ended(run: str, name: str, phase: Any, block: int, attempt: int = 0) -> Ended:
    return Ended(
        run=run,
        variant=name,
        phase=phase,
        block=block,
        attempt=attempt,
        clean=False,
        conditions=Conditions(seconds=1),
        memory=MEMORY,
    )


def test_what_is_missing_is_each_block_that_did_not_end(given):
    made_plan = made(given)
    lines: dict[str, list[Line]] = {name: [] for name in made_plan.variants}
    assert len(missing(made_plan, lines)) == 3 * 2 + 4
    lines["base"] = [ended("r", "base", "timing", 0), ended("r", "base", "accuracy", 0)]
    lines["graphs"] = [answered("graphs", DATA[0].id), answered("graphs", DATA[0].id), answered("graphs", DATA[4].id)]
    found = missing(made_plan, lines)
    assert Missing(variant="base", phase="timing", block=1, done=0, wanted=8) in found
    assert Missing(variant="graphs", phase="accuracy", block=0, done=2, wanted=12) in found
    assert [each.phase for each in found if each.variant == "base"] == ["timing"]
    assert [each.phase for each in found if each.variant == "quantized"] == ["accuracy"]
    assert [each.wanted for each in found if (each.variant, each.phase) == ("null", "accuracy")] == [3]
    only = made_plan.model_copy(update={"phases": ("accuracy",)})
    assert {each.phase for each in missing(only, lines)} == {"accuracy"}


def answered(name: str, item: str) -> Answered:
    return Answered(
        run="r",
        variant=name,
        phase="accuracy",
        block=0,
        id=item,
        task="vqa",
        source="s",
        prompt_sha256="p",
        image_sha256="i",
        output="x",
        token_ids=(1,),
        finish="end",
        score=1.0,
        parsed="ok",
        wall=0.1,
    )


def test_only_lines_of_the_plan_are_its_lines(given, tmp_path):
    made_plan = made(given)
    key = made_plan.variants["base"].keys["timing"]
    path = plan.log(tmp_path, "base")
    for run in (key, "another"):
        plan.observations.append(path, [ended(run, "base", "timing", 0)])
    assert [line.run for line in plan.lines(tmp_path, made_plan)["base"]] == [key]
    assert plan.lines(tmp_path, made_plan)["graphs"] == []
    assert not any(isinstance(line, Timed) for line in plan.lines(tmp_path, made_plan)["base"])


def test_a_sample_is_of_each_task_and_evenly_spaced():
    assert sample(DATA, None) == DATA
    found = sample(DATA, 2)
    assert [record.task for record in found] == ["caption"] * 2 + ["consistency"] * 2 + ["ocr"] * 2 + ["vqa"] * 2
    assert len(sample(DATA, 100)) == 24
    assert [int(record.id[-4:]) for record in spread(DATA, 4)] == [0, 6, 12, 18]
    assert spread(DATA, 100) == DATA
    with pytest.raises(InputError, match="no records"):
        sample([], 3)
    with pytest.raises(InputError, match="at least 1"):
        sample(DATA, 0)


def test_of_two_packages_of_onnx_runtime_the_one_that_runs_is_told(monkeypatch):
    runs = onnxruntime.__version__
    both = {"torch": "0", "onnxruntime": "1.0", "onnxruntime-gpu": runs}
    monkeypatch.setattr(environment, "libraries", lambda names: both)
    monkeypatch.setattr(environment.nvml, "names", list)
    assert environment.stack() == {"torch": "0", "onnxruntime-gpu": runs}
