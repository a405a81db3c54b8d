import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.counts import count, count_graphs, count_parameters, parameter_bytes
from bench.graph_counts import count_graph
from bench.limits import LIMITS, write_limits
from bench.machine_rates import Bandwidth, Rate, Rates
from bench.roofline import kinds, limits, lines
from bench.variants import Variant
from bench.work import Count, Work, work_of
from bench.workloads import CASES
from convert.export import export_graphs
from convert.random_weights import export_random
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.layers import decoder_groups
from shipvlm.families.qwen3_vl.parameters import HEAD, parameter_shapes
from shipvlm.families.qwen3_vl.published import PUBLISHED
from shipvlm.families.qwen3_vl.shape import read_shape
from shipvlm.runtime.inputs import Batch
from shipvlm.sizes import Header
from tests.bench.made_records import records

LARGE = read_shape(PUBLISHED["qwen3-vl-8b"])
NO_PICTURE = Work(batch=1, patches=0, prompt_tokens=1, answer_tokens=2)


def rates(bytes_a_second: float = 1e9, **operations: float) -> Rates:
    by_kind: dict[Any, float] = {"fp32": 1e12, **operations}
    return Rates(
        device="cpu",
        name="made",
        threads=1,
        bandwidth=(Bandwidth(size=1, value=bytes_a_second, by="copy"),),
        operations={kind: Rate(value=value, by="made") for kind, value in by_kind.items()},
        seconds=0.0,
    )


