"""What an ablation takes away, against a forward pass from which it was taken away by hand."""

import pytest
import torch
from PIL import Image

from bench.accuracy import ask
from bench.vision import shared_vision
from examples.tiny_qwen3_vl.ablations import with_coarse_pictures, with_text_positions, without_deepstack
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
    return [ask(record) for record in records(4)]


def logits(model, **inputs) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


def test_no_deepstack_is_the_model_given_zeros(checkpoint, requests):
    inputs = prepare(checkpoint, requests)
    model = checkpoint.model.model
    with torch.inference_mode():
        features = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
        words = model.get_input_embeddings()(inputs["input_ids"])
        places = inputs["input_ids"] == checkpoint.model.config.image_token_id
        embedded = words.masked_scatter(places[..., None], torch.cat(features.pooler_output))
        positions, _ = model.get_rope_index(
            inputs["input_ids"],
            inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )
        hidden = model.language_model(
            inputs_embeds=embedded,
            position_ids=positions,
            attention_mask=inputs["attention_mask"],
            visual_pos_masks=places,
            deepstack_visual_embeds=[torch.zeros_like(level) for level in features.deepstack_features],
        ).last_hidden_state
        by_hand = checkpoint.model.lm_head(hidden)
    found = logits(without_deepstack(checkpoint).model, **inputs)
    mask = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[mask], by_hand[mask], rtol=0, atol=1e-5)
    assert (found - logits(checkpoint.model, **inputs))[mask].abs().max() > 0.1


def test_text_positions_are_the_model_given_a_count(checkpoint, requests):
    ablated = with_text_positions(checkpoint)
    for request in requests:
        inputs = prepare(checkpoint, [request])
        count = torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)
        by_hand = logits(checkpoint.model, **inputs, position_ids=count)
        torch.testing.assert_close(logits(ablated.model, **inputs), by_hand, rtol=0, atol=1e-5)
        assert (by_hand - logits(checkpoint.model, **inputs)).abs().max() > 0.01


def test_text_positions_hold_while_generating_and_in_a_padded_batch(checkpoint, requests):
    ablated = with_text_positions(checkpoint)
    together = generate(ablated, requests, Sampling(6))
    for request, answer in zip(requests, together, strict=True):
        inputs = prepare(checkpoint, [request])
        ids = inputs["input_ids"]
        for token in answer.token_ids:
            pixels = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
            types = torch.nn.functional.pad(
                inputs["mm_token_type_ids"], (0, ids.shape[1] - inputs["input_ids"].shape[1])
            )
            count = torch.arange(ids.shape[1]).expand(3, 1, -1)
            said = logits(checkpoint.model, input_ids=ids, mm_token_type_ids=types, position_ids=count, **pixels)
            assert int(said[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)


def test_coarse_pictures_lose_detail_and_keep_their_tokens(checkpoint, requests):
    coarse = with_coarse_pictures(checkpoint, 32 * 32)
    before, after = (prepare(each, requests) for each in (checkpoint, coarse))
    assert torch.equal(before["image_grid_thw"], after["image_grid_thw"])
    assert after["pixel_values"].std() < before["pixel_values"].std()
    shrunk = [Request(r.prompt, tuple(_by_hand(image) for image in r.images)) for r in requests]
    torch.testing.assert_close(prepare(checkpoint, shrunk)["pixel_values"], after["pixel_values"])
    untouched = with_coarse_pictures(checkpoint, 10**6)
    assert torch.equal(prepare(untouched, requests)["pixel_values"], before["pixel_values"])
    assert coarse.model is checkpoint.model


def _by_hand(image):
    scale = 32 / (image.width * image.height) ** 0.5
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def test_all_of_them_can_share_the_vision_tower(checkpoint, requests):
    alone = [generate(change(checkpoint), requests, Sampling(5)) for change in (without_deepstack, with_text_positions)]
    together = [without_deepstack(checkpoint), with_text_positions(checkpoint)]
    with shared_vision([checkpoint.model, *(each.model for each in together)]):
        generate(checkpoint, requests, Sampling(5))
        assert [generate(each, requests, Sampling(5)) for each in together] == alone
