"""A whole run: who is measured in which order, what is kept, what a second run does again."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from bench import process, worker
from bench.observations import Answered, Forced, Job, Loaded, Packed
from bench.run import Variant, run
from convert.export import export_graphs
from quantize.rtn import round_to_nearest
from shipvlm.errors import ExecutionError, InputError
from shipvlm.recipe import BenchSection
from shipvlm.runtime.checkpoint import load
from shipvlm.runtime.generate import generate
from shipvlm.runtime.sampling import Sampling
from tests.bench.made_records import records

DATA = records(24)
SECTION = BenchSection(
    data="made",
    limit=3,
    batch_size=5,
    max_new_tokens=6,
    latency_items=4,
    latency_tokens=3,
    warmup=1,
    repeats=2,
    blocks=2,
)
PER_BLOCK, SCORED = 8, 12


@pytest.fixture(scope="module")
def variants(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    export_graphs(tiny_checkpoint, folder / "graphs", "fp32")
    coarse = load(tiny_checkpoint)
    round_to_nearest(coarse.model, 2, None)
    shutil.copytree(tiny_checkpoint, folder / "coarse")
    coarse.model.save_pretrained(folder / "coarse")
    return [
        Variant.of("base", tiny_checkpoint),
        Variant.of("onnx", folder / "graphs"),
        Variant.of("coarse", folder / "coarse"),
    ]


class Workers:
    """Measures in this process in place of a fresh one, and remembers the jobs."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def measure(self, job: Job):
        self.jobs.append(job)
        yield from worker.measure(Job.model_validate_json(job.model_dump_json()))


@pytest.fixture
def workers(monkeypatch):
    workers = Workers()
    monkeypatch.setattr(process, "measure", workers.measure)
    return workers


@pytest.fixture(scope="module")
def finished(variants, tmp_path_factory):
    """A run of all variants: its report, its folder, its jobs and what it said on the way."""
    out, workers, said = tmp_path_factory.mktemp("run") / "report", Workers(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "measure", workers.measure)
        report = run(variants, DATA, SECTION, out, command="shipvlm bench x", progress=lambda *a: said.append(a))
    return report, out, workers.jobs, said


def lines(out: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (out / "observations" / f"{name}.jsonl").read_text().splitlines()]


def test_a_variant_is_what_lies_in_its_folder(variants, tmp_path):
    assert [variant.runtime for variant in variants] == ["transformers", "onnxruntime", "transformers"]
    with pytest.raises(InputError, match=r"no config\.json"):
        Variant.of("nothing", tmp_path)


def test_blocks_go_there_and_back_and_accuracy_comes_last(finished):
    _, _, jobs, _ = finished
    timing = [job.variant for job in jobs if job.phase == "timing"]
    assert timing == ["base", "onnx", "coarse", "coarse", "onnx", "base"]
    assert [(job.variant, job.phase) for job in jobs[6:]] == [(name, "accuracy") for name in ("base", "onnx", "coarse")]


def test_every_observation_is_kept_raw(finished):
    report, out, _, _ = finished
    for name in report["variants"]:
        found = lines(out, name)
        assert sum(line["kind"] == "loaded" for line in found) == 3
        timing = [line for line in found if line.get("phase") == "timing" and line["kind"] == "answered"]
        assert len(timing) == 2 * PER_BLOCK
        assert {len(line["stages"]["decode"]) for line in timing} == {SECTION.latency_tokens - 1}
        assert {len(line["token_ids"]) for line in timing} == {SECTION.latency_tokens}
        for line in timing:
            parts = line["stages"]
            spent = parts["preprocess"] + parts["vision"] + parts["prefill"] + sum(parts["decode"])
            assert 0 < spent <= line["wall"]
        scored = [line for line in found if line["kind"] == "answered" and line["phase"] == "accuracy"]
        assert len({line["id"] for line in scored}) == SCORED
        assert {line["image_sha256"] for line in scored} <= {
            line["image_sha256"] for line in lines(out, "base") if "id" in line
        }


