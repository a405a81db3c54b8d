"""The same loop over a graph set: the checkpoint's answers token for token, in buffers that stay where they are; and
graph sets that are not whole are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.vision import shared_vision
from calib_data.load import load_records
from calib_data.records import picture as picture_of
from convert.export import export_graphs
from shipvlm.errors import InputError, SetupError
from shipvlm.runtime import decoder, session
from shipvlm.runtime import graphs as module
from shipvlm.runtime.checkpoint import Checkpoint, load
from shipvlm.runtime.generate import generate
from shipvlm.runtime.graphs import GraphSet, load_graphs, score_bytes
from shipvlm.runtime.inputs import Request, encode
from shipvlm.runtime.model import open_model
from shipvlm.runtime.sampling import Sampling
from tests.shipvlm.made_requests import REQUESTS, requests
from tests.shipvlm.test_generate import tokens, transformers_tokens

MODEL = Path("examples/tiny_qwen3_vl")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load(tiny_checkpoint)


@pytest.fixture(scope="module")
def graphs(tiny_graphs: Path) -> GraphSet:
    return load_graphs(tiny_graphs, threads=1)


@settings(max_examples=25, deadline=None)
@given(batch=st.lists(requests(), min_size=1, max_size=4), batch_size=st.integers(1, 4))
def test_answers_are_those_of_the_checkpoint(
    checkpoint: Checkpoint, graphs: GraphSet, batch: list[Request], batch_size: int
) -> None:
    wanted = generate(checkpoint, batch, Sampling(6))
    assert generate(graphs, batch, Sampling(6), batch_size) == wanted


def test_rows_that_end_leave_the_batch(checkpoint: Checkpoint, graphs: GraphSet) -> None:
    whole = generate(graphs, REQUESTS, Sampling(12))
    end = next(token for answer in whole for token in answer.token_ids[1:3] if token != answer.token_ids[0])
    graphs.end_ids.append(end)
    try:
        cut = generate(graphs, REQUESTS, Sampling(12), batch_size=len(REQUESTS))
    finally:
        graphs.end_ids.pop()
    assert tokens(cut) == [ids[: ids.index(end)] if end in ids else ids for ids in tokens(whole)]
    assert len({len(answer.token_ids) for answer in cut}) > 2


def test_sampling_draws_the_same_tokens_from_either_engine(checkpoint: Checkpoint, graphs: GraphSet) -> None:
    hot = Sampling(8, temperature=0.9, top_p=0.9, top_k=40, repetition_penalty=1.1, seed=3)
    assert generate(graphs, REQUESTS, hot) == generate(checkpoint, REQUESTS, hot)


def test_a_step_allocates_nothing(graphs: GraphSet) -> None:
    batch = encode(graphs.processor, REQUESTS)
    logits, decoding = graphs.prefill(batch, graphs.vision(batch), 4)
    buffers = [*decoding._inputs.values(), *decoding._caches]
    before = [buffer.data_ptr() for buffer in buffers]
    token = logits.argmax(-1)
    first, second = decoding.step(token), decoding.step(token)
    assert first is second or np.shares_memory(first, second)
    assert [buffer.data_ptr() for buffer in buffers] == before
    assert {buffer.shape()[2] for buffer in decoding._caches} == {max(map(len, batch.input_ids)) + 4}


def test_answers_longer_than_the_room_in_the_cache(
    checkpoint: Checkpoint, graphs: GraphSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "CPU_ROOM", 3)
    long = Sampling(11, ignore_end=True)
    assert generate(graphs, REQUESTS, long) == generate(checkpoint, REQUESTS, long)
    batch = encode(graphs.processor, REQUESTS)
    _, decoding = graphs.prefill(batch, graphs.vision(batch), 1000)
    longest = max(map(len, batch.input_ids))
    sizes = []
    for _ in range(7):
        decoding.step(np.zeros(len(REQUESTS), np.int64))
        sizes.append(decoding._caches[0].shape()[2] - longest)
    assert sizes == [3, 3, 3, 6, 6, 6, 9]


def test_batches_of_a_model_do_not_share_their_caches(graphs: GraphSet) -> None:
    alone = generate(graphs, REQUESTS[:1], Sampling(4))[0].token_ids
    batch = encode(graphs.processor, REQUESTS[:1])
    logits, decoding = graphs.prefill(batch, graphs.vision(batch), 4)
    generate(graphs, REQUESTS[2:], Sampling(4))
    found = [int(logits.argmax())]
    while len(found) < len(alone):
        found.append(int(decoding.step(np.array(found[-1:])).argmax()))
    assert found == alone


def test_half_precision_graphs_run(tiny_checkpoint: Path, tmp_path: Path, checkpoint: Checkpoint) -> None:
    export_graphs(tiny_checkpoint, tmp_path / "fp16", "fp16")
    half = open_model(tmp_path / "fp16", threads=1)
    assert half.dtype == "float16"
    batch = encode(half.processor, REQUESTS)
    (found, _), (wanted, _) = (each.prefill(batch, each.vision(batch), 1) for each in (half, checkpoint))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


def test_open_model_tells_a_graph_set_from_a_checkpoint(tiny_checkpoint: Path, tiny_graphs: Path) -> None:
    assert isinstance(open_model(tiny_graphs, threads=1), GraphSet)
    assert open_model(tiny_graphs, dtype="float32").dtype == "float32"
    assert isinstance(open_model(tiny_checkpoint), Checkpoint)
    assert open_model(tiny_checkpoint, dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(InputError, match="compute in float32, not in float16"):
        open_model(tiny_graphs, dtype="float16")
    with pytest.raises(InputError, match="no such folder"):
        open_model(tiny_graphs / "elsewhere")


def test_threads_are_those_asked_for(tiny_graphs: Path) -> None:
    graphs = load_graphs(tiny_graphs, threads=3)
    assert {
        session.get_session_options().intra_op_num_threads for session in (graphs.tower, graphs.decoder.session)
    } == {3}


@pytest.mark.parametrize(
    ("processor", "flags", "saturates"),
    [
        ("x86_64", "flags\t: fpu avx2 avx512f avx512_vnni", False),
        ("AMD64", "flags : avx2 avx_vnni fma", False),
        ("x86_64", "flags : fpu avx2 avx512f", True),
        ("x86_64", "", True),
        ("aarch64", "Features : fp asimd", False),
    ],
)
def test_integers_do_not_saturate_where_the_processor_would_let_them(
    tiny_graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str, flags: str, saturates: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(session, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(session, "machine", lambda: processor)
    options = session.open_session(tiny_graphs / "decoder.onnx", "cpu").get_session_options()
    try:
        found = options.get_session_config_entry("session.x64quantprecision")
    except RuntimeError:  # there is no such entry
        found = "0"
    assert found == str(int(saturates))


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def halve(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return change


def write(name: str, **settings: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | settings))

    return change


def with_fewer_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(config))


def without_positions(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["text_config"]["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("decoder.onnx"), "decoder.onnx: ONNX Runtime cannot load it .*missing or damaged, convert again"),
        (remove("vision.onnx.data"), "vision.onnx: ONNX Runtime cannot load it .*vision.onnx.data"),
        (halve("decoder.onnx.data"), "decoder.onnx: ONNX Runtime cannot load it .*damaged"),
        (halve("vision.onnx"), "vision.onnx: ONNX Runtime cannot load it .*Protobuf parsing failed"),
        (halve("graphs.json"), "graphs.json: not readable as JSON"),
        (write("graphs.json", schema_version=2), "schema_version is 2, not 1; convert again"),
        (write("graphs.json", precision="int4"), "precision is 'int4'; convert again"),
        (write("graphs.json", deepstack_levels=3), "deepstack_levels is 3, not 2"),
        (without_positions, "config.json: text_config.max_position_embeddings is None"),
        (with_fewer_layers, r"inputs do not fit config.json \(key_cache_2, value_cache_2\)"),
        (remove("tokenizer.json"), "missing tokenizer.json"),
    ],
)
def test_refuses_a_graph_set_that_is_not_whole(
    tiny_graphs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(tiny_graphs, tmp_path / "copy")
    change(folder)
    with pytest.raises(InputError, match=message) as refused:
        open_model(folder)
    assert "\n" not in str(refused.value)
    assert "onnxruntime" not in capfd.readouterr().err


def test_the_scores_of_the_8b_tower_are_as_large_as_they_are() -> None:
    assert score_bytes((1, 128, 128), 16) == 16 * 4 * 16384**2


def test_a_picture_whose_scores_do_not_fit_is_refused_before_it_runs(
    graphs: GraphSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = encode(graphs.processor, REQUESTS[2:3])
    grids = [grid for row in batch.grids for grid in row]
    most = max(score_bytes(grid, graphs.decoder.shape.vision.heads) for grid in grids)
    monkeypatch.setattr(module, "available_memory", lambda: most)
    assert generate(graphs, REQUESTS[2:3], Sampling(1))
    monkeypatch.setattr(module, "available_memory", lambda: most - 1)
    largest = max(grids, key=lambda grid: grid[1] * grid[2])
    patches = f"{largest[1]} x {largest[2]} = {largest[1] * largest[2]} patches"
    with pytest.raises(InputError, match=rf"{patches} .* GB .*size.longest_edge in preprocessor_config.json"):
        generate(graphs, REQUESTS[2:3], Sampling(1))


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="ONNX Runtime can use CUDA here"
)
def test_refuses_cuda_where_there_is_none(tiny_graphs: Path) -> None:
    with pytest.raises(SetupError, match="CUDAExecutionProvider"):
        open_model(tiny_graphs, device="cuda")


@pytest.mark.gpu
def test_cuda_answers_as_cpu(tiny_graphs: Path, graphs: GraphSet) -> None:
    pytest.importorskip("onnxruntime")
    on_gpu = open_model(tiny_graphs, device="cuda")
    assert generate(on_gpu, REQUESTS, Sampling(8)) == generate(graphs, REQUESTS, Sampling(8))


@pytest.mark.slow
def test_the_default_model_answers_100_items_alike_three_ways(tmp_path: Path) -> None:
    """transformers' generate, our loop over the checkpoint, our loop over its FP32 graphs."""
    records = load_records("evaluation")
    tasks = {task: [record for record in records if record.task == task] for task in {r.task for r in records}}
    asked = [Request(r.prompt, (picture_of(r),)) for task in sorted(tasks) for r in tasks[task][:25]]
    asked.sort(key=lambda request: request.images[0].width * request.images[0].height)  # little padding: it is slow
    assert len(asked) == 100
    export_graphs(MODEL, tmp_path / "graphs", "fp32")
    checkpoint, graphs = load(MODEL), open_model(tmp_path / "graphs", threads=1)
    wanted: list[list[int]] = []
    with shared_vision([checkpoint.model], keep=100):
        for start in range(0, 100, 20):
            wanted += transformers_tokens(checkpoint.model, checkpoint, asked[start : start + 20], max_new_tokens=32)
        assert tokens(generate(checkpoint, asked, Sampling(32), batch_size=16)) == wanted
    assert tokens(generate(graphs, asked, Sampling(32), batch_size=16)) == wanted
