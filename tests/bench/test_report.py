"""The report against numbers made another way from the same lines."""

import json

import numpy as np
import pytest
from scipy import stats

from bench import entry, evidence_tables, figures, findings, observations, plan, report, tables
from bench.observations import Ended, Held, Line, Loaded, Timed
from bench.ratio import MIN_BLOCKS
from shipvlm.errors import ExecutionError, InputError
from shipvlm.recipe import GateSection
from tests.bench.made_run import (
    CASE,
    MB,
    accuracy_lines,
    made_limits,
    made_plan,
    made_report,
    made_run,
    timing_lines,
    write_run,
)

NAMES = ("original", "w8a8-static", "onnx", "onnx-w8a8-static", "null")


@pytest.fixture(scope="module")
def run():
    return made_run()


@pytest.fixture(scope="module")
def made():
    return made_report()


def clean(lines: list[Line]) -> list[Timed]:
    bad = {line.block for line in lines if isinstance(line, Ended) and not line.clean}
    return [line for line in lines if isinstance(line, Timed) and line.block not in bad]


def first_token(line: Timed) -> float:
    return line.stages.preprocess + line.stages.vision + line.stages.prefill


def test_latency_is_a_median_over_requests_of_medians_over_clean_blocks(run, made):
    for name in ("original", "onnx", "onnx-w8a8-static"):
        lines = clean(run[1][name])
        groups = {line.id: [first_token(each) for each in lines if each.id == line.id] for line in lines}
        found = made["variants"][name]["latency"][CASE.name]["ttft"]
        assert found["value"] == pytest.approx(np.median([np.median(group) for group in groups.values()]))
        assert (found["n"], found["requests"], found["p90"]) == (8, len(lines), None)


def test_a_ratio_is_of_turns_that_are_whole_on_both_sides(run, made):
    base, own = (clean(run[1][name]) for name in ("original", "onnx-w8a8-static"))
    turns = []
    for block in (0, 1, 3, 4, 5):  # 2 was disturbed
        pairs = [(b.wall, o.wall) for b in base for o in own if b.block == o.block == block and b.id == o.id]
        assert len(pairs) == 8
        turns.append(np.median([np.log(b / o) for b, o in pairs]))
    found = made["variants"]["onnx-w8a8-static"]["ratio"][CASE.name]["e2e"]
    assert found["value"] == pytest.approx(np.exp(np.mean(turns)))
    assert (found["blocks"], found["word"]) == (MIN_BLOCKS, "FASTER")
    assert made["variants"]["null"]["ratio"][CASE.name]["e2e"]["word"] == "SAME"
    assert made["variants"]["original"]["ratio"] == {}


def test_disturbed_blocks_are_told_and_left_out(made):
    blocks = made["variants"]["onnx-w8a8-static"]["blocks"]
    assert (blocks["measured"], blocks["clean"]) == (6, 5)
    [told] = blocks["disturbed"]
    assert (told["block"], told["attempt"]) == (2, 0)
    assert "other processes" in told["reasons"][0]


def test_where_all_blocks_were_disturbed_there_are_numbers_and_no_words():
    data = made_run(40)[2]
    made = made_plan({name: made_run(40)[0].variants[name] for name in ("original", "onnx", "null")}, data)
    lines = {name: timing_lines(name, disturbed=range(6)) + accuracy_lines(name, data) for name in made.variants}
    found = report.build(made.model_copy(update={"gates": GateSection(ttft=1.0)}), lines, data)
    entry = found["variants"]["onnx"]
    assert entry["only_disturbed"]
    assert entry["latency"][CASE.name]["ttft"]["value"] > 0
    compared = entry["ratio"][CASE.name]["ttft"]
    assert (compared["word"], compared["value"]) == ("AMBIGUOUS", None)
    assert [check["verdict"] for check in found["judgement"]["checks"] if "ttft" in check["name"]] == ["INCONCLUSIVE"]


