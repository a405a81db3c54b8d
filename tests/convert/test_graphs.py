"""The graphs, run by plain ONNX Runtime, against transformers in FP32."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3VLForConditionalGeneration

from convert.export import export_graphs
from shipvlm.families.qwen3_vl.shape import Shape, read_shape
from tests.convert.models import (
    load_reference,
    make_prompt,
    read_config,
    reference_text,
    reference_vision,
    without_deepstack,
    write_checkpoint,
)
from tests.convert.sessions import Decoder, run_vision, session


@dataclass
class Exported:
    checkpoint: Path
    folder: Path
    reference: Qwen3VLForConditionalGeneration
    shape: Shape
    vision: ort.InferenceSession


@pytest.fixture(
    scope="module", params=[(1, True), (2, False), (3, True), (3, False)], ids="{0[0]} levels, tied {0[1]}".format
)
def exported(request, tmp_path_factory, tiny_checkpoint) -> Exported:
    folder = tmp_path_factory.mktemp("graphs")
    checkpoint = write_checkpoint(folder / "checkpoint", tiny_checkpoint, *request.param)
    export_graphs(checkpoint, folder / "onnx", "fp32")
    shape = read_shape(read_config(checkpoint))
    vision = session(folder / "onnx" / "vision.onnx")
    return Exported(checkpoint, folder / "onnx", load_reference(checkpoint), shape, vision)


def assert_close(found: np.ndarray, wanted: np.ndarray, share: float = 2e-5) -> None:
    """Cosine of at least 0.99999 in each row, and no number off by more than a `share` of the largest."""
    rows, others = found.reshape(-1, found.shape[-1]), wanted.reshape(-1, wanted.shape[-1])
    cosines = (rows * others).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(others, axis=1)
    assert cosines.min() >= 0.99999
    np.testing.assert_allclose(found, wanted, rtol=0, atol=share * np.abs(wanted).max())


grids = st.one_of(
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.tuples(st.just(1), st.integers(2, 60)),
    st.tuples(st.integers(2, 60), st.just(1)),
).map(lambda merged: (1, 2 * merged[0], 2 * merged[1]))


@given(st.lists(grids, min_size=1, max_size=4), st.integers(0, 2**32))
@settings(max_examples=12, deadline=None)
def test_picture_features_are_those_of_transformers_at_every_level(exported, chosen, seed):
    prompt = make_prompt(np.random.default_rng(seed), chosen, words=1)

    found = [
        run_vision(exported.vision, *picture, exported.shape) for picture in zip(prompt.pixels, chosen, strict=True)
    ]

    wanted = reference_vision(exported.reference, prompt)
    assert len(wanted) == 1 + len(exported.shape.vision.deepstack)
    for level, parts in zip(wanted, zip(*found, strict=True), strict=True):
        assert_close(np.concatenate(parts), level)


@pytest.mark.slow
@pytest.mark.parametrize("exported", [(3, True)], indirect=True, ids=["3 levels"])
def test_a_picture_of_forty_by_forty_tokens_is_exact_too(exported):
    prompt = make_prompt(np.random.default_rng(0), [(1, 80, 80)], words=1)

    found = run_vision(exported.vision, prompt.pixels[0], prompt.grids[0], exported.shape)

    for level, part in zip(reference_vision(exported.reference, prompt), found, strict=True):
        assert_close(part, level)


@given(
    st.lists(st.tuples(st.lists(grids, max_size=4), st.integers(1, 6)), min_size=1, max_size=3),
    st.integers(0, 3),
    st.integers(0, 2**32),
)
@settings(max_examples=12, deadline=None)
def test_logits_and_caches_of_unequal_prompts_are_those_of_transformers(exported, batch, steps, seed):
    draw = np.random.default_rng(seed)
    prompts = [make_prompt(draw, chosen, words) for chosen, words in batch]
    answers = draw.integers(3, 80, (len(prompts), steps)).tolist()
    longest = max(len(prompt.ids) for prompt in prompts)
    decoder = Decoder(exported.folder / "decoder.onnx", exported.shape, longest + steps + 2)

    prefill = np.split(decoder.prefill(exported.vision, prompts), np.cumsum([len(prompt.ids) for prompt in prompts]))
    decoded = [decoder.step(list(tokens)) for tokens in zip(*answers, strict=True)]

    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        logits, caches = reference_text(exported.reference, prompt, answer)
        assert_close(np.concatenate([prefill[row], *(step[row : row + 1] for step in decoded)]), logits)
        for layer, pair in enumerate(caches):
            for kind, wanted in zip(("key", "value"), pair, strict=True):
                cache = decoder.caches[f"{kind}_cache_{layer}"].numpy()[row]
                assert_close(cache[:, : wanted.shape[1]], wanted)
                np.testing.assert_array_equal(cache[:, longest + steps :], 3.0)  # as it was before: nothing written


def test_deepstack_is_wired_as_transformers_has_it(exported, tmp_path):
    prompt = make_prompt(np.random.default_rng(5), [(1, 4, 6), (1, 8, 2)], words=3)
    decoder = Decoder(exported.folder / "decoder.onnx", exported.shape, 32)

    whole = decoder.prefill(exported.vision, [prompt]).copy()
    ablated = decoder.prefill(exported.vision, [prompt], scale_deepstack=0.0)

    assert np.abs(whole - ablated).max() > 0.01 * np.abs(whole).max()
    wanted, _ = reference_text(without_deepstack(load_reference(exported.checkpoint)), prompt, [])
    assert_close(ablated, wanted)


def test_only_the_asked_logits_are_computed(exported):
    prompt = make_prompt(np.random.default_rng(6), [(1, 4, 4)], words=5)
    decoder = Decoder(exported.folder / "decoder.onnx", exported.shape, 32)
    everything = decoder.prefill(exported.vision, [prompt]).copy()

    some = decoder.prefill(exported.vision, [prompt], wanted=[7, 2])

    np.testing.assert_allclose(some, everything[[7, 2]], rtol=0, atol=1e-5)
