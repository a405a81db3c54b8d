import json
import time
from typing import Any

import numpy as np
import pytest

from bench import sweep, sweep_levels
from bench.observations import Conditions
from bench.sweep import breaking, markdown, measure_sweep
from bench.sweep_levels import Level, SweepJob, measure
from bench.variants import Variant
from bench.workloads import CASES
from convert.export import export_graphs
from shipvlm.errors import ExecutionError, InputError
from shipvlm.runtime.generate import Answer, StageSeconds
from tests.bench.made_records import records

CASE = "vqa-small"


@pytest.fixture(scope="session")
def engine(tiny_checkpoint, tmp_path_factory) -> Variant:
    folder = tmp_path_factory.mktemp("sweep") / "fp32"
    export_graphs(tiny_checkpoint, folder, "fp32")
    return Variant.of("onnx", folder)


def level(clients: int, seconds: list[float], **changes) -> Level:
    fields: dict[str, Any] = {
        "clients": clients,
        "attempt": 0,
        "dtype": "float32",
        "warm": True,
        "seconds": tuple(seconds),
        "first": tuple(each / 2 for each in seconds),
        "image_sha256": tuple(f"{clients}/{number}/{row}" for number in range(len(seconds)) for row in range(clients)),
        "clean": True,
        "conditions": Conditions(seconds=sum(seconds)),
    }
    return Level(**(fields | changes))


def said(monkeypatch, *levels: Level) -> list[SweepJob]:
    """Has the engine's process say these levels; the jobs that it was given."""
    jobs = []

    def lines(module, job, title):
        assert (module, title) == ("bench.sweep_worker", "sweep of onnx")
        jobs.append(SweepJob.model_validate_json(job.model_dump_json()))
        yield from (each.model_dump_json(exclude_none=True).encode() for each in levels)

    monkeypatch.setattr(sweep.process, "lines", lines)
    return jobs


def told(clients: int, p95: float | None, rate: float, **changes) -> dict:
    fields: dict[str, Any] = {
        "clients": clients,
        "p95": p95,
        "requests_a_second": rate,
        "batches": 130,
        "clean": True,
        "reasons": [],
    }
    return fields | changes


def test_where_the_limit_is_passed():
    levels = [told(1, 0.1, 10.0), told(2, 0.4, 12.0), told(4, 0.8, 16.0), told(8, 0.3, 99.0)]
    assert breaking(levels, 0.5) == {"requests_a_second": pytest.approx(13.0), "reason": None}
    assert breaking(levels, 0.4)["requests_a_second"] == pytest.approx(12.0)
    # The same by numpy's interpolation.
    expected = np.interp(0.7, [0.4, 0.8], [12.0, 16.0])
    assert breaking(levels, 0.7)["requests_a_second"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        ([told(1, 0.6, 2.0), told(2, 0.9, 3.0)], "p95 is over 500 ms with 1 client already"),
        ([told(1, 0.1, 2.0), told(2, 0.2, 3.0)], "stays within 500 ms up to 2 clients"),
        ([told(1, None, 2.0, batches=12)], "p95 needs 130 batches at a level, 1 client had 12"),
        (
            [told(1, 0.1, 2.0), told(2, 0.9, 3.0, clean=False, reasons=["a compiler ran"])],
            "AMBIGUOUS: 2 clients were disturbed: a compiler ran",
        ),
    ],
)
def test_where_it_cannot_be_said(levels, reason):
    found = breaking(levels, 0.5)
    assert found["requests_a_second"] is None and reason in found["reason"]


def test_a_planted_sweep(monkeypatch, engine):
    """Batches of 100 ms for one client, 300 for two, 700 for four: p95 of 500 ms lies half-way between 2 and 4."""
    levels = [level(1, [0.1] * 130), level(2, [0.3] * 130), level(4, [0.7] * 130)]
    jobs = said(monkeypatch, *levels)
    result = measure_sweep(engine, records(3), levels=(1, 2, 4))
    [job] = jobs
    assert (job.levels, job.batches, job.case, len(job.records)) == ((1, 2, 4), 130, CASES[CASE], 3)
    rates = [each["requests_a_second"] for each in result["levels"]]
    assert rates == pytest.approx([10, 2 / 0.3, 4 / 0.7])
    assert [each["p95"] for each in result["levels"]] == pytest.approx([0.1, 0.3, 0.7])
    assert [each["first_p50"] for each in result["levels"]] == pytest.approx([0.05, 0.15, 0.35])
    assert result["breaks"]["requests_a_second"] == pytest.approx((rates[1] + rates[2]) / 2)
    assert result["disturbed"] == []
    json.dumps(result, allow_nan=False)
    text = markdown(result)
    assert "| 2 | 6.67 | 300 | 300 | 150 |" in text
    assert "p95 within 500 ms up to 6.19 requests/s." in text
    assert "No server, no continuous batching." in text


