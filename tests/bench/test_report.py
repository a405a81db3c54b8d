"""The report against numbers made another way from the same lines."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats

from bench import pairs, report
from bench.environment import describe_weights, model_digest, model_files
from bench.observations import Answered
from bench.report import build, sample, verdict
from calib_data.scoring import score
from shipvlm.errors import InputError
from shipvlm.recipe import BenchSection
from tests.bench.made_lines import MEGABYTE, described, made_report, variant_lines
from tests.bench.made_records import records
from tests.quantize.made import quantize

DATA = records(160)
TIMED = DATA[:16]
LINES = {
    "fp16": variant_lines(DATA, TIMED, 1.0, 0.9),
    "faster": variant_lines(DATA, TIMED, 0.5, 0.9, agreed=3),
    "worse": variant_lines(DATA, TIMED, 1.25, 0.6, seed=1, agreed=2),
}


@pytest.fixture(scope="module")
def made():
    variants = {name: described(size * MEGABYTE) for name, size in zip(LINES, (60, 33, 60), strict=True)}
    return build(variants, LINES, DATA, BenchSection(), "shipvlm bench")


def answers(name: str, phase: str) -> list[Answered]:
    return [line for line in LINES[name] if isinstance(line, Answered) and line.phase == phase]


def values(name: str) -> np.ndarray:
    said = {line.id: line.output for line in answers(name, "accuracy")}
    return np.array([score(record.task, said[record.id], record.answers).value for record in DATA])


def test_scores_and_paired_differences(made):
    base = values("fp16")
    for name, entry in made["variants"].items():
        own = values(name)
        assert entry["score"]["all"]["value"] == pytest.approx(own.mean())
        assert entry["difference"]["all"]["value"] == pytest.approx((own - base).mean())
        ocr = np.array([record.task == "ocr" for record in DATA])
        assert entry["difference"]["ocr"]["value"] == pytest.approx((own - base)[ocr].mean())
        assert entry["recovery"]["value"] == pytest.approx(own.sum() / base.sum())
        assert entry["flips"] == {
            "worse": (own < base).sum(),
            "better": (own > base).sum(),
            "same": (own == base).sum(),
        }


def test_times_are_medians_of_medians(made):
    for name, entry in made["variants"].items():
        by_id: dict[str, list[Answered]] = {}
        for line in answers(name, "timing"):
            by_id.setdefault(line.id, []).append(line)
        assert {len(group) for group in by_id.values()} == {6}  # three repeats in each of two blocks
        first = [line.stages.preprocess + line.stages.vision + line.stages.prefill for line in by_id["made/0000"]]
        ttft = {
            key: np.median([line.wall - sum(line.stages.decode) - 0.001 for line in group])
            for key, group in by_id.items()
        }
        assert ttft["made/0000"] == pytest.approx(np.median(first))
        assert entry["latency"]["ttft"]["value"] == pytest.approx(np.median(list(ttft.values())))
        assert entry["latency"]["ttft"]["p90"] is None  # 16 requests
        assert entry["stages"]["other"] == pytest.approx(0.001)


def test_a_ratio_is_of_each_request_with_itself(made):
    steps = {name: {line.id: [] for line in answers(name, "timing")} for name in ("fp16", "faster")}
    for name, own in steps.items():
        for line in answers(name, "timing"):
            own[line.id].append((sum(line.stages.decode) + 0.001) / 7)
    ratios = [np.median(steps["fp16"][key]) / np.median(steps["faster"][key]) for key in steps["fp16"]]
    found = made["variants"]["faster"]["speedup"]["tpot"]
    assert found["value"] == pytest.approx(np.median(ratios))
    n = len(ratios)
    place = int(stats.binom.ppf(0.025, n, 0.5)) - 1  # order statistics: the exact interval of a median
    assert stats.binom.cdf(place, n, 0.5) <= 0.025 < stats.binom.cdf(place + 1, n, 0.5)
    assert found["low"] == pytest.approx(sorted(ratios)[place])
    assert found["high"] == pytest.approx(sorted(ratios)[n - 1 - place])
    assert made["variants"]["fp16"]["speedup"] == {"ttft": None, "tpot": None, "e2e": None}


def test_memory_and_load(made):
    entry = made["variants"]["faster"]
    assert entry["memory"] == {
        "peak_rss": 1000 * MEGABYTE,
        "model_rss": 600 * MEGABYTE,
        "peak_rss_batched": 1500 * MEGABYTE,
        "peak_vram": None,
    }
    assert (entry["load_seconds"]["n"], entry["load_seconds"]["low"]) == (3, None)


def test_agreement_is_over_tokens_and_the_baseline_has_none(made):
    assert made["variants"]["fp16"]["top1_agreement"] is None
    assert made["variants"]["faster"]["top1_agreement"]["value"] == 1
    assert made["variants"]["worse"]["top1_agreement"]["value"] == pytest.approx(2 / 3)


def test_the_verdict_says_what_was_planted(made):
    assert list(made["verdict"]) == ["faster", "worse"]
    assert made["verdict"]["faster"] == {
        "score": "no difference seen",
        "ttft": "faster",
        "tpot": "faster",
        "e2e": "faster",
        "bytes": "0.55",
    }
    assert made["verdict"]["worse"] == {
        "score": "worse",
        "ttft": "slower",
        "tpot": "slower",
        "e2e": "slower",
        "bytes": "1.00",
    }


def test_too_few_items_are_inconclusive():
    few = made_report(count=20, timed=5)
    words = few["verdict"]["onnx-w8a8-static"]
    assert (words["score"], words["ttft"]) == ("INCONCLUSIVE", "INCONCLUSIVE")
    assert few["variants"]["fp16"]["latency"]["ttft"]["low"] is None


def test_verdict_without_a_value_is_inconclusive(made):
    one_token = {**made["variants"]["faster"], "speedup": {"ttft": None, "tpot": None, "e2e": None}}
    assert verdict(made["variants"]["fp16"], one_token)["tpot"] == "INCONCLUSIVE"


def test_the_worst_flips_are_losses_with_both_answers(made):
    base, by_id = dict(zip([r.id for r in DATA], values("fp16"), strict=True)), {r.id: r for r in DATA}
    assert [flip["variant"] for flip in made["flips"]].count("worse") == pairs.SHOWN
    for flip in made["flips"]:
        assert flip["answered"]["value"] < flip["baseline"]["value"] == base[flip["id"]]
        assert flip["references"] == list(by_id[flip["id"]].answers)
        assert flip["picture"].startswith("data:image/jpeg;base64,")
    lost = [flip["answered"]["value"] - flip["baseline"]["value"] for flip in made["flips"]]
    assert lost == sorted(lost)


def test_the_report_is_plain_json_and_names_what_it_is_of(made):
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["schema_version"] == report.SCHEMA_VERSION
    assert made["data"]["records"] == 160
    assert made["timed_requests"] == 16
    assert made["command"] == "shipvlm bench"
    assert set(made["libraries"]) >= {"torch", "transformers", "onnxruntime"}
    assert made["machine"]["memory"] > 1e8


def test_items_that_differ_are_not_paired():
    items = pairs.grade(answers("fp16", "accuracy"), DATA)
    with pytest.raises(ValueError, match="not paired"):
        pairs.scores(items, items[1:])


def test_weights_are_counted_as_they_are_stored(tiny_checkpoint, tmp_path):
    quantize(tiny_checkpoint, tmp_path / "w8", scheme="w8a16")
    for folder in (tiny_checkpoint, tmp_path / "w8"):
        assert describe_weights(folder)["bytes"] == (folder / "model.safetensors").stat().st_size
    assert set(describe_weights(tiny_checkpoint)["values"]) == {"F32"}
    assert "I32" in describe_weights(tmp_path / "w8")["values"]


def test_a_graph_set_is_its_graphs_and_their_data(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "graphs")
    (folder / "graphs.json").write_text('{"precision": "fp32", "scheme": "w8a8-static"}')
    with pytest.raises(InputError, match=r"no \*\.onnx"):
        model_files(folder)
    for name in ("vision.onnx", "decoder.onnx", "decoder.onnx.data"):
        (folder / name).write_bytes(b"1234")
    assert describe_weights(folder) == {"bytes": 12 + 46, "precision": "fp32", "scheme": "w8a8-static"}
    before = model_digest(folder)
    (folder / "model.safetensors").unlink()
    assert model_digest(folder) == before
    (folder / "decoder.onnx.data").write_bytes(b"1235")
    assert model_digest(folder) != before


def test_a_sample_is_spread_evenly_over_each_task():
    chosen = sample(DATA[:36], 3)
    assert [record.id for record in chosen if record.task == "vqa"] == ["made/0000", "made/0012", "made/0024"]
    assert len(chosen) == 12
    assert sample(DATA, None) == DATA
    assert len(sample(DATA, 10**6)) == len(DATA)
    with pytest.raises(InputError, match="no records"):
        sample([], 3)


def test_the_digest_sees_a_changed_weight_and_a_changed_template(tiny_checkpoint, tmp_path):
    before = model_digest(tiny_checkpoint)
    for name in ("model.safetensors", "chat_template.jinja", "preprocessor_config.json"):
        copy = tmp_path / name.replace(".", "-")
        shutil.copytree(tiny_checkpoint, copy)
        assert model_digest(copy) == before
        changed = bytearray((copy / name).read_bytes())
        changed[-1] ^= 1
        (copy / name).write_bytes(changed)
        assert model_digest(copy) != before


def test_the_digest_sees_a_processor_config(tiny_checkpoint, tmp_path):
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (copy / "processor_config.json").write_text("{}")
    first = model_digest(copy)
    (copy / "processor_config.json").write_text('{"image_processor": {}}')
    assert len({model_digest(tiny_checkpoint), first, model_digest(copy)}) == 3
