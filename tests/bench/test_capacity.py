import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile
from transformers import DynamicCache, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from bench.capacity import CARDS, GIB, Needs, activations, capacity, line, needs
from bench.graph_counts import live_bytes, read_graph
from convert.export import export_graphs
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.parameters import parameter_shapes
from shipvlm.families.qwen3_vl.published import PUBLISHED
from shipvlm.families.qwen3_vl.shape import read_shape
from shipvlm.sizes import Header

LARGE = read_shape(PUBLISHED["qwen3-vl-8b"])
WEIGHTS = sum(2 * Header(size, "BF16").values for size in parameter_shapes(LARGE).values())
TOKEN, PATCH = activations(LARGE, 2)
NEEDS = Needs(WEIGHTS, 147_456, TOKEN, PATCH, logits_a_row=6 * 151_936, max_length=262_144)


def test_the_8b_in_16_bits_does_not_fit_16_gb():
    assert pytest.approx(16.3 * GIB, rel=2e-3) == WEIGHTS
    found = capacity(NEEDS, "t4", context=1000)
    assert (found["largest_context"], found["largest_batch"]) == (0, 0)
    assert "t4: does not fit: the weights take 17.5 GB of 16.1 GB" in line(found)


def test_the_8b_on_24_gb_by_hand():
    found = capacity(NEEDS, "rtx4090", context=1000, patches=1024)
    free = CARDS["rtx4090"] - GIB - WEIGHTS
    assert found["largest_context"] == int((free - 6 * 151_936) / (147_456 + TOKEN))
    assert 25_000 < found["largest_context"] < 30_000
    assert found["largest_batch"] == int(free / (1000 * (147_456 + TOKEN) + 6 * 151_936))
    assert found["limit"] == {"largest_context": "memory", "largest_batch": "memory"}
    assert f"one row of up to {found['largest_context']:,} tokens" in line(found)
    assert capacity(NEEDS, "h200", context=1000)["limit"]["largest_context"] == "model"
    assert capacity(NEEDS, "h200", context=300_000)["largest_batch"] == 0
    json.dumps(found, allow_nan=False)


def test_many_patches_bound_the_batch():
    found = capacity(NEEDS, "rtx4090", context=100, patches=16_384)
    assert found["largest_batch"] == (CARDS["rtx4090"] - GIB - WEIGHTS) // (16_384 * PATCH)
    assert capacity(NEEDS, "rtx4090", context=100, patches=200_000)["largest_context"] == 0


@given(st.integers(1, 2**38), st.integers(1, 200_000), st.integers(0, 20_000))
def test_what_is_said_to_fit_fits_and_one_more_does_not(memory, context, patches):
    found = capacity(NEEDS, memory, context=context, patches=patches)

    def taken(rows: int, tokens: int) -> int:
        prompts = rows * (tokens * (NEEDS.cache_a_token + NEEDS.prefill_a_token) + NEEDS.logits_a_row)
        return WEIGHTS + GIB + max(rows * patches * NEEDS.vision_a_patch, prompts)

    for key, size in {
        "largest_context": lambda most: taken(1, most),
        "largest_batch": lambda most: taken(most, context),
    }.items():
        most = found[key]
        assert most == 0 or size(most) <= memory
        assert size(most + 1) > memory or found["limit"][key] == "model" or most == NEEDS.max_length


def test_unknown_cards_are_refused():
    with pytest.raises(InputError, match=r"no card 'rtx9090' is known.*rtx4090"):
        capacity(NEEDS, "rtx9090", context=1)


def peak_bytes(run) -> int:
    """The most memory that torch's profiler sees taken at once while `run` goes on."""
    run()
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = run()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del result
    return most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_against_what_torch_takes(dtype):
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 100,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
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
            "depth": 3,
            "hidden_size": 288,
            "intermediate_size": 1076,
            "num_heads": 4,
            "out_hidden_size": 256,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=90,
    )
    model = Qwen3VLForConditionalGeneration(config).to(dtype).eval().model
    shape = read_shape(config.to_dict())
    token, patch = activations(shape, dtype.itemsize)
    tokens, side = 192, 20

    @torch.inference_mode()
    def prompt():
        cache = DynamicCache(config=config.text_config)
        ids, positions = torch.ones(1, tokens, dtype=torch.long), torch.zeros(3, 1, tokens).long()
        return model.language_model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True), cache

    @torch.inference_mode()
    def picture():
        pixels = torch.zeros(side**2, shape.vision.patch_width)
        return model.get_image_features(pixels, torch.tensor([[1, side, side]]))

    cache = 2 * 3 * 2 * 64 * dtype.itemsize
    assert token + cache == pytest.approx(peak_bytes(prompt) / tokens, rel=0.05)
    assert patch == pytest.approx(peak_bytes(picture) / side**2, rel=0.15)


def test_the_needs_of_a_folder(tiny_checkpoint, tmp_path):
    export_graphs(tiny_checkpoint, tmp_path / "graphs", "fp32")
    stored, graphs = needs(tiny_checkpoint, "float32"), needs(tmp_path / "graphs")
    text = read_shape(json.loads((tiny_checkpoint / "config.json").read_text())).text
    assert stored.cache_a_token == graphs.cache_a_token == 2 * text.layers * text.kv_heads * text.head_dim * 4
    assert stored.weights == pytest.approx(graphs.weights, rel=0.02)
    assert needs(tiny_checkpoint, "float16").weights == stored.weights // 2
    # Two ways to the same: transformers' formula, and the values of the graph that are alive at once.
    assert graphs.prefill_a_token == pytest.approx(stored.prefill_a_token, rel=0.5)
    # A graph's live values grow with what it is given, and in proportion.
    vision = read_graph(tmp_path / "graphs" / "vision.onnx")
    small, large = (live_bytes(vision, {"patches": size}) for size in (64, 128))
    assert small < large <= 2 * small


def test_a_checkpoint_that_does_not_say_its_longest_row(tiny_checkpoint, tmp_path):
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    del config["text_config"]["max_position_embeddings"]
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="max_position_embeddings is None"):
        needs(tmp_path)