def test_a_level_that_was_disturbed_counts_by_its_second_attempt(monkeypatch, engine):
    noisy = level(1, [0.9] * 12, clean=False, reasons=("a compiler ran",))
    again = level(1, [0.1] * 12, attempt=1, image_sha256=tuple(f"again {number}" for number in range(12)))
    said(monkeypatch, noisy, again)
    result = measure_sweep(engine, records(1), levels=(1,), batches=12)
    assert (result["levels"][0]["p50"], result["levels"][0]["p95"]) == (pytest.approx(0.1), None)
    assert [each["p50"] for each in result["disturbed"]] == [pytest.approx(0.9)]
    assert "cannot be said: p95 needs 130 batches" in markdown(result)
    said(monkeypatch, noisy, noisy.model_copy(update={"attempt": 1, "image_sha256": ("other",), "warm": False}))
    text = markdown(measure_sweep(engine, records(1), levels=(1,), batches=12))
    assert "disturbed: a compiler ran; not stable after the warm-up" in text


def test_a_picture_that_was_seen_twice_is_refused(monkeypatch, engine):
    said(monkeypatch, level(1, [0.1] * 12), level(2, [0.1] * 6, image_sha256=("1/0/0",)))
    with pytest.raises(ExecutionError, match="1 pictures of timed requests were seen more than once"):
        measure_sweep(engine, records(1), levels=(1, 2), batches=12)


@pytest.mark.parametrize("levels", [(), (2, 1), (1, 1), (0, 1)])
def test_levels_must_rise(engine, levels):
    with pytest.raises(InputError, match="give rising numbers of clients"):
        measure_sweep(engine, records(1), levels=levels)


def test_other_bad_input(engine):
    with pytest.raises(InputError, match="no case 'poem': one of vqa-small"):
        measure_sweep(engine, records(1), case="poem")
    with pytest.raises(InputError, match="at least one record"):
        measure_sweep(engine, [])


def job(engine: Variant, **changes) -> SweepJob:
    fields: dict[str, Any] = {
        "name": "made",
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
    one, three = measure(job(engine))
    assert (one.clients, three.clients, len(one.seconds), len(three.seconds)) == (1, 3, 4, 4)
    assert set(asked) == {(1, 1), (3, 3)}
    assert min(one.seconds) >= 0.005 and min(three.seconds) >= 0.015
    assert one.first == pytest.approx((0.004,) * 4)
    digests = [*one.image_sha256, *three.image_sha256]
    assert len(digests) == len(set(digests)) == 4 * 1 + 4 * 3


def test_a_disturbed_level_is_measured_once_more(monkeypatch, engine):
    monkeypatch.setattr(sweep_levels, "_batch", lambda *_: (0.01, 0.005, []))
    monkeypatch.setattr(sweep_levels.conditions, "disturbed", lambda found: ("planted",))
    found = list(measure(job(engine, levels=(1,))))
    assert [(each.attempt, each.clean, each.reasons) for each in found] == [
        (0, False, ("planted",)),
        (1, False, ("planted",)),
    ]


@pytest.mark.slow
def test_a_fresh_process_sweeps(engine):
    seen = []
    result = measure_sweep(
        engine, records(2), levels=(1, 2), batches=11, threads=1, progress=lambda *told: seen.append(told)
    )
    assert [each["requests"] for each in result["levels"]] == [11, 22]
    assert all(each["p50"] > each["first_p50"] > 0 and each["p95"] is None for each in result["levels"])
    assert seen[-1] == ("sweep of onnx", 2, 2)
    assert result["breaks"]["requests_a_second"] is None