def test_what_disturbed_blocks_alone_say_is_marked_and_not_drawn():
    data = made_run(40)[2]
    made = made_plan({name: made_run(40)[0].variants[name] for name in ("original", "onnx", "null")}, data)
    noisy = {name: range(6) if name == "onnx" else () for name in made.variants}
    lines = {name: timing_lines(name, disturbed=noisy[name]) + accuracy_lines(name, data) for name in noisy}
    found = report.build(made, lines, data)
    [shown] = tables.times(found)
    cells = {row.name: row.cells[0] for row in shown.rows}
    assert cells["onnx"].endswith(" (disturbed)")
    assert not cells["null"].endswith(" (disturbed)")
    assert [row["name"] for row in figures.stages(found, CASE.name)["rows"]] == ["original", "null"]
    assert [point["name"] for point in figures.trade(found, CASE.name)["points"]] == ["original"]
    assert "scored, 48 requests timed of each variant in 6 blocks" in findings.caption(found)
    alone = report.build(made, {name: timing_lines(name, disturbed=range(6)) for name in noisy}, data)
    assert figures.stages(alone, CASE.name) is None
    assert "requests timed" not in findings.caption(alone)
    assert "scored" not in findings.caption(alone)


def test_the_caption_counts_requests_of_clean_blocks(made):
    assert "40 to 48 requests timed of each variant in 5 to 6 blocks" in findings.caption(made)


def changed_starts(lines, change):
    """`lines`, each start of a timing block with what `change` makes of it."""
    return [
        line.model_copy(update=change(line)) if isinstance(line, Loaded) and line.first is not None else line
        for line in lines
    ]


def test_a_start_that_was_disturbed_does_not_count(run, made):
    plan_, lines, data = run
    slow = {"imports": 60.0, "reasons": ("noise",)}
    starts = changed_starts(lines["onnx"], lambda line: slow if line.block == 3 else {})
    entry = report.build(plan_, {**lines, "onnx": starts}, data)["variants"]["onnx"]
    assert entry["cold_start"]["starts"] == entry["cold_start"]["ratio"]["blocks"] == 5
    assert entry["cold_start"]["seconds"]["value"] < 2
    assert entry["ratio"] == made["variants"]["onnx"]["ratio"]  # its requests do


def test_starts_from_memory_are_not_held_against_starts_from_the_disk(run):
    plan_, lines, data = run
    some = changed_starts(lines["onnx"], lambda line: {"dropped": line.block > 1})
    cold = report.build(plan_, {**lines, "onnx": some}, data)["variants"]["onnx"]["cold_start"]
    assert (cold["starts"], cold["dropped"], cold["ratio"]["word"]) == (4, True, "AMBIGUOUS")
    none = {name: changed_starts(said, lambda _: {"dropped": False}) for name, said in lines.items()}
    found = report.build(plan_, none, data)
    assert found["variants"]["onnx"]["cold_start"]["starts"] == 6
    assert found["variants"]["onnx"]["cold_start"]["ratio"]["word"] == "FASTER"
    assert "may have been in the system's memory" in evidence_tables.starts(found).note


def test_without_times_no_peak_is_judged(run):
    """The null answers a quarter, in smaller batches: its peak says nothing of two equal runs."""
    plan_, lines, data = run
    answers = {name: [line for line in said if line.phase == "accuracy"] for name, said in lines.items()}
    found = report.build(plan_.model_copy(update={"phases": ("accuracy",)}), answers, data)["variants"]
    assert {entry["against"]["memory"] for entry in found.values()} == {None}
    assert found["onnx"]["memory"]["peak_rss"] > 0


def test_scores_and_changes_are_paired(run, made):
    lines = {name: {line.id: line for line in said if line.kind == "answered"} for name, said in run[1].items()}
    base = np.array([line.score for line in lines["original"].values()])
    for name in NAMES:
        own = np.array([lines[name][key].score for key in lines["original"]])
        entry = made["variants"][name]
        assert entry["score"]["all"]["value"] == pytest.approx(own.mean())
        assert entry["difference"]["all"]["value"] == pytest.approx((own - base).mean())
        worse, better = int((own < base).sum()), int((own > base).sum())
        assert (entry["flips"]["worse"]["count"], entry["flips"]["better"]["count"]) == (worse, better)
        expected = stats.binomtest(worse, worse + better).pvalue if worse + better else 1.0
        assert entry["flips"]["mcnemar"] == pytest.approx(expected)


