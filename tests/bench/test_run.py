"""A whole run: who is measured in which order, what is kept, what a second run does again."""

import json
import shutil
import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from bench import conditions, plan, process, ratio, report
from bench import measure as measuring
from bench import run as running
from bench.job import Job
from bench.limits import LIMITS
from bench.observations import LINE, Answered, Ended, Held, Line, Timed, attempts, blocks
from bench.run import measure, run
from bench.variants import Variant
from convert.export import export_graphs
from quantize.rtn import round_to_nearest
from shipvlm.errors import ExecutionError, InputError, Interrupted
from shipvlm.recipe import BenchSection
from shipvlm.runtime.checkpoint import load
from tests.bench.made_jobs import SMALL, job
from tests.bench.made_records import records

DATA = records(24)
SECTION = BenchSection(
    data="made", limit=3, batch_size=5, max_new_tokens=6, latency_items=2, warmup=1, repeats=1, blocks=2
)
PER_BLOCK, SCORED = 2, 12


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
        self.stop_after: int | None = None  # lines

    def lines(self, job: Job) -> Iterator[Line]:
        self.jobs.append(job)
        for line in measuring.measure(Job.model_validate_json(job.model_dump_json())):
            if self.stop_after is not None:
                if self.stop_after == 0:
                    raise KeyboardInterrupt
                self.stop_after -= 1
            yield line

    def asked(self) -> list[tuple[str, str, int]]:
        return [(job.variant, job.phase, job.block) for job in self.jobs]


def quiet(patch: pytest.MonkeyPatch) -> Workers:
    """Workers in this process, on a machine that nobody else uses, whose rates are known."""
    workers = Workers()
    patch.setattr(running, "process_lines", workers.lines)
    patch.setattr(running, "write_limits", lambda out, *_: (out / LIMITS).write_text("{}"))
    patch.setattr(conditions, "disturbed", lambda found: ())
    patch.setattr(measuring, "enough", lambda seconds, least: len(seconds) >= least)
    patch.setitem(plan.CASES, "vqa-small", SMALL)
    return workers


@pytest.fixture
def workers(monkeypatch):
    return quiet(monkeypatch)


@pytest.fixture(scope="module")
def finished(variants, tmp_path_factory):
    """A run of all variants: its plan, its folder, its jobs and what it said on the way."""
    out, said = tmp_path_factory.mktemp("run") / "report", []
    with pytest.MonkeyPatch.context() as patch:
        workers = quiet(patch)
        made = measure(variants, DATA, SECTION, out, command="shipvlm bench x", progress=lambda *a: said.append(a))
    return made, out, workers, said


def test_blocks_go_there_and_back_and_accuracy_comes_last(finished):
    _, _, workers, _ = finished
    there = [("base", 0), ("onnx", 0), ("coarse", 0), ("null", 0)]
    back = [("null", 1), ("coarse", 1), ("onnx", 1), ("base", 1)]
    assert [(name, block) for name, phase, block in workers.asked() if phase == "timing"] == there + back
    assert [name for name, phase, _ in workers.asked()[8:]] == ["base", "onnx", "coarse", "null"]


