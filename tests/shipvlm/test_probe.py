"""What the probes say against the forward pass of transformers, and each engine against the other."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shipvlm.runtime.checkpoint import Checkpoint, load, prepare
from shipvlm.runtime.generate import generate
from shipvlm.runtime.graphs import GraphSet, load_graphs
from shipvlm.runtime.inputs import Request, encode
from shipvlm.runtime.model import Features, Model
from shipvlm.runtime.probe import forced_logits, trace, without_deepstack
from shipvlm.runtime.sampling import Sampling
from tests.shipvlm.made_requests import REQUESTS, requests

assert_close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load(tiny_checkpoint)


@pytest.fixture(scope="module")
def graphs(tiny_graphs: Path) -> GraphSet:
    return load_graphs(tiny_graphs, threads=1)


@pytest.fixture(scope="module", params=["checkpoint", "graphs"])
def model(request: pytest.FixtureRequest) -> Model:
    return request.getfixturevalue(request.param)


def appended(checkpoint: Checkpoint, request: Request, answer: list[int]) -> dict[str, torch.Tensor]:
    """The arguments of transformers' model for a prompt with an answer after it."""
    inputs = dict(prepare(checkpoint, [request]))
    more = {"input_ids": answer, "attention_mask": [1] * len(answer), "mm_token_type_ids": [0] * len(answer)}
    for name, values in more.items():
        inputs[name] = torch.cat([inputs[name], torch.tensor([values], dtype=torch.long)], dim=1)
    return inputs


@torch.inference_mode()
def test_vision_features_are_those_of_transformers(model: Model, checkpoint: Checkpoint) -> None:
    inputs = prepare(checkpoint, REQUESTS)
    wanted = checkpoint.model.model.get_image_features(
        inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
    )
    found = trace(model, REQUESTS, 1).features
    assert found
    assert_close(found.image, torch.cat(wanted.pooler_output).numpy())
    assert len(found.deepstack) == len(wanted.deepstack_features) == 2
    for level, theirs in zip(found.deepstack, wanted.deepstack_features, strict=True):
        assert_close(level, theirs.numpy())


@settings(max_examples=15, deadline=None)
@given(batch=st.lists(requests(), min_size=1, max_size=3), data=st.data())
def test_a_trace_is_one_forward_pass_of_transformers(
    model: Model, checkpoint: Checkpoint, batch: list[Request], data: st.DataObject
) -> None:
    steps = data.draw(st.integers(0, 4))
    answer = st.lists(st.integers(0, 250), min_size=steps + 1, max_size=steps + 1)
    answers = [data.draw(answer) for _ in batch]
    found = trace(model, batch, answers)
    assert found.decode.shape[:2] == (steps, len(batch))
    for row, (request, ids) in enumerate(zip(batch, answers, strict=True)):
        with torch.inference_mode():
            wanted = checkpoint.model(**appended(checkpoint, request, ids[:-1]), use_cache=True)
        logits, length = wanted.logits[0].numpy(), wanted.logits.shape[1]
        assert_close(np.concatenate([found.prefill[row], found.decode[:, row]]), logits)
        for (keys, values), layer in zip(found.cache, wanted.past_key_values.layers, strict=True):
            assert_close(keys[row, :, :length], layer.keys[0].numpy())
            assert_close(values[row, :, :length], layer.values[0].numpy())
            assert not keys[row, :, length:].any()
            assert not values[row, :, length:].any()
    assert found.cache[0][0].shape[2] == max(len(each) for each in found.prefill) + steps


def test_both_engines_lose_the_same_without_deepstack(checkpoint: Checkpoint, graphs: GraphSet) -> None:
    answers = [[5, 6, 7]] * len(REQUESTS)
    plain = trace(checkpoint, REQUESTS, answers)
    left, right = (trace(each, REQUESTS, answers, partial(without_deepstack, each)) for each in (checkpoint, graphs))
    assert_close(left.decode, right.decode)
    pictures = [bool(request.images) for request in REQUESTS]
    differs = [np.abs(plain.decode[:, row] - left.decode[:, row]).max() > 1e-2 for row in range(len(REQUESTS))]
    assert differs == pictures


def test_one_engine_can_be_given_the_features_of_the_other(checkpoint: Checkpoint, graphs: GraphSet) -> None:
    seen = trace(checkpoint, REQUESTS[:1], 1).features
    assert seen

    def doubled(_: Features) -> Features:
        return Features(graphs.write(2 * seen.image), tuple(graphs.write(2 * level) for level in seen.deepstack))

    def twice(features: Features) -> Features:
        return Features(2 * features.image, tuple(2 * level for level in features.deepstack))

    given, wanted = trace(graphs, REQUESTS[:1], 2, doubled), trace(checkpoint, REQUESTS[:1], 2, twice)
    assert_close(given.prefill[0], wanted.prefill[0])
    assert np.abs(given.prefill[0] - trace(graphs, REQUESTS[:1], 1).prefill[0]).max() > 1e-2


def test_the_last_place_of_each_prompt_alone(model: Model) -> None:
    whole, last = (trace(model, REQUESTS, 3, every=every) for every in (True, False))
    assert {len(each) for each in last.prefill} == {1}
    for one, other in zip(whole.prefill, last.prefill, strict=True):
        assert_close(one[-1:], other)
    assert_close(whole.decode, last.decode)


def test_a_number_of_tokens_means_the_greedy_ones(model: Model) -> None:
    found = trace(model, REQUESTS, 5)
    answers = generate(model, REQUESTS, Sampling(5, ignore_end=True))
    assert found.tokens.tolist() == [answer.token_ids for answer in answers]
    again = trace(model, REQUESTS, found.tokens.tolist())
    assert_close(again.decode, found.decode)
    assert trace(model, [Request("total")], 1).features is None


def test_rows_that_stay_keep_their_cache(model: Model) -> None:
    batch = encode(model.processor, REQUESTS)
    _, decoding = model.prefill(batch, model.vision(batch), 3)
    token = np.arange(len(REQUESTS))
    decoding.step(token)
    before = decoding.cache()
    decoding.keep([3, 1])
    for (keys, values), (all_keys, all_values) in zip(decoding.cache(), before, strict=True):
        assert np.array_equal(keys, all_keys[[3, 1], :, : keys.shape[2]])
        assert np.array_equal(values, all_values[[3, 1], :, : values.shape[2]])
    assert keys.shape[2] == max(len(batch.input_ids[row]) for row in (3, 1)) + 1


@pytest.mark.parametrize("request_", REQUESTS[:3])
def test_forced_logits_are_those_of_one_forward_pass(model: Model, checkpoint: Checkpoint, request_: Request) -> None:
    for answer in ([9], [9, 3, 200, 4]):
        with torch.inference_mode():
            wanted = checkpoint.model(**appended(checkpoint, request_, answer), logits_to_keep=len(answer) + 1).logits
        assert_close(forced_logits(model, request_, answer), wanted[0, :-1].numpy())
