"""What one block says: its lines, what they are of, and that they hold what they claim."""

import errno
import json
import os

import numpy as np
import pytest

from bench import conditions
from bench import measure as measuring
from bench.job import Job, Known
from bench.measure import measure
from bench.observations import Answered, Ended, Held, Line, Loaded, Timed, Warmed, short
from bench.salt import refuse_repeated
from bench.workloads import ask, requests
from calib_data.scoring import score
from shipvlm.errors import ExecutionError, InputError
from shipvlm.runtime.checkpoint import Checkpoint, load
from shipvlm.runtime.generate import generate
from shipvlm.runtime.inputs import encode
from shipvlm.runtime.sampling import Sampling
from tests.bench.made_jobs import PAIR, SMALL, job
from tests.bench.made_records import records


def timing(folder, **fields) -> Job:
    return job(folder, phase="timing", cases=(SMALL, PAIR), items=3, repeats=2, **fields)


@pytest.fixture(scope="module")
def timed_lines(tiny_checkpoint) -> list[Line]:
    return list(measure(timing(tiny_checkpoint)))


def of(kind, lines):
    return [line for line in lines if isinstance(line, kind)]


def test_a_timing_block_is_a_start_then_each_case_warm_and_timed_then_its_end(timed_lines):
    kinds = [line.kind for line in timed_lines]
    assert kinds == ["loaded", "warmed", *["timed"] * 6, "warmed", *["timed"] * 6, "ended"]
    timed = of(Timed, timed_lines)
    assert [(line.case, line.repeat) for line in timed] == [
        (case, repeat) for case in ("small", "pair") for repeat in (0, 1) for _ in range(3)
    ]
    assert [line.id for line in timed[:3]] == [record.id for record in records(3)]
    assert timed[7].id == f"{records(3)[2].id}+{records(3)[0].id}"  # the second pair of three records, in turn
    for warm in of(Warmed, timed_lines):
        assert 6 <= len(warm.seconds) <= 20
    [start] = of(Loaded, timed_lines)
    assert start.conditions.seconds >= start.imports + start.load + start.first
    assert start.reasons == conditions.disturbed(start.conditions)
    assert all(
        line.model_dump(include={"run", "variant", "block"}) == {"run": "r", "variant": "v", "block": 0}
        for line in timed_lines
    )


def test_stages_are_laps_of_the_wall_time_and_as_many_as_tokens(timed_lines):
    for line in of(Timed, timed_lines):
        parts = line.stages
        laps = [parts.preprocess, parts.vision, parts.prefill, *parts.decode, parts.detokenise]
        assert min(laps) > 0
        assert sum(laps) <= line.wall
        assert len(parts.decode) == line.new_tokens - 1 == (2 if line.case == "small" else 1)
        assert line.events is None  # no device


def test_what_the_model_read_is_in_the_line(timed_lines, tiny_checkpoint):
    line = of(Timed, timed_lines)[7]
    processor, data = load(tiny_checkpoint).processor, records(3)
    asked = requests(PAIR, [data[2], data[0]], processor.tokenizer, "r/v/0/0/pair/0/1")
    batch = encode(processor, asked)
    assert line.prompt_tokens == tuple(len(ids) for ids in batch.input_ids)
    assert line.patches == (24, 24)
    assert line.image_sha256 == tuple(short(part.tobytes()) for part in np.split(batch.pixel_values, 2))
    assert line.prompt_sha256 == tuple(short(request.prompt.encode()) for request in asked)


def test_no_two_timed_requests_of_any_variant_block_or_attempt_show_the_same_picture(tiny_checkpoint, timed_lines):
    digests = [digest for line in of(Timed, timed_lines) for digest in line.image_sha256]
    for change in ({"variant": "w"}, {"block": 1}, {"attempt": 1}):
        digests += [
            digest for line in of(Timed, measure(timing(tiny_checkpoint, **change))) for digest in line.image_sha256
        ]
    refuse_repeated(digests)
    assert len(set(digests)) == 4 * 6 * 3


def test_a_cache_of_pictures_never_answers_and_without_salt_it_is_caught(tiny_checkpoint, monkeypatch):
    """Planted: features kept by what the model read, from the baseline on into the variant."""
    kept: dict[bytes, object] = {}
    hits = []
    real = Checkpoint.vision

    def vision(self, batch):
        key = batch.pixel_values.tobytes()
        if key in kept:
            hits.append(key)
        else:
            kept[key] = real(self, batch)
        return kept[key]

    monkeypatch.setattr(Checkpoint, "vision", vision)
    small = {"phase": "timing", "items": 3}
    seen = [
        line
        for name in ("baseline", "variant")
        for line in of(Timed, measure(job(tiny_checkpoint, variant=name, **small)))
    ]
    refuse_repeated(digest for line in seen for digest in line.image_sha256)
    assert hits == []
    monkeypatch.setattr("bench.workloads.salted", lambda image, salt: image)
    leaked = [
        line
        for name in ("baseline", "variant")
        for line in of(Timed, measure(job(tiny_checkpoint, variant=name, **small)))
    ]
    assert hits
    with pytest.raises(ExecutionError, match="a cache may have answered"):
        refuse_repeated(digest for line in leaked for digest in line.image_sha256)


