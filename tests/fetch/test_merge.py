"""The merged checkpoint: what PEFT itself makes of the whole model, bit for bit, from one layer at a time."""

import gc
import hashlib
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from fetch import merge as merge_module
from fetch.adapters import PREFIX
from fetch.merge import merge
from shipvlm.errors import InputError
from shipvlm.folder import SIDE_FILES, weight_files
from tests.fetch.made_adapters import made_adapter, made_base, merged_by_peft, tensors

VISION = ["qkv", "proj", "linear_fc1"]  # proj is the patch embedding too, a convolution
BASES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def bases(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny checkpoint in three types, in several shards. Not to be changed."""
    folder = tmp_path_factory.mktemp("bases")
    return {name: made_base(tiny_checkpoint, folder / name, dtype, "200KB") for name, dtype in BASES.items()}


def merged(base: Path, adapters: list[Path], out: Path) -> dict[str, Any]:
    out.mkdir()
    return merge(base, adapters, out, lambda *_: None)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("dtype", "adapters", "kinds"),
    [
        ("float32", [{}], ["LoRA"]),
        (
            "bfloat16",
            [{"use_rslora": True, "rank_pattern": {"1.self_attn.q_proj": 2}, "alpha_pattern": {"down_proj": 3}}],
            ["rsLoRA"],
        ),
        ("float16", [{"use_dora": True, "target_modules": [*VISION, "v_proj", "lm_head"]}], ["DoRA"]),
        ("float32", [{"lora_bias": True, "target_modules": VISION, "fan_in_fan_out": True}], ["LoRA"]),
        ("bfloat16", [{"modules_to_save": ["visual.merger", "lm_head", "embed_tokens"]}], ["LoRA"]),
        (
            "bfloat16",
            [
                {"use_dora": True, "target_modules": ["q_proj", *VISION]},
                {"r": 2, "use_rslora": True, "target_modules": ["q_proj", "o_proj"], "layers_to_transform": [0, 2]},
                {"use_dora": True, "use_rslora": True, "target_modules": r".*layers\.[01]\..*q_proj"},
            ],
            ["DoRA", "rsLoRA", "rsDoRA"],
        ),
    ],
    ids=["lora", "rslora", "dora", "bias", "modules_to_save", "three"],
)
def test_it_is_what_peft_makes_of_the_whole_model(
    bases: dict[str, Path], tmp_path: Path, dtype: str, adapters: list[dict[str, Any]], kinds: list[str]
) -> None:
    base, before = bases[dtype], digests(bases[dtype])
    folders = [made_adapter(base, tmp_path / f"a{seed}", seed, **fields) for seed, fields in enumerate(adapters)]
    facts = merged(base, folders, tmp_path / "out")
    wanted, found, old = merged_by_peft(base, folders), tensors(tmp_path / "out"), tensors(base)
    assert found.keys() == wanted.keys() == old.keys()
    for name, tensor in found.items():
        assert tensor.dtype == BASES[dtype]
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=0, msg=name)
    changed = [name for name in found if not torch.equal(found[name], old[name])]
    assert len(changed) > 5
    assert [entry["kind"] for entry in facts["adapters"]] == kinds
    assert digests(base) == before
    for path in weight_files(base):  # the layout is the same: header and sizes
        length = int.from_bytes(path.read_bytes()[:8], "little") + 8
        assert (tmp_path / "out" / path.name).read_bytes()[:length] == path.read_bytes()[:length]


def test_side_files_are_copied_and_nothing_else(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    (base / "README.md").write_text("not taken along")
    adapter = made_adapter(base, tmp_path / "adapter", target_modules=["o_proj"])
    facts = merged(base, [adapter], tmp_path / "out")
    before, after = digests(base), digests(tmp_path / "out")
    assert before.keys() - after.keys() == {"README.md"}
    assert {name for name in after if after[name] != before[name]} == {"model.safetensors"}
    assert {name for name in after if name != "model.safetensors"} <= set(SIDE_FILES)
    [entry] = facts["adapters"]
    assert {name: entry[name] for name in ("kind", "rank", "alpha", "modules", "replaced", "trained_on")} == {
        "kind": "LoRA",
        "rank": [4],
        "alpha": [8.0],
        "modules": 3,
        "replaced": 0,
        "trained_on": "base",
    }
    assert str(tmp_path) not in json.dumps(facts)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The bytes of all tensors alive whenever a tensor was read or merged."""
    alive: list[int] = []

    def count() -> None:
        found = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
        alive.append(sum({each.data_ptr(): each.untyped_storage().nbytes() for each in found}.values()))

    def counting(function: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            result = function(*arguments)
            count()
            return result

        return wrapped

    for name in ("_read", "_lora", "_merged"):
        monkeypatch.setattr(merge_module, name, counting(getattr(merge_module, name)))
    gc.collect()
    gc.freeze()  # what is alive now is not counted
    yield alive
    gc.unfreeze()


def test_one_layer_is_in_memory_at_a_time(tiny_checkpoint: Path, tmp_path: Path, counted: list[int]) -> None:
    base = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    config = Qwen3VLConfig.from_pretrained(base)
    config.text_config.num_hidden_layers = 24
    model = Qwen3VLForConditionalGeneration(config)
    model.save_pretrained(base)
    del model
    adapter = made_adapter(base, tmp_path / "adapter", r=2, target_modules="all-linear")
    gc.collect()
    counted.clear()
    merged(base, [adapter], tmp_path / "out")
    loaded = tensors(base)
    largest = max(tensor.nbytes for tensor in loaded.values())
    assert sum(tensor.nbytes for tensor in loaded.values()) > 20 * largest
    assert len(counted) > 24 * 7
    assert 0 < max(counted) < 2 * largest


def test_nothing_that_an_adapter_names_is_imported_or_looked_up(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = made_adapter(tiny_checkpoint, tmp_path / "adapter")
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "trapped.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path / "trap")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {
        "auto_mapping": {"base_model_class": "Evil", "parent_library": "trapped"},
        "megatron_core": "trapped",
        "base_model_name_or_path": "owner/nowhere",
        "revision": "trapped",
        "peft_version": "99.0",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))

    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    facts = merged(tiny_checkpoint, [adapter], tmp_path / "out")
    assert facts["adapters"][0]["trained_on"] == "owner/nowhere"
    assert "trapped" not in sys.modules


def changed(adapter: Path, folder: Path, **fields: Any) -> Path:
    """A copy with other fields in its configuration."""
    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def test_what_is_unfit_is_refused_before_anything_is_written(tiny_checkpoint: Path, tmp_path: Path) -> None:
    adapter = made_adapter(tiny_checkpoint, tmp_path / "adapter")
    out = tmp_path / "out"
    out.mkdir()

    def refused(message: str, base: Path = tiny_checkpoint, adapter: Path = adapter) -> None:
        with pytest.raises(InputError, match=message):
            merge(base, [adapter], out, lambda *_: None)
        assert list(out.iterdir()) == []

    refused("has .*down_proj .3 modules differ", adapter=changed(adapter, tmp_path / "1", target_modules=["q_proj"]))
    refused(
        "lacks .*k_proj", adapter=changed(adapter, tmp_path / "2", target_modules=["k_proj", "q_proj", "down_proj"])
    )
    refused("cannot be understood", adapter=changed(adapter, tmp_path / "3", target_modules="("))
    refused("cannot be understood", adapter=changed(adapter, tmp_path / "4", target_modules=None))
    refused("PEFT refuses it", adapter=changed(adapter, tmp_path / "5", layers_pattern="layers"))

    broken = shutil.copytree(adapter, tmp_path / "broken")
    values = load_file(broken / "adapter_model.safetensors")
    name = sorted(values)[0]
    values[name][0, 0] = float("nan")
    save_file(values, broken / "adapter_model.safetensors")
    refused(f"{name.removeprefix(PREFIX)} has numbers that are not finite", adapter=broken)

    head = made_adapter(tiny_checkpoint, tmp_path / "head", target_modules=["lm_head"])
    values = load_file(head / "adapter_model.safetensors")
    values["base_model.model.lm_head.base_layer.weight"][0, 0] += 1
    save_file(values, head / "adapter_model.safetensors")
    refused(r"brings lm_head.weight of the model that it was trained on, which is not that of this", adapter=head)

    quantized = shutil.copytree(tiny_checkpoint, tmp_path / "quantized")
    config = json.loads((quantized / "config.json").read_text())
    (quantized / "config.json").write_text(json.dumps(config | {"quantization_config": {}}))
    refused("is quantized", base=quantized)


def test_merged_weights_that_do_not_fit_their_type_are_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = made_adapter(bases["float16"], tmp_path / "adapter", lora_alpha=1e9)
    with pytest.raises(InputError, match=r"q_proj|down_proj.*merged, it has numbers that torch.float16 cannot hold"):
        merged(bases["float16"], [adapter], tmp_path / "out")
