"""The twin computes the same, and is hard for a static quantizer."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from shipvlm.errors import InputError
from shipvlm.families.outlier_twin import outlier_twin, outlier_twin_folder
from shipvlm.runtime.checkpoint import Checkpoint, load, prepare
from shipvlm.runtime.inputs import Request


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load(tiny_checkpoint)


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8))


REQUESTS = [Request("what is red", (noise(0),)), Request("what is left", (noise(1), noise(2))), Request("the total")]


def logits(checkpoint: Checkpoint, model: Any) -> torch.Tensor:
    inputs = prepare(checkpoint, REQUESTS)
    with torch.inference_mode():
        return model(**inputs).logits[inputs["attention_mask"].bool()]


def inputs_of_linears(checkpoint: Checkpoint, model: Any) -> dict[str, torch.Tensor]:
    """The largest |input| of every channel of every decoder Linear, [in] each."""
    largest: dict[str, torch.Tensor] = {}

    def watch(name: str, linear: nn.Linear) -> None:
        linear.register_forward_pre_hook(
            lambda _, args: largest.update({name: args[0].abs().reshape(-1, args[0].shape[-1]).amax(0)})
        )

    watched = copy.deepcopy(model)
    for name, module in watched.model.language_model.layers.named_modules():
        if isinstance(module, nn.Linear):
            watch(name, module)
    logits(checkpoint, watched)
    return largest


def static_int8(checkpoint: Checkpoint, model: Any) -> torch.Tensor:
    """Logits with every decoder Linear's input rounded to 255 levels of one fixed range, its min-max on this input."""
    ranges = {name: peak.max() for name, peak in inputs_of_linears(checkpoint, model).items()}

    def rounding(step: torch.Tensor):
        return lambda _, args: ((args[0] / step).round().clamp(-127, 127) * step,)

    quantized = copy.deepcopy(model)
    for name, module in quantized.model.language_model.layers.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(rounding(ranges[name] / 127))
    return logits(checkpoint, quantized)


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).norm() / (wanted - wanted.mean()).norm()).item()


@settings(max_examples=10, deadline=None)
@given(
    strength=st.floats(2, 100),
    channels=st.integers(1, 32),
    seed=st.integers(0, 1000),
)
def test_the_function_is_unchanged(checkpoint: Checkpoint, strength: float, channels: int, seed: int) -> None:
    twin = copy.deepcopy(checkpoint.model)
    outlier_twin(twin, strength, channels, seed)
    torch.testing.assert_close(logits(checkpoint, twin), logits(checkpoint, checkpoint.model), rtol=0, atol=1e-4)


def test_biases_are_scaled_too(checkpoint: Checkpoint) -> None:
    config = copy.deepcopy(checkpoint.model.config)
    config.text_config.attention_bias = True
    torch.manual_seed(1)
    model = type(checkpoint.model)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    wanted = logits(checkpoint, model)
    outlier_twin(model, 50.0, 4, seed=0)
    torch.testing.assert_close(logits(checkpoint, model), wanted, rtol=0, atol=1e-4)


def test_every_linear_gets_outliers_of_the_chosen_strength(checkpoint: Checkpoint) -> None:
    twin = copy.deepcopy(checkpoint.model)
    outlier_twin(twin, 64.0, 4, seed=0)
    before, after = inputs_of_linears(checkpoint, checkpoint.model), inputs_of_linears(checkpoint, twin)
    heads_a_group = 2  # a value channel is read by both query heads of its group
    assert len(before) == 7 * 3
    for name in before:
        ratio = after[name] / before[name]
        scaled = (ratio - 64).abs() < 0.1
        assert scaled.sum() == 4 * (heads_a_group if name.endswith("o_proj") else 1), name
        torch.testing.assert_close(ratio[~scaled], torch.ones_like(ratio[~scaled]), rtol=0, atol=1e-3)


