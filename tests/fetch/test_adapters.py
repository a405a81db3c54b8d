"""Which adapters are understood, and how every other is refused with the reason."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from fetch.adapter_fit import check_adapters, largest_change
from fetch.adapters import WITHOUT_EFFECT, AdapterConfig, pattern_key, read_adapter
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.parameters import HEAD, parameter_shapes
from shipvlm.families.qwen3_vl.shape import read_shape
from tests.fetch.made_adapters import made_adapter

LAYER = "model.language_model.layers.0."
KEY = f"base_model.model.{LAYER}"
MERGER = "base_model.model.model.visual.merger."


@pytest.fixture(scope="module")
def shapes(tiny_checkpoint: Path) -> dict[str, tuple[int, ...]]:
    return parameter_shapes(read_shape(json.loads((tiny_checkpoint / "config.json").read_text())))


@pytest.fixture(scope="module")
def saved(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of rank 4 on q_proj and down_proj, with the merger trained whole. Not to be changed."""
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    return made_adapter(tiny_checkpoint, folder, modules_to_save=["merger"])


@pytest.fixture
def adapter(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "adapter")


def configure(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_adapter(folder)
    assert str(folder) in str(caught.value)


def test_what_peft_saved_is_read(saved: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    adapter = read_adapter(saved)
    assert len(adapter.modules) == 6
    assert adapter.replaced == {name for name in shapes if ".visual.merger." in name}
    assert adapter.copies == {}
    assert (adapter.rank(f"{LAYER}self_attn.q_proj"), adapter.config.kind) == (4, "LoRA")
    check_adapters([adapter], shapes)
    assert largest_change([adapter], shapes) == 64 * 128


# Fields of the installed PEFT that change what is merged, or how the base must be, in ways that are not done here.
REFUSED = {
    "alora_invocation_tokens": [1],
    "arrow_config": {"top_k": 1},
    "corda_config": {"cache_file": "x"},
    "ensure_weight_tying": True,
    "kasa_config": {"beta": 1},
    "layer_replication": [[0, 2]],
    "loftq_config": {"loftq_bits": 4},
    "lora_ga_config": {"scale": "stable"},
    "megatron_config": {"a": 1},
    "monteclora_config": {"a": 1},
    "target_parameters": ["q_proj.weight"],
    "trainable_token_indices": [1],
    "use_bdlora": {"nblocks": 2},
    "use_qalora": True,
    "velora_config": {"num_groups": 1},
}


def test_every_field_of_the_installed_peft_is_used_without_effect_or_refused() -> None:
    """A new field of a new PEFT must be put into one of the three."""
    known = AdapterConfig.model_fields.keys() | WITHOUT_EFFECT | {"peft_type"}
    assert {field.name for field in dataclasses.fields(LoraConfig)} == known | REFUSED.keys()
    assert not known & REFUSED.keys()


@pytest.mark.parametrize(("field", "value"), [*REFUSED.items(), ("from_the_future", 1)])
def test_a_field_that_is_not_understood_is_refused_when_it_is_set(adapter: Path, field: str, value: object) -> None:
    nothing: tuple[Any, ...] = (None, False, [], {}, "")
    for unset in nothing:
        configure(adapter, **{field: unset})
        read_adapter(adapter)
    configure(adapter, **{field: value})
    refused(adapter, f"sets {field}, which cannot be merged exactly here; merge it with PEFT")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', only 'LORA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"r": 0}, "r: Input should be greater than or equal to 1"),
        ({"r": "8"}, "r: Input should be a valid integer"),
        ({"r": True}, "r: Input should be a valid integer"),
        ({"lora_alpha": float("inf")}, "lora_alpha: Input should be a finite number"),
        ({"lora_alpha": -1}, "lora_alpha: Input should be greater than 0"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj"),
        ({"alpha_pattern": {"(": 2}}, r"'\(' is no regular expression"),
        ({"bias": "all"}, "bias is all, biases of the base were trained too"),
        ({"use_dora": True, "lora_bias": True}, "sets use_dora and lora_bias"),
        *(
            ({"init_lora_weights": name}, f"init_lora_weights is {name}, which changes the base")
            for name in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "mica")
        ),
    ],
    ids=str,
)
def test_a_configuration_that_is_wrong_or_changes_the_base_is_refused(
    adapter: Path, fields: dict[str, Any], message: str
) -> None:
    configure(adapter, **fields)
    refused(adapter, message)


@pytest.mark.parametrize("value", ["{", "[]", "null", '"LORA"', "[" * 100_000])
def test_a_file_that_is_no_configuration_is_refused(adapter: Path, value: str) -> None:
    (adapter / "adapter_config.json").write_text(value)
    refused(adapter, "not readable as JSON|peft_type is None")


