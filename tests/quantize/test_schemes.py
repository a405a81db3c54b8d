"""Which layers are quantized, and what a recipe may leave out."""

import re

import pytest

from quantize.schemes import FAMILY_IGNORE, is_quantized, quantization_config, quantization_scheme
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.layers import decoder_groups
from shipvlm.ignore import split_layers

GROUPS = decoder_groups(12)
LAYER = "model.language_model.layers"


def test_everything_is_quantized_by_default():
    assert split_layers(GROUPS, ()) == (GROUPS, ())


def test_names_and_patterns_leave_whole_groups():
    down = f"{LAYER}.1.mlp.down_proj"
    groups, left = split_layers(GROUPS, (down, r"re:.*layers\.0\.", r"re:.*\.1\.mlp\.(gate|up)_proj"))
    expected = [*(name for group in GROUPS[:4] for name in group), *GROUPS[6], down]
    assert list(left) == expected
    assert [name for group in GROUPS for name in group if name not in left] == [
        name for each in groups for name in each
    ]


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        (("mlp.down_proj",), r"'mlp\.down_proj' matches no layer .* did you mean model\.language_model\.layers"),
        (("re:down_proj",), r"'re:down_proj' matches no layer .* from the beginning"),
        (("lm_head",), "'lm_head' matches no layer"),
        (("re:.*(",), "no regular expression"),
        ((f"{LAYER}.0.self_attn.q_proj",), r"q_proj and .*k_proj, .*v_proj read the same input"),
        ((f"{LAYER}.3.mlp.up_proj",), r"up_proj and .*gate_proj read the same input"),
        (("re:.*",), "nothing is left to quantize"),
    ],
)
def test_refuses_what_does_not_fit(ignore, message):
    with pytest.raises(InputError, match=message):
        split_layers(GROUPS, ignore)


@pytest.mark.parametrize("name", ["lm_head", "model.visual.blocks.0.attn.qkv", "model.visual.merger.linear_fc1"])
def test_the_family_is_left_out_in_the_spelling_of_transformers_and_of_vllm(name):
    """vLLM maps `model.visual.` to `visual.` and `lm_head.` to `language_model.lm_head.` (qwen3_vl.py of 0.33)."""
    other = re.sub(r"^model\.visual", "visual", re.sub(r"^lm_head", "language_model.lm_head", name))
    assert other != name
    config = quantization_config(quantization_scheme("w8a8-static"), ())
    assert not is_quantized(name, config)
    assert not is_quantized(other, config)
    for layer in (f"{LAYER}.0.mlp.up_proj", "language_model.model.layers.0.mlp.up_proj"):
        assert is_quantized(layer, config)
    assert config.ignore == list(FAMILY_IGNORE)