def test_a_loss_that_was_planted_is_called_lower():
    data = made_run(160)[2]
    made = made_plan({name: made_run(160)[0].variants[name] for name in ("original", "onnx", "null")}, data)
    lines = {name: accuracy_lines(name, data, range(0, 40) if name == "onnx" else ()) for name in made.variants}
    words = {
        name: entry["difference"]["all"]["word"] for name, entry in report.build(made, lines, data)["variants"].items()
    }
    assert words == {"original": "NO DIFFERENCE SEEN", "onnx": "LOWER", "null": "NO DIFFERENCE SEEN"}


def test_fidelity_is_over_tokens(run, made):
    held = [line for line in run[1]["onnx-w8a8-static"] if isinstance(line, Held)]
    kl = np.concatenate([line.kl for line in held])
    moved = np.concatenate([line.delta_p for line in held])
    entry = made["variants"]["onnx-w8a8-static"]
    assert entry["kl"]["value"] == pytest.approx(kl.mean())
    assert (entry["kl"]["tokens"], entry["kl"]["most"]) == (len(kl), pytest.approx(kl.max()))
    assert entry["kl"]["p99"] is None  # 480 tokens
    assert entry["delta_p"]["rms"] == pytest.approx(np.sqrt((moved**2).mean()))
    assert made["variants"]["original"]["kl"] is None


def test_the_largest_token_is_named_with_its_own_item(run):
    """Not with the item that is worst on average."""
    peaks = {"scene-1": [3.0, *[0.0] * 9], "scene-2": [1.0] * 10}
    plan_of, lines, data = run
    held = [line for line in lines["onnx"] if isinstance(line, Held)]
    names = dict(zip(peaks, (line.id for line in held), strict=False))
    swapped = {names[peak]: values for peak, values in peaks.items()}
    changed = [
        line.model_copy(update={"kl": swapped.get(line.id, [0.0] * 10), "delta_p": [0.0] * 10})
        if isinstance(line, Held)
        else line
        for line in lines["onnx"]
    ]
    kl = report.build(plan_of, {**lines, "onnx": changed}, data)["variants"]["onnx"]["kl"]
    assert (kl["most"], kl["worst_item"]) == (3.0, names["scene-1"])


def test_the_caption_counts_the_machines_of_a_run_that_went_on_elsewhere(run):
    plan_of, lines, data = run

    def on(line: Line, boot: str | None) -> Line:
        moved = isinstance(line, Ended) and line.model_copy(
            update={"conditions": line.conditions.model_copy(update={"boot": boot})}
        )
        return moved or line

    def caption(boots: tuple[str | None, str | None]) -> str:
        moved = {name: [on(line, boots[line.block >= 3]) for line in found] for name, found in lines.items()}
        return findings.caption(report.build(plan_of, moved, data))

    assert "2 machines, or starts of one" in caption(("aaaa", "bbbb"))
    assert "machines" not in caption(("aaaa", "aaaa"))
    assert "machines" not in caption((None, None))
    assert "how many machines is not known" in caption((None, "aaaa"))


def test_work_that_is_the_same_tells_of_a_clock_that_is_not(run, made):
    blocks = made["variants"]["onnx"]["blocks"]
    prepared = [line.stages.preprocess for line in clean(run[1]["onnx"])]
    assert min(prepared) <= blocks["preprocess"][0] <= np.median(prepared) <= blocks["preprocess"][1] <= max(prepared)


def test_memory_is_of_timed_blocks_and_of_like_with_like(made):
    entry = made["variants"]["onnx-w8a8-static"]
    assert entry["memory"]["peak"] == 420 * MB  # not the 1200 of answers in batches
    assert entry["against"] == {"size": pytest.approx(27 / 31), "memory": pytest.approx(420 / 900)}
    assert made["variants"]["w8a8-static"]["memory"] is None
    assert made["variants"]["w8a8-static"]["against"]["memory"] is None


@pytest.mark.parametrize(("taken", "context"), [({"process": 803, "reserved": 84}, 719), ({"process": 803}, None)])
def test_what_a_process_has_of_a_gpu_beside_torch_is_told_where_both_are_known(run, taken, context):
    ended = [line for line in run[1]["onnx"] if isinstance(line, Ended)]
    lines = [line.model_copy(update={"memory": line.memory.model_copy(update=taken)}) for line in ended]
    assert entry.memory(lines, "cuda", "timing")["context"] == context