def test_static_int8_is_much_worse_on_the_twin(checkpoint: Checkpoint) -> None:
    twin = copy.deepcopy(checkpoint.model)
    outlier_twin(twin, 64.0, 4, seed=0)
    wanted = logits(checkpoint, checkpoint.model)
    original_error = relative_error(static_int8(checkpoint, checkpoint.model), wanted)
    twin_error = relative_error(static_int8(checkpoint, twin), wanted)
    assert original_error < 0.1
    assert twin_error > 5 * original_error


def test_folder_twin_equals_model_twin(checkpoint: Checkpoint, tiny_checkpoint: Path, tmp_path: Path) -> None:
    outlier_twin_folder(tiny_checkpoint, tmp_path / "twin", 30.0, 4, seed=7)
    twin = copy.deepcopy(checkpoint.model)
    outlier_twin(twin, 30.0, 4, seed=7)
    assert torch.equal(logits(checkpoint, load(tmp_path / "twin").model), logits(checkpoint, twin))
    names = {path.name for path in tiny_checkpoint.iterdir()}
    assert {path.name for path in (tmp_path / "twin").iterdir()} == names
    for name in names - {"model.safetensors"}:
        assert (tmp_path / "twin" / name).read_bytes() == (tiny_checkpoint / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["twin"], "nothing half-made is left"


def test_half_precision_shards(checkpoint: Checkpoint, tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tiny_checkpoint, tmp_path / "source")
    tensors = {name: tensor.half() for name, tensor in load_file(source / "model.safetensors").items()}
    (source / "model.safetensors").unlink()
    shards = {
        "model-00001-of-00002.safetensors": list(tensors)[::2],
        "model-00002-of-00002.safetensors": list(tensors)[1::2],
    }
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, source / shard, {"format": "pt"})
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))

    outlier_twin_folder(source, tmp_path / "twin", 50.0, 4, seed=0)
    wanted, found = (logits(checkpoint, load(tmp_path / name).model) for name in ("source", "twin"))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    written = {shard: load_file(tmp_path / "twin" / shard) for shard in shards}
    total = sum(tensor.nbytes for shard in written.values() for tensor in shard.values())
    twin_index = json.loads((tmp_path / "twin" / "model.safetensors.index.json").read_text())
    assert twin_index == {"metadata": {"total_size": total}, "weight_map": weight_map}
    assert {tensor.dtype for tensor in written[next(iter(shards))].values()} == {torch.float16, torch.float32}


@pytest.mark.parametrize(
    ("strength", "channels", "message"),
    [(1.0, 4, "strength"), (float("nan"), 4, "strength"), (30.0, 0, "channels"), (30.0, 33, "between 1 and 32")],
)
def test_refuses_numbers_that_make_no_outliers(
    checkpoint: Checkpoint, strength: float, channels: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        outlier_twin(checkpoint.model, strength, channels, seed=0)


def test_refuses_another_model() -> None:
    with pytest.raises(InputError, match="not of Linear"):
        outlier_twin(nn.Linear(2, 2), 30.0, 1, seed=0)


def test_takes_along_only_what_belongs_to_the_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tiny_checkpoint, tmp_path / "source")
    (tmp_path / "secret").write_text("secret")
    (source / "notes.txt").symlink_to(tmp_path / "secret")
    outlier_twin_folder(source, tmp_path / "twin", 30.0, 4, seed=0)
    twin = {path.name for path in (tmp_path / "twin").iterdir()}
    assert twin == {path.name for path in tiny_checkpoint.iterdir()}


def test_refuses_a_truncated_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tiny_checkpoint, tmp_path / "source")
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not readable as safetensors"):
        outlier_twin_folder(source, tmp_path / "twin", 30.0, 4, seed=0)


def test_refuses_to_overwrite(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        outlier_twin_folder(tiny_checkpoint, tmp_path, 30.0, 4, seed=0)


def test_refuses_a_quantized_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tiny_checkpoint, tmp_path / "source")
    config = json.loads((source / "config.json").read_text()) | {"quantization_config": {"bits": 8}}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="is quantized"):
        outlier_twin_folder(source, tmp_path / "twin", 30.0, 4, seed=0)
