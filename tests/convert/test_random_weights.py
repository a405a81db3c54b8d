"""Random graph sets: of the right shape, the same model in both types, and never in memory as a whole."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from convert.quantized import Scheme, check_tensors
from convert.random_weights import export_random, random_tensors
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.published import PUBLISHED
from shipvlm.families.qwen3_vl.shape import read_shape
from tests.convert.sessions import Decoder, Prompt

PUBLISHED_SHAPE = read_shape(PUBLISHED["qwen3-vl-2b"])
SHAPE = replace(
    PUBLISHED_SHAPE,
    text=replace(PUBLISHED_SHAPE.text, vocab=2048, hidden=512, layers=8),
    vision=replace(PUBLISHED_SHAPE.vision, out_hidden=512),
)


def test_the_tensors_are_those_of_a_checkpoint_and_stand_for_the_same_numbers():
    floats, integers = random_tensors(SHAPE, None, 0), random_tensors(SHAPE, "w8a8-static", 0)

    check_tensors(SHAPE, floats, None)
    check_tensors(SHAPE, integers, Scheme(8, None, static=True))
    name = "model.language_model.layers.2.mlp.down_proj.weight"
    stood_for = integers[name].numpy() * integers[f"{name}_scale"].numpy()
    np.testing.assert_array_equal(floats[name].numpy(), stood_for)
    assert len(np.unique(floats[name].numpy())) > 200


@pytest.mark.slow
def test_tensors_are_written_one_by_one_progress_is_told_and_the_graph_runs(tmp_path):
    told: list[tuple[str, int, int]] = []
    tracemalloc.start()

    report = export_random(SHAPE, tmp_path, "fp32", "w8a8-static", progress=lambda *call: told.append(call))

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    largest = 2 * SHAPE.text.intermediate * SHAPE.text.hidden  # gate and up, INT8
    assert report["graphs"].keys() == {"decoder"}
    assert report["graphs"]["decoder"]["bytes"] > 10 * largest
    assert peak < 5 * largest
    assert told == [("export decoder", done + 1, len(told)) for done in range(len(told))]
    decoder = Decoder(tmp_path / "decoder.onnx", SHAPE, 16)
    logits = decoder.prefill(None, [Prompt([5, 6, 7], [], [])])
    assert np.isfinite(logits).all()
    assert logits.std() > 0.1


@pytest.mark.parametrize(("scheme", "layers", "problem"), [("w4a16", None, "w4a16"), (None, 2, "3 levels")])
def test_what_cannot_be_made_is_refused(tmp_path, scheme, layers, problem):
    with pytest.raises(InputError, match=problem):
        export_random(SHAPE, tmp_path / "out", "fp32", scheme, layers=layers)

    assert not (tmp_path / "out").exists()