def test_answers_are_those_of_generate(finished, tiny_checkpoint):
    _, out, _, _ = finished
    said = {line["id"]: line for line in lines(out, "base") if line.get("phase") == "accuracy" and "id" in line}
    chosen = [record for record in DATA if record.id in said]
    wanted = generate(load(tiny_checkpoint), [worker.ask(record) for record in chosen], Sampling(6), batch_size=1)
    assert [(said[r.id]["output"], said[r.id]["token_ids"]) for r in chosen] == [(a.text, a.token_ids) for a in wanted]


def test_the_same_weights_agree_and_coarse_ones_do_not(finished):
    report, _, _, _ = finished
    assert report["variants"]["base"]["top1_agreement"] is None
    assert report["variants"]["onnx"]["top1_agreement"]["value"] == 1
    assert report["variants"]["onnx"]["difference"]["all"]["value"] == 0
    assert report["variants"]["coarse"]["top1_agreement"]["value"] < 1


def test_what_is_written_is_what_is_returned(finished):
    report, out, _, _ = finished
    assert json.loads((out / "bench.json").read_text()) == report
    assert sorted(path.name for path in out.iterdir()) == ["bench.json", "bench.md", "index.html", "observations"]
    assert "shipvlm bench x" in (out / "index.html").read_text()
    assert report["data"]["records"] == SCORED
    assert report["timed_requests"] == 4
    for path in (out / "bench.json", out / "bench.md", out / "index.html", *(out / "observations").iterdir()):
        assert str(out.parent) not in path.read_text()
        assert f'"{socket.gethostname()}"' not in path.read_text()


def test_progress_counts_answers(finished):
    _, _, jobs, said = finished
    assert len({title for title, _, _ in said}) == len(jobs)
    assert said[0] == ("base: timing 1", 0, PER_BLOCK)
    assert said[-1] == ("coarse: accuracy", SCORED, SCORED)


def test_a_second_run_measures_nothing(finished, variants, workers):
    report, out, _, _ = finished
    again = run(variants, DATA, SECTION, out, command="shipvlm bench x")
    assert workers.jobs == []
    assert again == report


def test_a_run_that_was_killed_goes_on_from_its_lines(finished, variants, workers, tmp_path):
    report, done, _, _ = finished
    out = shutil.copytree(done, tmp_path / "report")
    log = out / "observations" / "onnx.jsonl"
    whole = log.read_text().splitlines(keepends=True)
    kept = 1 + PER_BLOCK + 1 + 3  # its first block, and of its second the start
    log.write_text("".join(whole[:kept]) + whole[kept][:40])
    again = run(variants, DATA, SECTION, out, command="shipvlm bench x")
    assert [(job.variant, job.phase, job.block) for job in workers.jobs] == [
        ("onnx", "timing", 1),
        ("onnx", "accuracy", 0),
    ]
    assert len(workers.jobs[0].done) == 3
    found = lines(out, "onnx")
    assert found[:kept] == [json.loads(line) for line in whole[:kept]]
    assert sum(line["kind"] == "answered" for line in found) == 2 * PER_BLOCK + SCORED
    for name in ("score", "difference", "top1_agreement"):
        assert again["variants"]["onnx"][name] == report["variants"]["onnx"][name]


def test_more_repeats_add_to_what_is_there(finished, variants, workers, tmp_path):
    report, done, _, _ = finished
    out = shutil.copytree(done, tmp_path / "report")
    run(variants[:1], DATA, SECTION.model_copy(update={"repeats": 3}), out)
    assert [(job.phase, job.block, len(job.done)) for job in workers.jobs] == [
        ("timing", 0, PER_BLOCK),
        ("timing", 1, PER_BLOCK),
    ]
    fewer = run(variants[:1], DATA, SECTION, out)
    assert fewer["variants"]["base"]["latency"] == report["variants"]["base"]["latency"]