def headers(bits: int | None, group: int | None = None) -> dict[str, Header]:
    """Of the 8B in BF16, the decoder's Linears in integers of `bits` with BF16 scales for each `group` of columns."""
    found = {name: Header(size, "BF16") for name, size in parameter_shapes(LARGE).items()}
    if bits:
        for linear in (name for group in decoder_groups(LARGE.text.layers) for name in group):
            rows, columns = found.pop(f"{linear}.weight").shape
            found[f"{linear}.weight_packed"] = Header((rows, columns * bits // 32), "I32")
            found[f"{linear}.weight_scale"] = Header((rows, columns // (group or columns)), "BF16")
    return found


def decode_bytes(bits: int | None, group: int | None = None) -> int:
    stored = parameter_bytes(LARGE, headers(bits, group))
    return count_parameters(LARGE, stored, NO_PICTURE, "bfloat16")["decode"].weights


def test_the_bytes_of_the_published_8b():
    """By hand: 36 layers of (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 12288) = 6.946e9 values and a head of 0.622e9."""
    whole = decode_bytes(None)
    assert whole == pytest.approx(2 * (6.946e9 + 0.6223e9), rel=1e-3) == pytest.approx(15.1e9, rel=5e-3)
    assert decode_bytes(8) == pytest.approx(8.2e9, rel=5e-3)
    assert whole / decode_bytes(8) == pytest.approx(1.85, abs=0.005)
    assert decode_bytes(4, group=64) == pytest.approx(4.9e9, rel=1e-2)  # 4.25 bits a weight with its scales
    assert whole / decode_bytes(4, group=64) == pytest.approx(3.07, abs=0.005)
    assert whole / decode_bytes(4, group=128) == pytest.approx(3.14, abs=0.005)


def test_the_cache_of_the_published_8b():
    counted = count_parameters(LARGE, parameter_bytes(LARGE, headers(None)), Work(2, 0, 1000, 2), "bfloat16")
    assert counted["prefill"].cache == 2 * 1000 * 147_456  # a token: 36 layers, 8 heads, 128 wide, K and V, 2 bytes
    assert counted["decode"].cache == 2 * 1001 * 147_456


def test_the_average_step_of_an_answer():
    steps = [17 + step for step in range(9 - 1)]  # tokens in the cache before each decode step
    assert Work(1, 0, 17, 9).past == math.floor(np.mean(steps))
    assert Work(1, 0, 17, 2).past == 17
    counted = count_parameters(LARGE, parameter_bytes(LARGE, headers(None)), Work(1, 0, 17, 1), "bfloat16")
    assert counted.keys() == {"prefill"}  # the first token is the prefill's


@pytest.fixture(scope="session")
def graphs(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("roofline") / "fp32"
    export_graphs(tiny_checkpoint, folder, "fp32")
    return folder


WORK = Work(batch=3, patches=48, prompt_tokens=21, answer_tokens=8)


def test_a_graph_and_its_checkpoint_count_the_same(graphs, tiny_checkpoint):
    """Two ways to the same numbers: one from the nodes of the graphs, one from the shape of the model."""
    by_graph, by_shape = count(graphs, WORK), count(tiny_checkpoint, WORK, "float32")
    assert by_graph.keys() == by_shape.keys() == {"vision", "prefill", "decode"}
    for stage, one in by_graph.items():
        other = by_shape[stage]
        assert one.operations == other.operations
        assert one.cache == other.cache
        # The graph's vision part runs once a picture. Beside the weights: constants of shapes, looked-up rows.
        runs = WORK.batch if stage == "vision" else 1
        assert one.weights == pytest.approx(runs * other.weights, rel=0.03)


def test_operations_against_torch(tiny_checkpoint):
    """torch counts what the transformers model computes: attention as matrix products, the masked part with it."""
    from shipvlm.runtime.checkpoint import load

    model = load(tiny_checkpoint).model.model
    shape = read_shape(json.loads((tiny_checkpoint / "config.json").read_text()))
    work = Work(batch=1, patches=16, prompt_tokens=12, answer_tokens=1)
    counted = count(tiny_checkpoint, work, "float32")
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.get_image_features(torch.zeros(16, shape.vision.patch_width), torch.tensor([[1, 4, 4]]))
    assert counter.get_total_flops() == counted["vision"].operations["fp32"]
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.language_model(input_ids=torch.ones(1, 12, dtype=torch.long), position_ids=torch.zeros(3, 1, 12).long())
    text = shape.text
    head = 2 * text.hidden * text.vocab
    each_pair = 4 * text.layers * text.heads * text.head_dim
    masked = counted["prefill"].operations["fp32"] - head - each_pair * (12 * 13 // 2)
    rotation = 2 * 3 * 12 * text.head_dim // 2  # transformers takes positions times frequencies as a product
    assert counter.get_total_flops() == masked + each_pair * 12 * 12 + rotation


def test_bitsandbytes_counts_as_it_holds_the_linears(tiny_checkpoint):
    plain = count(tiny_checkpoint, WORK, "float32")["decode"]
    text = read_shape(json.loads((tiny_checkpoint / "config.json").read_text())).text
    width, values = text.heads * text.head_dim, text.kv_heads * text.head_dim
    rows = text.layers * (width + 2 * values + text.hidden + 2 * text.intermediate + text.hidden)
    each = text.layers * (text.hidden * (2 * width + 2 * values) + 3 * text.hidden * text.intermediate)
    int8 = count(tiny_checkpoint, WORK, "float32", "bnb-int8")["decode"]
    assert plain.weights - int8.weights == 3 * each - 4 * rows
    assert int8.operations["int8"] == 2 * each * WORK.batch
    nf4 = count(tiny_checkpoint, WORK, "float32", "bnb-nf4")["decode"]
    assert plain.weights - nf4.weights == each * 4 - each * 4.5 / 8
    assert nf4.operations == plain.operations


def test_int8_graphs_are_read_as_integers(tmp_path):
    small = replace(
        LARGE,
        text=replace(LARGE.text, hidden=64, intermediate=96, layers=3, heads=4, kv_heads=2, head_dim=16, vocab=50,
                     mrope_section=(4, 2, 2)),
        vision=replace(LARGE.vision, out_hidden=64),
    )  # fmt: skip
    work, found = replace(NO_PICTURE, prompt_tokens=10), {}
    for name, scheme in {"float": None, "int8": "w8a8-static"}.items():
        export_random(small, tmp_path / name, "fp32", scheme)
        (tmp_path / name / "vision.onnx").unlink(missing_ok=True)
        found[name] = count_graphs(tmp_path / name, work)["decode"]
    linears = 3 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 96)
    saved = found["float"].weights - found["int8"].weights
    scales = 3 * (64 + 2 * 32 + 64 + 2 * 96 + 64) * 4
    assert saved == pytest.approx(linears * (4 - 1) - scales, abs=200)
    assert found["int8"].operations["int8"] == 2 * linears
    assert sum(found["int8"].operations.values()) == found["float"].operations["fp32"]


def test_quantized_checkpoints_count_as_stored():
    stored = parameter_bytes(LARGE, headers(8), "float32")
    plain = parameter_bytes(LARGE, headers(None), "float32")
    linear = decoder_groups(1)[0][0] + ".weight"
    assert stored[linear] == 4096 * 4096 + 2 * 4096
    assert (plain[linear], stored[HEAD]) == (4 * 4096 * 4096, plain[HEAD])
    with pytest.raises(InputError, match="has no tensor model"):
        parameter_bytes(LARGE, {})


def test_attention_counts_what_the_mask_lets_through():
    tokens, past = 5, 7
    mask = np.tril(np.ones((tokens, past + tokens)), k=past)
    operator = onnx.helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=1)
    values = [onnx.helper.make_tensor_value_info(name, 1, (1, 2, "n", 4)) for name in "qkv"]
    output = onnx.helper.make_tensor_value_info("y", 1, None)
    graph = onnx.helper.make_graph([operator], "g", values, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 24)])
    assert count_graph(model, {"n": tokens}, past).operations == {"fp32": 4 * 2 * 4 * int(mask.sum())}
    with pytest.raises(InputError, match="'n' that has no size"):
        count_graph(model, {})


def test_graphs_with_other_operators_are_refused():
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, 1, (1, 1, 4, 4)) for name in "xw"]
    graph = onnx.helper.make_graph([node], "g", values, [onnx.helper.make_tensor_value_info("y", 1, None)])
    with pytest.raises(InputError, match="not counted: Conv"):
        count_graph(onnx.helper.make_model(graph), {})


