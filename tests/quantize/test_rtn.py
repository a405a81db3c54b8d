"""Round-to-nearest against a float64 numpy reference written from the formula in its docstring."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantize.rtn import decoder_linears, round_to_nearest
from shipvlm.errors import InputError
from shipvlm.runtime.checkpoint import load


def holder(weight: torch.Tensor) -> nn.Module:
    """A model with one decoder layer that has one Linear, and a vision Linear that must stay as it is."""
    model = nn.Module()
    model.model = nn.Module()
    model.model.language_model, model.model.visual = nn.Module(), nn.Linear(4, 4)
    layer = nn.Module()
    layer.o_proj = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.o_proj.weight.data = weight.clone()
    model.model.language_model.layers = nn.ModuleList([layer])
    return model


def reference(weight: np.ndarray, bits: int, group_size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Dequantized weights and the scale of each weight, in float64."""
    rows, columns = weight.shape
    groups = weight.astype(np.float64).reshape(rows, -1, group_size or columns)
    scale = np.abs(groups).max(axis=2, keepdims=True) / ((2**bits - 1) / 2)
    steps = np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0)
    integers = np.clip(np.rint(steps), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (integers * scale).reshape(weight.shape), np.broadcast_to(scale, groups.shape).reshape(weight.shape)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([8, 4, 3, 2]),
    group_size=st.sampled_from([None, 128]),
    shape=st.tuples(st.integers(1, 5), st.sampled_from([128, 256])),
    seed=st.integers(0, 2**32 - 1),
    magnitude=st.sampled_from([1e-4, 1.0, 50.0]),
)
def test_equals_the_float64_reference(bits, group_size, shape, seed, magnitude):
    weight = (np.random.default_rng(seed).standard_normal(shape) * magnitude).astype(np.float32)
    weight[0, :3] = 0.0
    model = holder(torch.from_numpy(weight))
    assert round_to_nearest(model, bits, group_size) == 1
    found = model.model.language_model.layers[0].o_proj.weight.detach().numpy()
    wanted, scale = reference(weight, bits, group_size)
    # A weight half way between two integers may go either way in float32 (the largest one always lies there).
    middle = np.abs(np.abs(weight / scale) % 1 - 0.5) < 1e-4
    np.testing.assert_allclose(found[~middle], wanted[~middle], rtol=1e-5, atol=1e-12)
    assert (np.abs(found - weight)[middle] <= 0.501 * scale[middle]).all()


def test_zero_rows_stay_zero():
    weight = torch.zeros(2, 128)
    weight[1] = torch.linspace(-1, 1, 128)
    model = holder(weight)
    round_to_nearest(model, 2, None)
    rounded = model.model.language_model.layers[0].o_proj.weight
    assert torch.equal(rounded[0], weight[0])
    assert len(rounded[1].unique()) == 4


def test_only_the_text_decoder_changes(tiny_checkpoint):
    before, after = load(tiny_checkpoint).model, load(tiny_checkpoint).model
    assert round_to_nearest(after, 4, None) == len(decoder_linears(before)) == 3 * 7
    changed = {
        name
        for (name, left), (_, right) in zip(before.named_parameters(), after.named_parameters(), strict=True)
        if not torch.equal(left, right)
    }
    assert changed == {f"{name}.weight" for name in decoder_linears(before)}


def test_fewer_bits_move_the_weights_more(tiny_checkpoint):
    original = load(tiny_checkpoint).model.model.language_model.layers[0].mlp.up_proj.weight.detach()
    errors = []
    for bits in (8, 4, 3, 2):
        model = load(tiny_checkpoint).model
        round_to_nearest(model, bits, None)
        errors.append(float((model.model.language_model.layers[0].mlp.up_proj.weight.detach() - original).abs().mean()))
    assert errors == sorted(errors)
    assert errors[-1] > 20 * errors[0]


def test_refuses_a_width_that_the_group_does_not_divide(tiny_checkpoint):
    model = load(tiny_checkpoint).model
    before = model.model.language_model.layers[0].mlp.down_proj.weight.clone()
    with pytest.raises(InputError, match=r"layers\.0\.self_attn\.q_proj has 64 input columns"):
        round_to_nearest(model, 4, 128)
    assert torch.equal(before, model.model.language_model.layers[0].mlp.down_proj.weight)


@pytest.mark.parametrize(
    ("bits", "group_size", "message"), [(1, None, "2..8 bits"), (9, None, "2..8"), (4, 0, "group")]
)
def test_refuses_nonsense(bits, group_size, message):
    with pytest.raises(InputError, match=message):
        round_to_nearest(holder(torch.ones(1, 128)), bits, group_size)


def test_refuses_a_model_without_a_text_decoder():
    with pytest.raises(InputError, match="no Linear layer"):
        round_to_nearest(nn.Linear(4, 4), 8, None)