def test_every_observation_is_kept_raw_and_nothing_is_missing(finished):
    made, out, _, _ = finished
    assert plan.read(out) == made
    lines = plan.lines(out, made)
    assert plan.missing(made, lines) == []
    seen = [
        digest for each in lines.values() for line in each if isinstance(line, Timed) for digest in line.image_sha256
    ]
    assert len(seen) == len(set(seen)) == 4 * 2 * PER_BLOCK
    for name, said in lines.items():
        assert len([line for line in said if isinstance(line, Timed)]) == 2 * PER_BLOCK
        assert len(plan.answered(said)) == (SCORED // 4 if name == "null" else SCORED)
        assert len(plan.held(said)) == {"base": 0, "null": SCORED // 4}.get(name, SCORED)
        assert len(blocks(said)) == 3
    for path in (out / plan.PLAN, *(out / plan.OBSERVATIONS).glob("*.jsonl")):
        assert str(out.parent) not in path.read_text()
        assert f'"{socket.gethostname()}"' not in path.read_text()


def test_the_null_and_the_same_weights_agree_and_coarse_ones_do_not(finished):
    made, out, workers, _ = finished
    lines = plan.lines(out, made)

    def agreement(name: str) -> float:
        same = [each for line in lines[name] if isinstance(line, Held) for each in line.same]
        return sum(same) / len(same)

    assert agreement("null") == agreement("onnx") == 1
    assert agreement("coarse") < 1
    assert {job.batch_size for job in workers.jobs if job.phase == "accuracy" and job.variant != "null"} == {5}
    assert [job.batch_size for job in workers.jobs if job.phase == "accuracy" and job.variant == "null"] == [2]


def test_progress_counts_requests_and_answers(finished):
    _, _, workers, said = finished
    assert len({title for title, _, _ in said}) == len(workers.jobs)
    assert said[0] == ("base: timing 1", 0, PER_BLOCK)
    assert said[-1] == ("null: accuracy", SCORED // 4, SCORED // 4)


def test_a_second_run_measures_nothing(finished, variants, workers):
    made, out, _, _ = finished
    assert measure(variants, DATA, SECTION, out, command="shipvlm bench x") == made
    assert workers.jobs == []


def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished[1], tmp_path / "report"))


def test_a_turn_that_was_cut_off_is_measured_again_as_a_whole(finished, variants, workers, tmp_path):
    out = copied(finished, tmp_path)
    log = plan.log(out, "onnx")
    whole = log.read_text().splitlines(keepends=True)
    first = next(place for place, line in enumerate(whole) if json.loads(line)["kind"] == "ended") + 1
    log.write_text("".join(whole[: first + 3]) + whole[first + 3][:40])  # of its second block a part, and no answers
    made = measure(variants, DATA, SECTION, out, command="shipvlm bench x")
    turn = [(name, "timing", 1) for name in ("null", "coarse", "onnx", "base")]
    assert workers.asked() == [*turn, ("onnx", "accuracy", 0)]
    assert {job.attempt for job in workers.jobs[:4]} == {1}
    lines = plan.lines(out, made)
    assert plan.missing(made, lines) == []
    assert [(each.block, each.attempt) for each in blocks(lines["onnx"]) if each.phase == "timing"] == [(0, 0), (1, 1)]
    assert [each.ended is None for each in attempts(lines["onnx"])] == [False, True, False, False]


def test_answers_go_on_where_they_were(finished, variants, workers, tmp_path):
    out = copied(finished, tmp_path)
    log = plan.log(out, "coarse")
    whole = log.read_text().splitlines(keepends=True)
    half = [line for line in whole if json.loads(line)["phase"] == "timing"]
    accuracy = [line for line in whole if json.loads(line)["phase"] == "accuracy"]
    log.write_text("".join(half + accuracy[:9]))  # loaded, five answers, three of them held
    made = measure(variants, DATA, SECTION, out, command="shipvlm bench x")
    assert workers.asked() == [("coarse", "accuracy", 0)]
    assert len(workers.jobs[0].done) == 3
    before = [json.loads(line) for line in accuracy]
    after = plan.lines(out, made)["coarse"]
    for kind, found in (("answered", plan.answered(after)), ("held", plan.held(after))):
        wanted = {line["id"]: line for line in before if line["kind"] == kind}
        assert set(found) == set(wanted)
        fields = ("output", "token_ids", "score") if kind == "answered" else ("kl", "same", "delta_p")
        for name, line in found.items():
            assert [json.loads(line.model_dump_json())[field] for field in fields] == [
                wanted[name][field] for field in fields
            ]


def test_references_that_are_gone_are_made_again_without_asking_again(finished, variants, workers, tmp_path):
    out = copied(finished, tmp_path)
    plan.references(out).unlink()
    made = measure(variants, DATA, SECTION, out, command="shipvlm bench x")
    assert workers.asked() == [("base", "accuracy", 0)]
    assert len(workers.jobs[0].done) == SCORED
    assert len([line for line in plan.lines(out, made)["base"] if isinstance(line, Answered)]) == SCORED
    assert plan.references(out).is_file()


def test_a_variant_that_is_added_is_timed_in_turns_with_the_others(finished, variants, workers, tmp_path):
    out = copied(finished, tmp_path)
    measure([*variants, Variant.of("more", variants[1].folder)], DATA, SECTION, out)
    timed = [name for name, phase, _ in workers.asked() if phase == "timing"]
    assert timed == ["base", "onnx", "coarse", "more", "null", "null", "more", "coarse", "onnx", "base"]
    assert [name for name, phase, _ in workers.asked() if phase == "accuracy"] == ["more"]


def test_one_phase_alone(finished, variants, workers, tmp_path):
    measure(variants[:1], DATA, SECTION.model_copy(update={"measure": ("timing",)}), tmp_path / "a")
    assert {phase for _, phase, _ in workers.asked()} == {"timing"}
    workers.jobs.clear()
    measure(variants[:1], DATA, SECTION.model_copy(update={"measure": ("accuracy",)}), tmp_path / "b")
    assert workers.asked() == [("base", "accuracy", 0), ("null", "accuracy", 0)]


def test_ctrl_c_keeps_what_was_measured_and_says_what_is_missing(finished, variants, workers, tmp_path):
    out = tmp_path / "report"
    workers.stop_after = 5 + 4  # one block, and of the next the start
    with pytest.raises(Interrupted, match=r"^stopped: 7 blocks of times and 39 answers are missing; .* is kept in"):
        measure(variants, DATA, SECTION, out)
    made = plan.read(out)
    lines = plan.lines(out, made)
    assert len(plan.missing(made, lines)) == 7 + 4
    assert len(lines["base"]) + len(lines["onnx"]) == 9
    workers.stop_after = None
    workers.jobs.clear()
    measure(variants, DATA, SECTION, out)
    assert plan.missing(made, plan.lines(out, made)) == []


def test_a_disturbed_block_is_kept_and_measured_once_more_until_that_is_in_vain(
    finished, variants, workers, monkeypatch, tmp_path
):
    out, verdicts = tmp_path / "report", iter([*[1, 0], 0, *[1, 1], *[1, 1], *[1, 1], 1, 0, *[1, 0]])  # disturbed?
    asked = count()  # of each start, then of its block
    noisy = lambda _: ("noise",) if next(asked) % 2 and next(verdicts) else ()  # noqa: E731
    monkeypatch.setattr(conditions, "disturbed", noisy)
    made = measure(variants, DATA, SECTION.model_copy(update={"measure": ("timing",), "blocks": 2}), out)
    # coarse, null and null again twice in a row: coarse is not measured once more; after a clean onnx base is
    names = [(name, job.attempt) for job, (name, _, _) in zip(workers.jobs, workers.asked(), strict=True)]
    assert names == [
        *[("base", 0), ("base", 1), ("onnx", 0)],
        *[("coarse", 0), ("coarse", 1), ("null", 0), ("null", 1)],
        *[("null", 0), ("null", 1), ("coarse", 0), ("onnx", 0), ("base", 0), ("base", 1)],
    ]
    ends = [line for line in plan.lines(out, made)["base"] if isinstance(line, Ended)]
    assert [(line.clean, line.reasons) for line in ends] == [(False, ("noise",)), (True, ())] * 2
    assert plan.missing(made, plan.lines(out, made)) == []
    workers.jobs.clear()
    measure(variants, DATA, SECTION.model_copy(update={"measure": ("timing",), "blocks": 2}), out)
    assert workers.jobs == []


def test_limits_are_measured_again_when_their_rates_were_disturbed(variants, workers, monkeypatch, tmp_path):
    asked = []

    def write(out, *_):
        asked.append(out)
        reasons = ["noise"] if len(asked) == 1 else []
        (out / LIMITS).write_text(json.dumps({"small": {"rates": {"reasons": reasons}, "variants": {}}}))

    monkeypatch.setattr(running, "write_limits", write)
    for times in (1, 2, 2):
        measure(variants[:1], DATA, SECTION.model_copy(update={"measure": ("timing",)}), tmp_path)
        assert len(asked) == times


def test_pictures_that_repeat_are_refused(variants, workers, monkeypatch, tmp_path):
    monkeypatch.setattr("bench.workloads.salted", lambda image, salt: image)
    with pytest.raises(ExecutionError, match="a cache may have answered"):
        measure(variants[:1], DATA, SECTION.model_copy(update={"measure": ("timing",)}), tmp_path)


def test_a_worker_that_ends_early_is_an_error(variants, monkeypatch, tmp_path):
    quiet(monkeypatch)
    monkeypatch.setattr(running, "process_lines", lambda job: iter(()))
    with pytest.raises(ExecutionError, match="variant base: its process ended early, 2 answers are missing"):
        measure(variants, DATA, SECTION, tmp_path / "report")


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(variants, workers, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        measure(variants, DATA, SECTION, tmp_path / "file" / "report")
    assert workers.jobs == []


def test_what_a_run_returns_is_the_report_of_its_lines(finished, variants, workers, monkeypatch):
    made, out, _, _ = finished
    monkeypatch.setattr(report, "write", lambda *given: {"given": given})
    found = run(variants, DATA, SECTION, out, command="shipvlm bench x")
    assert found["given"] == (out, made, plan.lines(out, made), DATA)


def test_each_line_of_a_fresh_process_is_read(monkeypatch, tmp_path):
    line = Ended.model_validate_json(
        '{"run":"r","variant":"v","phase":"timing","block":0,"clean":true,"conditions":{"seconds":1},'
        '"memory":{"rss":1,"anon":1,"file":1,"peak_rss":1,"peak_anon":1,"peak_file":1}}'
    )
    monkeypatch.setattr(process, "lines", lambda *given: iter([line.model_dump_json().encode() + b"\n"]))
    assert list(running.process_lines(job(tmp_path))) == [line]


@pytest.mark.slow
def test_ten_percent_slower_by_a_sleep_is_called_slower(variants, monkeypatch, tmp_path):
    """Through real processes and real clocks; the same twice is not called slower."""
    quiet(monkeypatch)
    monkeypatch.setattr(
        running,
        "process_lines",
        lambda job: map(LINE.validate_json, process.lines("tests.bench.slowed_worker", job, "")),
    )
    graphs = variants[1].folder
    section = SECTION.model_copy(update={"measure": ("timing",), "blocks": ratio.MIN_BLOCKS})
    measured = [Variant.of(name, graphs) for name in ("graphs", "slowed", "same")]
    found = run(measured, DATA, section, tmp_path / "report")
    slowed, same = (found["variants"][name]["ratio"]["small"]["e2e"] for name in ("slowed", "same"))
    assert slowed["word"] == "SLOWER", slowed
    assert slowed["value"] == pytest.approx(0.9, abs=0.03)
    assert same["word"] in ("SAME", "AMBIGUOUS"), same