def test_the_work_of_a_batch():
    rows = (np.zeros(9, np.int64), np.zeros(12, np.int64))
    assert work_of(Batch(rows, (((1, 4, 6),), ((1, 2, 2),)), np.zeros((28, 6))), 5) == Work(2, 24, 12, 5)
    assert work_of(Batch(rows, ((), ()), np.zeros((0, 0))), 5) == Work(2, 0, 12, 5)
    with pytest.raises(InputError, match="one picture a request"):
        work_of(Batch(rows[:1], (((1, 2, 2), (1, 2, 2)),), np.zeros((8, 6))), 5)


def test_limits_by_hand():
    work = Work(batch=1, patches=4, prompt_tokens=10, answer_tokens=5)
    baseline = {
        "vision": Count(weights=100, cache=0, operations={"fp32": 4000}, resident=0),
        "prefill": Count(weights=1000, cache=50, operations={"fp32": 500}, resident=0),
        "decode": Count(weights=1000, cache=20, operations={"fp32": 50}, resident=0),
    }
    quick = baseline | {
        "prefill": Count(weights=500, cache=50, operations={"fp32": 100, "int8": 400}, resident=0),
        "decode": Count(weights=490, cache=20, operations={"fp32": 10, "int8": 40}, resident=0),
    }
    found = limits({"original": baseline, "int8": quick}, work, rates(1000, fp32=1000, int8=4000))
    stages = found["variants"]["original"]["stages"]
    assert stages["vision"] == {
        "bytes": 100,
        "operations": 4000,
        "operations_by_type": {"fp32": 4000},
        "seconds_at_best": 4.0,
        "bound": "compute",
    }
    assert (stages["prefill"]["seconds_at_best"], stages["prefill"]["bound"]) == (1.05, "memory")
    assert stages["decode"]["seconds_at_best"] == 1.02
    assert stages["request"]["seconds_at_best"] == pytest.approx(4 + 1.05 + 4 * 1.02)
    assert stages["request"]["bytes"] == 100 + 1050 + 4 * 1020
    assert stages["request"]["bound"] == "memory"
    possible = found["variants"]["int8"]["most_possible"]
    assert possible["vision"] == 1.0
    assert possible["prefill"] == pytest.approx(1.05 / 0.55)
    assert possible["decode"] == pytest.approx(1.02 / 0.51)
    assert kinds({"a": baseline, "b": quick}) == ("fp32", "int8")
    json.dumps(found, allow_nan=False)
    said = lines(found)
    assert (
        "decode 510 ms (memory, 2.00x)" in said[2]
        and "at most 1.39x possible by bytes and operations, 6,590 ms" in said[2]
    )
    assert "possible" not in said[1]
    noisy = rates(1000, fp32=1000, int8=4000).model_copy(update={"reasons": ("a compiler ran",)})
    assert "AMBIGUOUS: a compiler ran" in lines(limits({"original": baseline}, work, noisy))[1]


