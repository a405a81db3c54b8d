import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.profiler import ProfilerActivity, profile
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from bench.capacity import CARDS, GIB, Activations, Needs, activations, capacity, needs
from convert.export import export_graphs
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.parameters import parameter_shapes
from shipvlm.families.qwen3_vl.published import PUBLISHED
from shipvlm.families.qwen3_vl.shape import read_shape
from shipvlm.runtime.checkpoint import Checkpoint, load
from shipvlm.runtime.inputs import Batch, Request, encode
from shipvlm.sizes import Header

MODEL = Path("examples/tiny_qwen3_vl")
TRIED = Path("docs/results/qwen3-vl-8b-h100-fit-original.json")  # what `shipvlm bench fit` saw on a GPU
LARGE = read_shape(PUBLISHED["qwen3-vl-8b"])
WEIGHTS = sum(2 * Header(size, "BF16").values for size in parameter_shapes(LARGE).values())
NEEDS = Needs(WEIGHTS, 147_456, 262_144, activations(LARGE, 2))
GRAPHS = Needs(WEIGHTS, 147_456, 262_144, None)
# Of the 8B in 16 bits, by hand: 36 layers, 8 heads of 128 for keys and for values; hidden 4096, MLP 12288; a tower of
# 1152, 3 DeepStack levels, 1536 values a patch, 4 patches a token.
CACHE = 36 * 2 * 8 * 128 * 2
TOKEN = 2 * (3 * 12_288 + 5 * 4096 + 2 * 128)
FEATURES = 4 * 4096 * 2 // 4
PATCH = 1536 * 6 + 40 * 1152 + 8 * 72 + 3 * 4096 * 2 // 4
ROW = 151_936 * 6


def free_of(memory: int) -> int:
    """Beside the weights, a GiB, and a fifth of the rest for what torch cannot give back."""
    left = memory - GIB - WEIGHTS
    return left - max(0, left) // 5


def test_the_8b_by_hand():
    assert NEEDS.cache_a_token == CACHE
    assert vars(NEEDS.activations) == {
        "prefill_a_token": TOKEN,
        "features_a_patch": FEATURES,
        "vision_a_patch": PATCH,
        "logits_a_row": ROW,
    }


def test_the_8b_in_16_bits_does_not_fit_16_gb():
    assert pytest.approx(16.3 * GIB, rel=2e-3) == WEIGHTS
    for stored in (NEEDS, GRAPHS):
        found = capacity(stored, "t4", context=1000)
        assert (found["largest_context"], found["largest_batch"]) == (0, 0)
        assert found["free"] == 0


def test_the_8b_on_24_gb_by_hand():
    found = capacity(NEEDS, "rtx4090", context=1000, patches=1024)
    free = free_of(CARDS["rtx4090"])
    assert found["largest_context"] == (free - ROW - 1024 * FEATURES) // (CACHE + TOKEN)
    assert 19_000 < found["largest_context"] < 22_000
    assert found["largest_batch"] == free // (1000 * (CACHE + TOKEN) + 1024 * FEATURES + ROW) == 19
    assert found["limit"] == {"largest_context": "memory", "largest_batch": "memory"}
    assert found["free"] == free == CARDS["rtx4090"] - WEIGHTS - found["reserve"]
    assert capacity(NEEDS, "h200", context=1000)["limit"]["largest_context"] == "model"
    assert capacity(NEEDS, "h200", context=300_000)["largest_batch"] == 0
    json.dumps(found, allow_nan=False)


def test_many_patches_bound_the_batch():
    found = capacity(NEEDS, "rtx4090", context=100, patches=16_384)
    assert found["largest_batch"] == free_of(CARDS["rtx4090"]) // (16_384 * PATCH)
    assert capacity(NEEDS, "rtx4090", context=100, patches=200_000)["largest_context"] == 0


def test_nothing_is_said_of_graphs_whose_weights_fit():
    found, stored = (capacity(each, "rtx4090", context=1000, patches=1024) for each in (GRAPHS, NEEDS))
    assert found.keys() == stored.keys()
    assert (found["largest_context"], found["largest_batch"], found["vision_a_patch"]) == (None, None, None)
    assert found["limit"] == {"largest_context": None, "largest_batch": None}
    assert found["free"] == CARDS["rtx4090"] - GIB - WEIGHTS > stored["free"] > 4 * GIB
    json.dumps(found, allow_nan=False)


