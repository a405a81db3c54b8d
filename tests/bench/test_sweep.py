"""The sweep: planted levels, planted engines, real ones; and its command."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import sweep, sweep_levels
from bench.environment import model_digest
from bench.sweep import measure_sweep
from bench.sweep_levels import Level, Opened, SweepJob, measure
from bench.variants import Variant
from bench.workloads import CASES, ONE_AT_A_TIME
from calib_data.records import digest
from convert.export import export_graphs
from shipvlm.errors import ExecutionError, InputError
from shipvlm.runtime.generate import Answer, StageSeconds
from tests.bench.made_levels import level
from tests.bench.made_records import records
from tests.shipvlm.commands import run

NAME, CASE = "fp32", "vqa-small"
ORDERS = ((1, 2, 4), (4, 2, 1), (1, 2, 4))
OPENED = Opened(clients=1, seconds=0.1)


@pytest.fixture(scope="session")
def engine(tiny_checkpoint, tmp_path_factory) -> Variant:
    folder = tmp_path_factory.mktemp("sweep") / "fp32"
    export_graphs(tiny_checkpoint, folder, "fp32")
    return Variant.of(NAME, folder)


def said(monkeypatch, *processes: Sequence[Level | type[BaseException]]) -> list[SweepJob]:
    """Has the engine's processes say these levels, and end with what is raised; the jobs that they were given."""
    jobs: list[SweepJob] = []

    def lines(module, job, title):
        assert (module, title) == ("bench.sweep_worker", f"sweep of {NAME}")
        jobs.append(SweepJob.model_validate_json(job.model_dump_json()))
        yield OPENED.model_dump_json().encode()
        for each in processes[len(jobs) - 1]:
            if isinstance(each, type):
                raise each
            yield each.model_dump_json(exclude_none=True).encode()

    monkeypatch.setattr(sweep.process, "lines", lines)
    return jobs


def test_processes_take_the_levels_up_and_down(monkeypatch, engine):
    """Batches of 100 ms for one client, 300 for two, 700 for four: two hold 500 ms, four do not."""
    times = {1: 0.1, 2: 0.3, 4: 0.7}
    jobs = said(
        monkeypatch,
        *([level(clients, times[clients], process) for clients in order] for process, order in enumerate(ORDERS)),
    )
    told, progress, data = [], [], records(3)
    results = list(
        measure_sweep(
            engine,
            data,
            levels=(1, 2, 4),
            data="made",
            command="shipvlm bench sweep onnx",
            progress=lambda *each: progress.append(each),
            say=told.append,
        )
    )
    assert [(job.process, job.levels) for job in jobs] == list(enumerate(ORDERS))
    assert {(job.batches, job.case, len(job.records)) for job in jobs} == {(130, CASES[CASE], 3)}
    assert told[0] == "3 processes, in each 130 batches at 3 levels: 2730 requests"
    assert told[1] == "about 5 min, up to 10 min where other programs disturb it"  # 3 x 7 x 136 x 0.1 s
    assert progress[-1] == (f"sweep of {NAME}", 9, 9)
    assert [len(each["missing"]) for each in results] == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    result = results[-1]
    assert [each["requests_a_second"]["value"] for each in result["levels"]] == pytest.approx([10, 2 / 0.3, 4 / 0.7])
    assert [each["first_p50"]["value"] for each in result["levels"]] == pytest.approx([0.05, 0.15, 0.35])
    assert [each["word"] for each in result["levels"]] == ["HOLDS", "HOLDS", "BREAKS"]
    assert result["finding"]["requests_a_second"] == pytest.approx(10)
    assert result["levels"][1]["attempts"][2]["first"] == pytest.approx([0.15] * 130)
    # What was measured on what.
    assert result["digest"] == model_digest(engine.folder)
    assert (result["data"]["name"], result["data"]["digest"]) == ("made", digest(data))
    assert result["command"] == "shipvlm bench sweep onnx"
    assert {"cpu", "cores"} <= set(result["machine"]) and "onnxruntime" in result["libraries"]
    assert str(engine.folder) not in json.dumps(result, allow_nan=False)


def test_a_picture_that_was_seen_twice_is_refused(monkeypatch, engine):
    said(monkeypatch, [level(1, 0.1)], [level(1, 0.1, 1, image_sha256=("0/0/1/0/0",))])
    with pytest.raises(ExecutionError, match="1 pictures of timed requests were seen more than once"):
        list(measure_sweep(engine, records(1), levels=(1,), processes=2))


@pytest.mark.parametrize("levels", [(), (2, 1), (1, 1), (0, 1)])
def test_levels_must_rise(engine, levels):
    with pytest.raises(InputError, match="give rising numbers of clients"):
        next(measure_sweep(engine, records(1), levels=levels))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"case": "poem"}, "case 'poem' is none: give one of vqa-small, caption, document$"),
        ({"case": "batch8"}, "asks many at once, and here the clients do: give one of vqa-small"),
        ({"processes": 1}, "takes at least 2"),
    ],
)
def test_other_bad_input(engine, changes, message):
    with pytest.raises(InputError, match=message):
        next(measure_sweep(engine, records(1), **changes))
    with pytest.raises(InputError, match="at least one record"):
        next(measure_sweep(engine, []))


def job(engine: Variant, **changes) -> SweepJob:
    fields: dict[str, Any] = {
        "name": "made",
        "process": 0,
        "folder": engine.folder,
        "engine": engine.engine,
        "device": "cpu",
        "dtype": None,
        "threads": 1,
        "case": CASES[CASE],
        "levels": (1, 3),
        "batches": 4,
        "warmup": 2,
        "records": tuple(dict(record) for record in records(2)),
    }
    return SweepJob(**(fields | changes))


