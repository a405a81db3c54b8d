"""Remembered picture features against the plain forward pass of the model."""

import copy

import pytest
import torch

from bench.vision import same_vision, shared_vision
from calib_data.records import picture
from quantize.rtn import round_to_nearest
from shipvlm.runtime.checkpoint import load, prepare
from shipvlm.runtime.generate import generate
from shipvlm.runtime.inputs import Request
from shipvlm.runtime.sampling import Sampling
from tests.bench.made_records import records


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return load(tiny_checkpoint)


@pytest.fixture(scope="module")
def requests():
    return [Request(record.prompt, (picture(record),)) for record in records(6)]


def logits(model, inputs) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


class Counter:
    """Counts the pictures that go through a vision tower."""

    def __init__(self, model) -> None:
        self.pictures = 0
        self.handle = model.model.visual.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module, args, kwargs) -> None:
        self.pictures += len(kwargs["grid_thw"])


@pytest.fixture
def counter(checkpoint):
    counter = Counter(checkpoint.model)
    yield counter
    counter.handle.remove()


def test_the_logits_are_those_of_the_plain_model(checkpoint, requests):
    inputs = prepare(checkpoint, requests)
    plain = logits(checkpoint.model, inputs)
    with shared_vision([checkpoint.model]):
        first, second = logits(checkpoint.model, inputs), logits(checkpoint.model, inputs)
    torch.testing.assert_close(first, plain, rtol=0, atol=1e-5)
    assert torch.equal(first, second)


def test_another_order_and_another_batch_find_their_own_pictures(checkpoint, requests, counter):
    mixed = [requests[4], requests[0], requests[0], requests[2]]
    plain = logits(checkpoint.model, prepare(checkpoint, mixed))
    with shared_vision([checkpoint.model]):
        logits(checkpoint.model, prepare(checkpoint, requests))
        counter.pictures = 0
        found = logits(checkpoint.model, prepare(checkpoint, mixed))
        assert counter.pictures == 0
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


def test_a_variant_uses_them_and_answers_as_it_does_alone(checkpoint, requests, counter):
    variant = load(checkpoint.folder)
    round_to_nearest(variant.model, 4, None)
    alone = generate(variant, requests, Sampling(12))
    with shared_vision([checkpoint.model, variant.model]):
        generate(checkpoint, requests, Sampling(12))
        assert counter.pictures == len(requests)
        assert generate(variant, requests, Sampling(12)) == alone
    assert counter.pictures == len(requests)


def test_the_same_picture_is_computed_once_also_within_a_batch(checkpoint, requests, counter):
    with shared_vision([checkpoint.model]):
        logits(checkpoint.model, prepare(checkpoint, [requests[0]] * 3))
    assert counter.pictures == 1


def test_only_the_last_pictures_are_kept(checkpoint, requests, counter):
    with shared_vision([checkpoint.model], keep=2):
        for request in (*requests, requests[-1], requests[0]):
            logits(checkpoint.model, prepare(checkpoint, [request]))
    assert counter.pictures == len(requests) + 1


def test_nesting_and_errors_leave_the_model_as_it_was(checkpoint, requests):
    with pytest.raises(ZeroDivisionError), shared_vision([checkpoint.model, checkpoint.model]):
        outer = checkpoint.model.model.get_image_features
        with shared_vision([checkpoint.model]):
            assert checkpoint.model.model.get_image_features is not outer
        assert checkpoint.model.model.get_image_features is outer
        _ = 1 / 0
    assert "get_image_features" not in vars(checkpoint.model.model)


def test_refuses_models_that_see_differently(checkpoint):
    other = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        other.model.visual.merger.linear_fc2.weight[0, 0] += 1
    assert not same_vision(checkpoint.model, other)
    with pytest.raises(ValueError, match="different vision towers"), shared_vision([checkpoint.model, other]):
        pass
