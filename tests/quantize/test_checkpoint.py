"""A written checkpoint against an independent path: the same model rounded in memory."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from quantize import checkpoint as module
from quantize.audit import audit
from quantize.checkpoint import REPORT, quantize_checkpoint
from quantize.rtn import decoder_linears, round_to_nearest
from shipvlm.errors import ExecutionError, InputError
from shipvlm.folder import SIDE_FILES
from shipvlm.runtime.checkpoint import Request, load, prepare


def write_wide(tiny: Path, folder: Path, dtype: torch.dtype) -> Path:
    """The tiny checkpoint with every text width a multiple of 128, so that groups of 128 fit."""
    config = Qwen3VLConfig.from_pretrained(tiny)
    config.text_config.hidden_size = config.vision_config.out_hidden_size = 128
    config.text_config.head_dim = 32
    config.text_config.rope_parameters["mrope_section"] = [6, 5, 5]
    torch.manual_seed(1)
    Qwen3VLForConditionalGeneration(config).to(dtype).save_pretrained(folder)
    for name in SIDE_FILES:
        if name != "config.json" and (tiny / name).is_file():
            (folder / name).write_bytes((tiny / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def wide_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide(tiny_checkpoint, tmp_path_factory.mktemp("wide") / "qwen3_vl", torch.float16)


def logits(model, inputs) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


@pytest.mark.parametrize(
    ("scheme", "bits", "group_size", "dtype", "tolerance"),
    [
        ("w8a16", 8, None, torch.float32, 1e-5),
        ("w4a16", 4, 128, torch.float32, 1e-5),
        ("w8a16", 8, None, torch.float16, 0.6),
        ("w4a16", 4, 128, torch.bfloat16, 0.6),
    ],
)
def test_answers_like_the_model_rounded_in_memory(
    tiny_checkpoint, tmp_path, scheme, bits, group_size, dtype, tolerance
):
    source, out = write_wide(tiny_checkpoint, tmp_path / "source", dtype), tmp_path / "out"
    report = quantize_checkpoint(source, scheme, out)

    original, rounded, written = load(source), load(source), load(out)
    round_to_nearest(rounded.model, bits, group_size)
    picture = Image.effect_mandelbrot((96, 64), (-2, -1, 1, 1), 30).convert("RGB")
    inputs = prepare(written, [Request("what is the total", (picture,)), Request("yes no", (picture,))])
    found, wanted, unrounded = (logits(each.model, inputs) for each in (written, rounded, original))
    # Scales have the dtype of the file: exact in float32; else each row's largest weight, a tie, may round elsewhere.
    assert (found - wanted).abs().mean() <= tolerance * (wanted - unrounded).abs().mean()

    assert report["audit"]["quantized"] == sorted(decoder_linears(original.model))
    assert report["weight_bytes"]["out"] < report["weight_bytes"]["source"]
    assert json.loads((out / "quantize.json").read_text()) == report


def test_plain_transformers_reads_it_without_our_code(wide_checkpoint, tmp_path):
    out = tmp_path / "out"
    quantize_checkpoint(wide_checkpoint, "w8a16", out)
    model = Qwen3VLForConditionalGeneration.from_pretrained(out, dtype=torch.float32)
    with torch.inference_mode():
        plain = model(input_ids=torch.arange(9)[None]).logits
        ours = load(out).model(input_ids=torch.arange(9)[None]).logits
    assert torch.equal(plain, ours)


def test_the_config_is_what_servers_read(wide_checkpoint, tmp_path):
    quantize_checkpoint(wide_checkpoint, "w4a16", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    quantization = config.pop("quantization_config")
    assert config == json.loads((wide_checkpoint / "config.json").read_text())
    assert quantization["quant_method"] == "compressed-tensors"
    assert quantization["format"] == "pack-quantized"
    assert quantization["quantization_status"] == "compressed"
    assert quantization["config_groups"]["group_0"]["weights"]["num_bits"] == 4
    assert quantization["config_groups"]["group_0"]["weights"]["group_size"] == 128
    assert "lm_head" in quantization["ignore"]


def test_the_other_files_are_copied_byte_for_byte(wide_checkpoint, tmp_path):
    quantize_checkpoint(wide_checkpoint, "w8a16", tmp_path / "out")
    copied = [name for name in SIDE_FILES if name != "config.json" and (wide_checkpoint / name).is_file()]
    assert {"tokenizer.json", "preprocessor_config.json", "chat_template.jinja", "generation_config.json"} <= set(
        copied
    )
    for name in copied:
        assert (tmp_path / "out" / name).read_bytes() == (wide_checkpoint / name).read_bytes(), name


def test_replaces_its_own_result_and_nothing_else(wide_checkpoint, tmp_path):
    out = tmp_path / "out"
    quantize_checkpoint(wide_checkpoint, "w8a16", out)
    assert quantize_checkpoint(wide_checkpoint, "w4a16", out)["bits"] == 4
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="was not written by this command"):
        quantize_checkpoint(wide_checkpoint, "w8a16", stranger)
    with pytest.raises(InputError, match="over its source"):
        quantize_checkpoint(wide_checkpoint, "w8a16", wide_checkpoint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "stranger"]


def test_refuses_a_folder_that_holds_its_source(wide_checkpoint, tmp_path):
    source = shutil.copytree(wide_checkpoint, tmp_path / "models" / "source")
    (tmp_path / "models" / REPORT).write_text("{}")  # as if an earlier result had been written there
    with pytest.raises(InputError, match="over its source"):
        quantize_checkpoint(source, "w8a16", tmp_path / "models")
    assert source.is_dir()


def test_what_the_source_has_not_the_result_has_not(wide_checkpoint, tmp_path):
    source = shutil.copytree(wide_checkpoint, tmp_path / "source")
    (source / "generation_config.json").unlink()
    quantize_checkpoint(source, "w8a16", tmp_path / "out")
    assert not (tmp_path / "out" / "generation_config.json").exists()


def test_refuses_damaged_weights(wide_checkpoint, tmp_path):
    source = shutil.copytree(wide_checkpoint, tmp_path / "source")
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot load it"):
        quantize_checkpoint(source, "w8a16", tmp_path / "out")
    tensors = load_file(wide_checkpoint / "model.safetensors")
    del tensors["model.language_model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="1 missing tensors"):
        quantize_checkpoint(source, "w8a16", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_refuses_what_it_cannot_quantize(tiny_checkpoint, wide_checkpoint, tmp_path):
    with pytest.raises(InputError, match="choose one of w4a16, w8a16"):
        quantize_checkpoint(wide_checkpoint, "w2a2", tmp_path / "out")
    with pytest.raises(InputError, match="q_proj has 64 input columns"):
        quantize_checkpoint(tiny_checkpoint, "w4a16", tmp_path / "out")
    quantize_checkpoint(wide_checkpoint, "w8a16", tmp_path / "once")
    with pytest.raises(InputError, match="quantized already"):
        quantize_checkpoint(tmp_path / "once", "w8a16", tmp_path / "twice")
    assert [path.name for path in tmp_path.iterdir()] == ["once"]


def test_a_failing_audit_leaves_nothing_behind(wide_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "decoder_linears", lambda model: dict(list(decoder_linears(model).items())[1:]))
    with pytest.raises(ExecutionError, match="audit: unexpected or missing tensors"):
        quantize_checkpoint(wide_checkpoint, "w8a16", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("weight_scale", lambda scale: scale * 1.1, "strays"),
        ("weight_packed", lambda packed: packed + 1, "strays"),
        ("weight_scale", lambda scale: scale[:, :0], "weight_scale is"),
        ("weight_shape", lambda shape: shape + 1, "weight_shape is"),
    ],
)
def test_the_audit_sees_a_damaged_layer(wide_checkpoint, tmp_path, part, change, message):
    out = tmp_path / "out"
    quantize_checkpoint(wide_checkpoint, "w8a16", out)
    tensors = load_file(out / "model.safetensors")
    key = f"model.language_model.layers.1.mlp.up_proj.{part}"
    tensors[key] = change(tensors[key])
    save_file(tensors, out / "model.safetensors")
    with pytest.raises(ExecutionError, match=message):
        audit(wide_checkpoint, out, 8, None)


def test_the_audit_sees_a_changed_bystander(wide_checkpoint, tmp_path):
    out = tmp_path / "out"
    quantize_checkpoint(wide_checkpoint, "w8a16", out)
    tensors = load_file(out / "model.safetensors")
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, out / "model.safetensors")
    with pytest.raises(ExecutionError, match=r"lm_head\.weight should be unchanged"):
        audit(wide_checkpoint, out, 8, None)