def test_pickles_and_files_that_are_no_safetensors_are_refused(adapter: Path, tmp_path: Path) -> None:
    refused(tmp_path, "has no adapter_config.json")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(adapter, "not readable as safetensors")
    weights.rename(adapter / "adapter_model.bin")
    refused(adapter, r"only adapter_model.bin, which can run code")
    (adapter / "adapter_model.bin").unlink()
    refused(adapter, "has no weights")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"lora_A.weight": torch.ones(1)}), "lora_A.weight does not begin with base_model.model."),
        (
            lambda t: t.update({f"{KEY}self_attn.q_proj.lora_A.default.weight": torch.ones(4, 64)}),
            "default.weight is no tensor of a LoRA on a Linear",
        ),
        (lambda t: t.update({f"{KEY}x.lora_embedding_A": torch.ones(1)}), "lora_embedding_A is no tensor of a LoRA on"),
        (lambda t: t.update({f"{KEY}q.lora_A.weight": torch.ones(1, dtype=torch.int8)}), "holds I8, not 16- or 32-bit"),
        (lambda t: [t.pop(key) for key in list(t) if "lora" in key], "holds no LoRA"),
    ],
)
def test_tensors_that_are_not_a_lora_are_refused(adapter: Path, change: Callable[..., Any], message: str) -> None:
    rewrite(adapter, change)
    refused(adapter, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({f"{KEY}self_attn.q_proj.lora_A.weight": torch.ones(8, 64)}),
            r"q_proj.lora_A.weight is \[8, 64\]; by .* \(rank 4\) and the checkpoint .* it must be \[4, 64\]",
        ),
        (
            lambda t: t.update({f"{KEY}mlp.down_proj.lora_B.weight": torch.ones(128, 4)}),
            r"down_proj.lora_B.weight is \[128, 4\].* it must be \[64, 4\]",
        ),
        (lambda t: t.pop(f"{KEY}mlp.down_proj.lora_B.weight"), "down_proj: lora_B.weight is missing or has no use"),
        (
            lambda t: t.update({f"{KEY}mlp.down_proj.lora_magnitude_vector": torch.ones(64)}),
            "down_proj: lora_magnitude_vector is missing or has no use",
        ),
        (lambda t: t.pop(f"{MERGER}norm.bias"), "lacks model.visual.merger.norm.bias of modules_to_save"),
        (
            lambda t: t.update({f"{MERGER}norm.bias": torch.ones(3)}),
            r"merger.norm.bias is \[3\], in the checkpoint \[32\]",
        ),
        (
            lambda t: t.update({f"{MERGER}gate": torch.ones(3)}),
            "has model.visual.merger.gate, which this checkpoint does",
        ),
        (
            lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(400, 64)}),
            r"lm_head.weight is \[400, 64\], in the checkpoint",
        ),
        *(
            (
                lambda t, name=name: t.update(
                    {
                        f"base_model.model.{name}.lora_A.weight": torch.ones(4, 1),
                        f"base_model.model.{name}.lora_B.weight": torch.ones(1, 4),
                    }
                ),
                message,
            )
            for name, message in {
                "model.language_model.layers.3.mlp.up_proj": "up_proj, which this checkpoint does not have",
                "model.language_model.embed_tokens": "embed_tokens, which is no Linear",
                "model.visual.pos_embed": "pos_embed, which is no Linear",
                "model.language_model.norm": "norm, which is no Linear",
            }.items()
        ),
    ],
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(
    adapter: Path, shapes: dict[str, tuple[int, ...]], change: Callable[..., Any], message: str
) -> None:
    rewrite(adapter, change)
    with pytest.raises(InputError, match=message):
        check_adapters([read_adapter(adapter)], shapes)


def test_ranks_are_those_of_the_pattern(adapter: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    configure(adapter, rank_pattern={"1.mlp.down_proj": 2})
    with pytest.raises(InputError, match=r"layers.1.mlp.down_proj.lora_\w.weight is .*\(rank 2\)"):
        check_adapters([read_adapter(adapter)], shapes)


@given(
    st.dictionaries(
        st.sampled_from(["q_proj", "0.q_proj", ".*", "layers.1", "proj", "^a", "a|b", "1.q_proj"]), st.just(1)
    ),
    st.sampled_from(["a.0.q_proj", "a.1.q_proj", "q_proj", "layers.1", "b", "a.10.q_proj"]),
)
def test_patterns_mean_what_they_mean_to_peft(pattern: dict[str, int], module: str) -> None:
    assert (pattern_key(pattern, module) or module) == get_pattern_key(list(pattern), module)


def test_a_bias_needs_a_bias(adapter: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    configure(adapter, lora_bias=True)
    with pytest.raises(InputError, match=r"lora_bias is set, but .*_proj has no bias to merge it into"):
        check_adapters([read_adapter(adapter)], shapes)


def test_a_head_that_is_the_embedding_is_not_changed_alone(
    tiny_checkpoint: Path, tmp_path: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    tied = {name: shape for name, shape in shapes.items() if name != HEAD}
    head = read_adapter(made_adapter(tiny_checkpoint, tmp_path / "head", target_modules=["lm_head"]))
    check_adapters([head], shapes)
    with pytest.raises(InputError, match="lm_head, which is the embedding in this model"):
        check_adapters([head], tied)
    table = read_adapter(made_adapter(tiny_checkpoint, tmp_path / "table", modules_to_save=["embed_tokens"]))
    check_adapters([table], shapes)
    with pytest.raises(InputError, match="replaces the embedding, which is the head too"):
        check_adapters([table], tied)


def test_two_adapters_do_not_change_what_one_replaces(
    saved: Path, adapter: Path, tiny_checkpoint: Path, tmp_path: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    replaces = read_adapter(saved)
    with pytest.raises(InputError, match=r"replaces model.visual.merger.* \(modules_to_save\), which .* changes too"):
        check_adapters([replaces, read_adapter(adapter)], shapes)
    other = read_adapter(made_adapter(tiny_checkpoint, tmp_path / "other", target_modules=["linear_fc1"]))
    for order in ([replaces, other], [other, replaces]):
        with pytest.raises(InputError, match=r"replaces model.visual.merger.linear_fc1.weight"):
            check_adapters(order, shapes)
    check_adapters([other, read_adapter(made_adapter(tiny_checkpoint, tmp_path / "text"))], shapes)