def test_the_8b_at_most_1_85_times_faster():
    counted = {
        name: count_parameters(LARGE, parameter_bytes(LARGE, headers(bits)), NO_PICTURE, "bfloat16")
        for name, bits in {"original": None, "w8a16": 8}.items()
    }
    found = limits(counted, NO_PICTURE, rates(3.35e12, bf16=1e15))
    assert found["variants"]["original"]["stages"]["decode"]["seconds_at_best"] == pytest.approx(1 / 221, rel=5e-3)
    assert any("w8a16: at most 1.85x possible" in line for line in lines(found))


def test_the_limits_of_a_run(graphs, tiny_checkpoint, monkeypatch, tmp_path):
    """Case by case, the null left out; the baseline in FP32 on a CPU, a type of its own where the variant has one."""
    asked, said = [], []

    def made(device, kinds, threads):
        asked.append((device, set(kinds), threads))
        return rates(fp32=1e10, fp16=1e10)

    monkeypatch.setattr("bench.machine_rates.measure_rates", made)
    half = replace(Variant.of("fp16", tiny_checkpoint), dtype="float16")
    variants = [Variant.of("original", tiny_checkpoint), half, Variant.of("onnx", graphs)]
    variants.append(replace(variants[0], name="null"))
    plan = SimpleNamespace(cases=(CASES["vqa-small"], CASES["batch8"]))
    write_limits(tmp_path, plan, variants, records(3), 2, said.append)
    found = json.loads((tmp_path / LIMITS).read_text())
    assert asked == [("cpu", {"fp32", "fp16"}, 2)]
    assert found.keys() == {"vqa-small", "batch8"}
    one, eight = found["vqa-small"], found["batch8"]
    assert one["variants"].keys() == {"original", "fp16", "onnx"}
    # This checkpoint's processor takes 64 patches at most: 16 tokens beside those of the words and the template.
    assert (one["work"]["batch"], one["work"]["patches"], eight["work"]["batch"]) == (1, 64, 8)
    assert one["work"]["prompt_tokens"] > 16 + 16
    stages = {name: each["stages"] for name, each in one["variants"].items()}
    assert stages["fp16"]["decode"]["bytes"] == pytest.approx(stages["original"]["decode"]["bytes"] / 2)
    assert stages["onnx"]["decode"]["bytes"] == pytest.approx(stages["original"]["decode"]["bytes"], rel=0.05)
    assert any("onnx: at most 1.0" in line for line in said)