def test_answers_are_reused_only_where_the_same_records_share_the_batches(finished, variants, workers, tmp_path):
    report, done, _, _ = finished
    out = shutil.copytree(done, tmp_path / "report")
    found = run(variants[:1], DATA, SECTION.model_copy(update={"limit": None}), out)
    assert found["data"]["records"] == len(DATA)
    [accuracy] = [job for job in workers.jobs if job.phase == "accuracy"]
    assert accuracy.done == frozenset()
    assert sum(len(job.done) for job in workers.jobs if job.phase == "timing") > 0  # asked alone: no batch to share
    again = run(variants[:1], DATA, SECTION.model_copy(update={"limit": None}), out)
    for name in ("load_seconds", "latency"):  # timing and accuracy of all records read each line once
        assert again["variants"]["base"][name] == found["variants"]["base"][name]
    workers.jobs.clear()
    fewer = run(variants[:1], DATA, SECTION, out)
    assert workers.jobs == []
    assert fewer["variants"]["base"]["score"] == report["variants"]["base"]["score"]
    run(variants[:1], DATA, SECTION.model_copy(update={"limit": len(DATA)}), out)  # no record more than with null
    assert [job for job in workers.jobs if job.phase == "accuracy"] == []


@pytest.mark.parametrize("change", [{"max_new_tokens": 7}, {"batch_size": 2}, {"threads": 1}, {"latency_tokens": 4}])
def test_other_settings_are_another_run(finished, variants, workers, tmp_path, change):
    out = shutil.copytree(finished[1], tmp_path / "report")
    run(variants[:1], DATA, SECTION.model_copy(update=change), out)
    assert [len(job.done) for job in workers.jobs] == [0, 0, 0]


def test_lines_of_other_code_are_another_run(finished, variants, workers, monkeypatch, tmp_path):
    out = shutil.copytree(finished[1], tmp_path / "report")
    monkeypatch.setattr("bench.run.code_digest", lambda modules: "edited")
    run(variants[:1], DATA, SECTION, out)
    assert [len(job.done) for job in workers.jobs] == [0, 0, 0]


def test_a_worker_that_stops_early_is_an_error(variants, monkeypatch, tmp_path):
    monkeypatch.setattr(process, "measure", lambda job: list(worker.measure(job))[:-1])
    with pytest.raises(ExecutionError, match="1 answers are missing"):
        run(variants[:1], DATA, SECTION, tmp_path / "report")


def test_refuses_names_and_data_that_cannot_be_used(variants, tmp_path):
    base = variants[0]
    for names, message in (
        (["a", "a"], "two variants"),
        (["../a"], "cannot be named"),
        ([""], "named"),
        ([], "at least one"),
    ):
        with pytest.raises(InputError, match=message):
            run([Variant(name, base.folder, "transformers") for name in names], DATA, SECTION, tmp_path / "report")
    with pytest.raises(InputError, match="no records"):
        run([base], [], SECTION, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def job(folder: Path, **fields) -> Job:
    packed = tuple(Packed(**dict(record)) for record in DATA[:6])
    common: dict[str, Any] = {
        "run": "r",
        "variant": "v",
        "folder": folder,
        "device": "cpu",
        "block": 0,
        "threads": None,
    }
    settings = {"phase": "accuracy", "threads": None, "max_new_tokens": 5, "batch_size": 4, "records": packed}
    return Job(**common | settings | fields)


def test_a_model_agrees_with_its_own_answers_to_their_end(tiny_checkpoint):
    first = [line for line in worker.measure(job(tiny_checkpoint)) if isinstance(line, Answered)]
    forced = {line.id: Forced(token_ids=line.token_ids, ended=line.finish == "end") for line in first}
    again = [line for line in worker.measure(job(tiny_checkpoint, forced=forced)) if isinstance(line, Answered)]
    for line in again:
        ended = line.finish == "end"
        assert line.compared == line.agreed == len(line.token_ids) + ended
    assert all(line.compared is None for line in first)
    other = {
        key: Forced(token_ids=tuple(token + 1 for token in value.token_ids), ended=False)
        for key, value in forced.items()
    }
    off = [line for line in worker.measure(job(tiny_checkpoint, forced=other)) if isinstance(line, Answered)]
    assert sum(line.agreed or 0 for line in off) < sum(line.compared or 0 for line in off) / 2


def test_memory_is_seen_as_it_is_taken(tiny_checkpoint):
    loaded, *answers = worker.measure(job(tiny_checkpoint))
    assert isinstance(loaded, Loaded)
    assert 1e7 < loaded.rss_before < 1e11
    peaks = [line.peak_rss for line in answers if isinstance(line, Answered)]
    assert peaks == sorted(peaks)
    assert peaks[0] >= loaded.rss_after * 0.99