@given(st.integers(1, 2**38), st.integers(1, 200_000), st.integers(0, 20_000))
def test_what_is_said_to_fit_fits_and_one_more_does_not(memory, context, patches):
    found = capacity(NEEDS, memory, context=context, patches=patches)

    def taken(rows: int, tokens: int) -> int:
        prompts = rows * (tokens * (CACHE + TOKEN) + patches * FEATURES + ROW)
        return max(rows * patches * PATCH, prompts)

    for key, size in {
        "largest_context": lambda most: taken(1, most),
        "largest_batch": lambda most: taken(most, context),
    }.items():
        most = found[key]
        assert most == 0 or size(most) <= free_of(memory)
        assert size(most + 1) > free_of(memory) or found["limit"][key] == "model" or most == NEEDS.max_length


def test_no_more_is_said_to_fit_than_was_seen_to():
    tried = json.loads(TRIED.read_text())
    stored, context = tried["calculated"], tried["context"]
    taken = Activations(**{each.name: stored[each.name] for each in fields(Activations)})
    needed = Needs(stored["weights"], stored["cache_a_token"], stored["max_length"], taken)
    found = capacity(needed, tried["memory"], context=tried["tokens"], patches=tried["patches"])
    assert 0.8 * context["fits"]["tokens"] < found["largest_context"] <= context["fits"]["tokens"]


def test_unknown_cards_are_refused():
    with pytest.raises(InputError, match=r"no card 'rtx9090' is known.*rtx4090"):
        capacity(NEEDS, "rtx9090", context=1)


def peak_bytes(run) -> int:
    """The most memory that torch's profiler sees taken at once while `run` goes on."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = run()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del result
    return most


def hold(model: Checkpoint, batch: Batch, found: Needs) -> None:
    """Hold the estimate to what torch takes for the two stages, as `generate` calls them."""
    tokens, patches = sum(map(len, batch.input_ids)), len(batch.pixel_values)
    taken = found.activations
    assert taken
    features = model.vision(batch)
    kept = sum(each.nbytes for each in (features.image, *features.deepstack))
    assert kept == patches * taken.features_a_patch
    prompts = peak_bytes(lambda: model.prefill(batch, features, 16)) + kept
    assert tokens * (found.cache_a_token + taken.prefill_a_token) + kept == pytest.approx(prompts, rel=0.01)
    # On the CPU the pixels are an array's own memory, which the profiler does not see.
    pictures = peak_bytes(lambda: model.vision(batch)) + batch.pixel_values.nbytes
    assert 0.99 * pictures < patches * taken.vision_a_patch < 1.05 * pictures


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_against_what_torch_takes(dtype):
    """In the proportions of the published models: heads wider than hidden, three DeepStack levels."""
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 100,
            "hidden_size": 320,
            "intermediate_size": 1216,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e5,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 6,
            "hidden_size": 288,
            "intermediate_size": 1076,
            "num_heads": 4,
            "out_hidden_size": 320,
            "deepstack_visual_indexes": [1, 2, 3],
        },
        image_token_id=90,
        vision_start_token_id=91,
        vision_end_token_id=92,
    )
    model = Qwen3VLForConditionalGeneration(config).to(dtype).eval()
    model.generation_config = GenerationConfig(pad_token_id=0)
    side, shape, rows = 16, read_shape(config.to_dict()), 2
    ids = np.array([1] * 40 + [91] + [90] * (side**2 // 4) + [92] + [2] * 40)
    pixels = np.zeros((rows * side**2, shape.vision.patch_width), np.float32)
    batch = Batch((ids,) * rows, (((1, side, side),),) * rows, pixels)
    cache = 8 * 2 * 2 * 64 * dtype.itemsize
    hold(Checkpoint(model, None, Path()), batch, Needs(0, cache, 4096, activations(shape, dtype.itemsize)))


def test_the_default_model_against_what_torch_takes():
    model = load(MODEL)
    asked = [Request("What is in the picture?", (Image.new("RGB", (256, 256)),))] * 8
    hold(model, encode(model.processor, asked), needs(MODEL, "float32"))


def test_the_needs_of_a_folder(tiny_checkpoint, tmp_path):
    export_graphs(tiny_checkpoint, tmp_path / "graphs", "fp32")
    stored, graphs = needs(tiny_checkpoint, "float32"), needs(tmp_path / "graphs")
    text = read_shape(json.loads((tiny_checkpoint / "config.json").read_text())).text
    assert stored.cache_a_token == graphs.cache_a_token == 2 * text.layers * text.kv_heads * text.head_dim * 4
    assert stored.weights == pytest.approx(graphs.weights, rel=0.02)
    assert needs(tiny_checkpoint, "float16").weights == stored.weights // 2
    assert graphs.activations is None


def test_a_checkpoint_that_does_not_say_its_longest_row(tiny_checkpoint, tmp_path):
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    del config["text_config"]["max_position_embeddings"]
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="max_position_embeddings is None"):
        needs(tmp_path)