def test_the_start_and_the_end_say_what_was_taken(timed_lines):
    [loaded], [ended] = of(Loaded, timed_lines), of(Ended, timed_lines)
    assert loaded.dtype == "float32"
    assert loaded.first is not None
    assert loaded.first > 0 < loaded.load
    assert loaded.weights is not None
    assert 1e6 < loaded.weights < 1e7
    assert loaded.after.peak_rss >= loaded.before.rss > 1e7
    assert ended.memory.peak_rss >= loaded.after.peak_rss
    assert ended.conditions.seconds >= sum(line.wall for line in of(Timed, timed_lines))
    assert ended.clean == (not ended.reasons)


def test_a_disturbed_block_says_why(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(measuring.conditions, "disturbed", lambda found: ("someone else was here",))
    ended = list(measure(job(tiny_checkpoint, phase="timing")))[-1]
    assert isinstance(ended, Ended)
    assert (ended.clean, ended.reasons) == (False, ("someone else was here",))


def accuracy(folder, tmp_path, **fields) -> list[Line]:
    return list(measure(job(folder, 6, references=tmp_path / "references.npz", reference_run="b", **fields)))


def known(lines) -> dict[str, Known]:
    return {line.id: Known(token_ids=line.token_ids, ended=line.finish == "end") for line in of(Answered, lines)}


def test_answers_are_those_of_generate_and_graded(tiny_checkpoint, tmp_path):
    lines = accuracy(tiny_checkpoint, tmp_path, baseline=True)
    data = {record.id: record for record in records(6)}
    found = of(Answered, lines)
    assert {line.id for line in found} == set(data)
    made = generate(load(tiny_checkpoint), [ask(data[line.id]) for line in found], Sampling(4), batch_size=1)
    for line, answer in zip(found, made, strict=True):
        graded = score(line.task, answer.text, data[line.id].answers)
        assert (line.output, line.token_ids, line.finish) == (answer.text, tuple(answer.token_ids), answer.finish)
        assert (line.score, line.parsed, line.similarity) == (graded.value, graded.parsed, graded.similarity)


def test_a_variant_is_held_to_the_baselines_answers(tiny_checkpoint, tiny_graphs, tmp_path):
    first = accuracy(tiny_checkpoint, tmp_path, baseline=True)
    answers = known(first)
    lines = accuracy(tiny_graphs, tmp_path, engine="onnxruntime", answers=answers, batch_size=4)
    for line in of(Held, lines):
        asked = answers[line.id]
        assert len(line.kl) == len(line.same) == len(line.delta_p) == len(asked.token_ids) + asked.ended
        assert all(line.same)
        assert max(line.kl) < 1e-5
        assert max(map(abs, line.delta_p)) < 1e-3
        assert line.whole
    assert len(of(Held, lines)) == 6
    other = load(tiny_checkpoint)
    other.model.lm_head.weight.data.mul_(0.3)  # flatter: the same best token, another distribution
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "open_model", lambda *_, **__: other)
        off = of(Held, accuracy(tiny_checkpoint, tmp_path, answers=answers))
    assert all(all(line.same) for line in off)
    assert np.mean([kl for line in off for kl in line.kl]) > 0.05
    assert np.mean([change for line in off for change in line.delta_p]) < -0.005


def test_what_is_done_is_not_said_again_and_the_baseline_makes_its_references_anew(tiny_checkpoint, tmp_path):
    whole = accuracy(tiny_checkpoint, tmp_path, baseline=True)
    references = (tmp_path / "references.npz").read_bytes()
    (tmp_path / "references.npz").unlink()
    done = frozenset(line.id for line in of(Answered, whole)[:3])
    rest = accuracy(
        tiny_checkpoint,
        tmp_path,
        baseline=True,
        answers={name: each for name, each in known(whole).items() if name in done},
        done=done,
    )
    assert [line.output for line in of(Answered, rest)] == [line.output for line in of(Answered, whole)[3:]]
    assert len((tmp_path / "references.npz").read_bytes()) == len(references)
    held = of(Held, accuracy(tiny_checkpoint, tmp_path, answers=known(whole), done=done))
    assert len(held) == 3
    assert all(set(line.kl) == {0.0} for line in held)


def test_lines_survive_json(timed_lines):
    for line in timed_lines:
        assert type(line).model_validate(json.loads(line.model_dump_json(exclude_none=True))) == line


def test_a_folder_that_does_not_fit_its_engine_is_refused(tiny_checkpoint, tiny_graphs):
    with pytest.raises(InputError, match="holds a checkpoint, which onnxruntime does not run"):
        list(measure(job(tiny_checkpoint, engine="onnxruntime")))
    with pytest.raises(InputError, match="holds graphs, which compile does not run"):
        list(measure(job(tiny_graphs, engine="compile")))


@pytest.mark.parametrize(
    ("answers", "forgotten"),
    [
        ([BlockingIOError()], True),
        ([1, 1, BlockingIOError()], True),  # to look may bring it back before the look is over
        ([1] * measuring.TRIES, False),
        ([OSError(errno.EOPNOTSUPP, "")], False),
    ],
)
def test_a_file_is_forgotten_when_its_first_byte_is_not_in_memory(monkeypatch, tmp_path, answers, forgotten):
    said = iter(answers)

    def look(*_):
        answer = next(said)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(os, "preadv", look)
    (tmp_path / "weights").write_bytes(b"x")
    (tmp_path / "empty").touch()
    assert measuring._drop(tmp_path) is forgotten
    assert list(said) == []
