"""Shapes against the configurations and models of transformers."""

import copy
import json

import pytest
import torch
from transformers import AutoConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.parameters import parameter_shapes
from shipvlm.families.qwen3_vl.published import PUBLISHED
from shipvlm.families.qwen3_vl.shape import read_shape


def _model_shapes(config):
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parameters_of_a_published_size_are_those_of_the_genuine_class(name):
    shape = read_shape(PUBLISHED[name])

    assert parameter_shapes(shape) == _model_shapes(Qwen3VLConfig(**PUBLISHED[name]))


def test_the_parameters_of_a_checkpoint_are_found_from_its_config(tiny_checkpoint):
    shape = read_shape(json.loads((tiny_checkpoint / "config.json").read_text()))

    config = AutoConfig.from_pretrained(tiny_checkpoint)
    assert parameter_shapes(shape) == _model_shapes(config)
    assert shape.vision.deepstack == (0, 1)
    assert not shape.text.tied
    assert shape.text.mrope_section == (4, 2, 2)


def test_rope_settings_in_the_form_of_transformers_4_mean_the_same():
    config = copy.deepcopy(PUBLISHED["qwen3-vl-2b"])
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"] |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}

    assert read_shape(config) == read_shape(PUBLISHED["qwen3-vl-2b"])


@pytest.mark.parametrize(
    ("section", "key", "value", "named"),
    [
        (None, "model_type", "qwen2_vl", "model_type"),
        (None, "image_token_id", None, "image_token_id"),
        (None, "tie_word_embeddings", "yes", "tie_word_embeddings"),
        (None, "text_config", [], "text_config"),
        ("text_config", "hidden_act", "gelu", "hidden_act"),
        ("text_config", "attention_bias", True, "attention_bias"),
        ("text_config", "hidden_size", "2048", "hidden_size"),
        ("text_config", "hidden_size", 1024, "out_hidden_size"),
        ("text_config", "num_key_value_heads", 3, "num_key_value_heads"),
        ("text_config", "num_hidden_layers", True, "num_hidden_layers"),
        ("text_config", "num_hidden_layers", 2, "DeepStack"),
        ("text_config", "rms_norm_eps", float("inf"), "rms_norm_eps"),
        ("text_config", "rope_parameters", None, "rope_parameters"),
        ("text_config", "rope_parameters", {"rope_theta": 0}, "rope_theta"),
        ("text_config", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e6}, "rope_type"),
        ("text_config", "rope_parameters", {"rope_theta": 1e6, "mrope_section": [64]}, "mrope_section"),
        ("text_config", "rope_parameters", {"rope_theta": 1e6, "mrope_section": [16, 24, 23]}, "mrope_section"),
        ("text_config", "rope_parameters", {"rope_theta": 1e6, "mrope_interleaved": False}, "mrope_interleaved"),
        ("vision_config", "hidden_act", "quick_gelu", "hidden_act"),
        ("vision_config", "rope_parameters", {"rope_type": "default"}, "rope_type"),
        ("vision_config", "num_position_embeddings", 2303, "num_position_embeddings"),
        ("vision_config", "deepstack_visual_indexes", [5, 5, 17], "deepstack_visual_indexes"),
        ("vision_config", "deepstack_visual_indexes", [5, 11, 24], "deepstack_visual_indexes"),
        ("vision_config", "deepstack_visual_indexes", None, "deepstack_visual_indexes"),
        ("vision_config", "num_heads", 7, "hidden_size"),
        ("vision_config", "patch_size", 0, "patch_size"),
    ],
)
def test_a_config_that_the_graphs_do_not_cover_is_refused_by_the_name_of_its_setting(section, key, value, named):
    config = copy.deepcopy(PUBLISHED["qwen3-vl-2b"])
    (config if section is None else config[section])[key] = value

    with pytest.raises(InputError, match=named):
        read_shape(config)