def test_limits_are_beside_what_was_measured(run, made):
    found = made["variants"]["onnx"]["limits"][CASE.name]
    timed: dict[str, list[float]] = {}
    for line in clean(run[1]["onnx"]):
        first = line.stages.preprocess + line.stages.vision + line.stages.prefill
        timed.setdefault(line.id, []).append((line.wall - first) / (line.new_tokens - 1))
    step = np.median([np.median(each) for each in timed.values()])
    best = made_limits(["original", "onnx"])[CASE.name]["variants"]["onnx"]["stages"]["decode"]["seconds_at_best"]
    assert found["decode"]["measured"] == pytest.approx(step)
    assert found["decode"]["reached"] == pytest.approx(best / step)
    assert found["request"]["measured"] == made["variants"]["onnx"]["latency"][CASE.name]["e2e"]["value"]
    assert found["request"]["possible"] == pytest.approx(1 / 0.7)
    assert made["variants"]["w8a8-static"]["limits"] == made["variants"]["null"]["limits"] == {}


def test_the_worst_flips_have_both_answers_and_only_their_own_picture(run, made):
    assert [flip["variant"] for flip in made["flips"]] == ["onnx-w8a8-static", "w8a8-static"]
    for flip in made["flips"]:
        assert flip["answered"]["value"] < flip["baseline"]["value"]
        assert flip["picture"].startswith("data:image/jpeg;base64,")
    plan_, lines, data = run
    others = [record.model_copy(update={"image": data[1].image}) for record in data]
    for records in ((), others):
        found = report.build(plan_, lines, records)
        assert {flip["picture"] for flip in found["flips"] if flip["id"] != data[1].id} == {None}


def test_a_picture_that_was_seen_twice_is_refused(run):
    plan_, lines, data = run
    leaked = [
        line.model_copy(update={"image_sha256": ("original/vqa-small/0/0",)})
        if isinstance(line, Timed) and not line.block
        else line
        for line in timing_lines("onnx", requests=1)
    ]
    with pytest.raises(ExecutionError, match="a cache may have"):
        report.build(plan_, {**lines, "onnx": leaked}, data)


def test_a_run_that_was_cut_off_says_what_is_missing(run, tmp_path):
    plan_, lines, data = run
    cut = {name: list(said) for name, said in lines.items()}
    cut["null"] = [line for line in cut["null"] if line.phase == "timing" and line.block < 3]
    cut["onnx-w8a8-static"] = [
        line for line in cut["onnx-w8a8-static"] if line.kind != "ended" or line.phase == "timing"
    ][:-100]
    gates = GateSection(score=0.01, size=0.9)
    write_run(tmp_path / "out", plan_.model_copy(update={"gates": gates}), cut)
    found = report.rebuild(tmp_path / "out", data)
    assert GateSection.model_validate(found["gates"]) == gates
    assert [each["name"] for each in found["judgement"]["checks"]] == ["score all", "size"]
    assert not found["complete"]
    missing = {(each["variant"], each["phase"], each["block"]) for each in found["missing"]}
    assert {("null", "timing", 3), ("null", "timing", 5), ("null", "accuracy", 0)} <= missing
    assert found["judgement"]["verdict"] == "INCONCLUSIVE"
    assert "Not complete: 3 blocks of times and " in (tmp_path / "out" / "bench.md").read_text()
    with pytest.raises(InputError, match="holds no run"):
        report.rebuild(tmp_path)


def test_what_is_written_is_whole_and_strict_json(run, made, tmp_path):
    report.render(tmp_path, made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.md", "index.html"]

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads((tmp_path / "bench.json").read_text(), parse_constant=refuse) == made
    report.render(tmp_path, json.loads((tmp_path / "bench.json").read_text()))


def test_the_candidate_is_the_last_that_was_given(run):
    described = run[0].variants["original"]
    names = ("original", "onnx", "compile", "fp32", "null")
    assert report.candidate(made_plan(dict.fromkeys(names, described), run[2])) == "onnx"
    assert report.candidate(made_plan(dict.fromkeys(("original", "null"), described), run[2])) == "original"


def test_lines_survive_being_written(run, tmp_path):
    plan_, lines, _ = run
    write_run(tmp_path / "out", plan_, lines)
    assert plan.read(tmp_path / "out") == plan_
    assert observations.read(plan.log(tmp_path / "out", "onnx"), {"t", "a"}) == lines["onnx"]