def test_every_client_is_in_every_batch(monkeypatch, engine):
    """An engine that takes 5 ms a row: what is measured is that, and one batch has all clients."""
    asked = []

    def generate(model, requests, settings, batch_size):
        asked.append((len(requests), batch_size))
        assert settings.ignore_end and settings.max_new_tokens == CASES[CASE].answer_tokens
        time.sleep(0.005 * len(requests))
        stages = StageSeconds(preprocess=0.001, vision=0.001, prefill=0.002, decode=(0.0,), detokenise=0.0)
        return [Answer("", [], "length", stages)] * len(requests)

    monkeypatch.setattr(sweep_levels, "generate", generate)
    monkeypatch.setattr(sweep_levels.conditions, "disturbed", lambda found: ())
    opened, one, three = measure(job(engine))
    assert isinstance(opened, Opened) and opened.clients == 1 and opened.seconds >= 0.005
    assert isinstance(one, Level) and isinstance(three, Level)
    assert (one.clients, three.clients, len(one.seconds), len(three.seconds)) == (1, 3, 4, 4)
    assert set(asked) == {(1, 1), (3, 3)}
    assert min(one.seconds) >= 0.005 and min(three.seconds) >= 0.015
    assert one.first == pytest.approx((0.004,) * 4)
    digests = [*one.image_sha256, *three.image_sha256]
    assert len(digests) == len(set(digests)) == 4 * 1 + 4 * 3


def test_a_disturbed_level_is_measured_once_more(monkeypatch, engine):
    monkeypatch.setattr(sweep_levels, "_batch", lambda *_: (0.01, 0.005, []))
    monkeypatch.setattr(sweep_levels.conditions, "disturbed", lambda found: ("planted",))
    _, *found = measure(job(engine, levels=(1,)))
    assert [(each.attempt, each.clean, each.reasons) for each in found] == [
        (0, False, ("planted",)),
        (1, False, ("planted",)),
    ]


@pytest.mark.slow
def test_fresh_processes_sweep(engine):
    *_, result = measure_sweep(engine, records(2), levels=(1, 2), batches=11, processes=2, threads=1)
    assert result["missing"] == []
    assert [[each["batches"] for each in level["attempts"]][-1] for level in result["levels"]] == [11, 11]
    assert all(each["p50"]["value"] > each["first_p50"]["value"] > 0 for each in result["levels"])
    assert {(each["word"], each["p95"]) for each in result["levels"]} == {("AMBIGUOUS", None)}


def command(capsys, engine: Variant, *options: object) -> tuple[int, str, str]:
    return run(capsys, "bench", "sweep", engine.folder, "--levels", "1,2", "--processes", 2, *options)


def test_the_command_writes_what_it_prints(capsys, monkeypatch, engine, tmp_path: Path):
    both = [[level(1, 0.1, process), level(2, 0.3, process)] for process in (0, 1)]
    said(monkeypatch, *both)
    out = tmp_path / "new" / "sweep.json"
    code, printed, err = command(capsys, engine, "--slo", 200, "-o", out)
    assert code == 0, err
    assert "p95 within 200 ms: up to 10.0 requests/s, with 1 client (p95 100 ms); not with 2 clients" in printed
    assert "1560" not in printed and "780 requests" in err
    result = json.loads(out.read_text())
    assert result["command"].startswith("shipvlm bench sweep ") and "--levels 1,2 --slo 200" in result["command"]
    assert str(engine.folder) not in out.read_text()
    assert [path.name for path in out.parent.iterdir()] == ["sweep.json"]
    said(monkeypatch, *both)
    code, printed, _ = command(capsys, engine, "--slo", 200, "--json")
    assert (code, json.loads(printed)["finding"]) == (0, result["finding"])


def test_where_the_file_cannot_be_is_said_before_anything_is_measured(capsys, monkeypatch, engine, tmp_path: Path):
    jobs = said(monkeypatch)
    (tmp_path / "file").write_text("mine")
    for out, message in ((tmp_path / "file" / "x.json", "cannot be made"), (tmp_path, "is a folder")):
        code, printed, err = command(capsys, engine, "-o", out)
        assert (code, printed, jobs) == (2, "", []) and message in err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (ExecutionError, 4)])
def test_what_was_measured_until_it_ended_is_printed_and_kept(capsys, monkeypatch, engine, tmp_path, error, code):
    said(monkeypatch, [level(1, 0.1), error])
    found, printed, err = command(capsys, engine, "-o", tmp_path / "x.json")
    assert found == code
    assert "| 1 | 10.0 |" in printed
    assert "Cut off: 3 of 4 measurements are missing: process 1 at 2, process 2 at 1, process 2 at 2." in printed
    assert len(json.loads((tmp_path / "x.json").read_text())["missing"]) == 3
    assert code != 130 or "stopped: 3 measurements are missing; the others are kept in" in err


def test_stopped_before_anything_was_measured(capsys, monkeypatch, engine, tmp_path):
    said(monkeypatch, [KeyboardInterrupt])
    code, printed, err = command(capsys, engine, "-o", tmp_path / "x.json")
    assert (code, printed) == (130, "") and "nothing was measured yet" in err


def test_help_names_the_cases(capsys):
    _, printed, _ = run(capsys, "bench", "sweep", "--help")
    assert f"{', '.join(ONE_AT_A_TIME)}." in " ".join(printed.split())
