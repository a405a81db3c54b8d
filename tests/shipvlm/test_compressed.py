"""Quantized checkpoints are ready once loaded: floats for weights, scales for inputs, nothing on the screen."""

import numpy as np
import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration
from transformers.utils import logging

from shipvlm.runtime.checkpoint import load
from shipvlm.runtime.inputs import Request
from shipvlm.runtime.probe import forced_logits
from tests.quantize.made import quantize

LAYER = "model.language_model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def quantized(tiny_checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("compressed") / "w8a16"
    quantize(tiny_checkpoint, out, scheme="w8a16")
    return out


def test_the_parts_of_a_loaded_model_can_be_called_at_once(quantized):
    """transformers itself turns the weights into floats in the first call of the whole model only."""
    checkpoint = load(quantized)
    assert checkpoint.model.get_submodule(LAYER).weight.dtype == torch.float32
    answer = [3, 5, 8]
    found = forced_logits(checkpoint, Request("what is the total"), answer)
    text = checkpoint.processor.apply_chat_template(
        [{"role": "user", "content": "what is the total"}], add_generation_prompt=True
    )
    ids = torch.tensor([[*checkpoint.processor.tokenizer(text)["input_ids"], *answer[:-1]]])
    with torch.inference_mode():
        wanted = Qwen3VLForConditionalGeneration.from_pretrained(quantized, dtype=torch.float32)(input_ids=ids).logits
    np.testing.assert_allclose(found, wanted[0, -len(answer) :].numpy(), atol=1e-4)


def test_a_float_checkpoint_stays_as_it_is(tiny_checkpoint):
    before = Qwen3VLForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    after = load(tiny_checkpoint).model
    for (name, left), (_, right) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert torch.equal(left, right), name


def test_loading_and_using_it_draws_no_bar(quantized, capfd):
    logging.disable_progress_bar()
    try:
        checkpoint = load(quantized)
        with torch.inference_mode():
            checkpoint.model(input_ids=torch.arange(4)[None])
    finally:
        logging.enable_progress_bar()
    assert capfd.readouterr() == ("", "")


def test_quantizing_draws_no_bar(tiny_checkpoint, tmp_path, capfd):
    quantize(tiny_checkpoint, tmp_path / "out", scheme="w8a16")
    assert capfd.readouterr() == ("", "")
