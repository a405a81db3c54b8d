"""Schemes of weights alone: a written checkpoint against the same model rounded in memory."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from quantize import stage
from quantize.rtn import decoder_linears, round_to_nearest
from shipvlm.errors import ExecutionError, InputError
from shipvlm.folder import SIDE_FILES, WEIGHTS_INDEX, weight_files
from shipvlm.runtime.checkpoint import load, prepare
from shipvlm.runtime.inputs import Request
from tests.quantize.made import quantize, write_variant

UP = "model.language_model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def wide_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_variant(tiny_checkpoint, tmp_path_factory.mktemp("wide") / "qwen3_vl", torch.float16, wide=True)


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
    source, out = write_variant(tiny_checkpoint, tmp_path / "source", dtype, wide=True), tmp_path / "out"
    report = quantize(source, out, scheme=scheme)

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
    assert report.items() >= {"scheme": scheme, "ignore": [], "format": "pack-quantized"}.items()
    assert not report.keys() & {"observer", "percentile", "calibration"}  # nothing was observed


def test_plain_transformers_reads_it_without_our_code(wide_checkpoint, tmp_path):
    out = tmp_path / "out"
    quantize(wide_checkpoint, out, scheme="w8a16")
    model = Qwen3VLForConditionalGeneration.from_pretrained(out, dtype=torch.float32)
    with torch.inference_mode():
        plain = model(input_ids=torch.arange(9)[None]).logits
        ours = load(out).model(input_ids=torch.arange(9)[None]).logits
    assert torch.equal(plain, ours)


def test_the_config_is_what_servers_read(wide_checkpoint, tmp_path):
    quantize(wide_checkpoint, tmp_path / "out", scheme="w4a16")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    quantization = config.pop("quantization_config")
    assert config == json.loads((wide_checkpoint / "config.json").read_text())
    assert quantization["quant_method"] == "compressed-tensors"
    assert quantization["format"] == "pack-quantized"
    assert quantization["quantization_status"] == "compressed"
    assert quantization["config_groups"]["group_0"]["weights"]["num_bits"] == 4
    assert quantization["config_groups"]["group_0"]["weights"]["group_size"] == 128
    assert quantization["ignore"] == ["re:.*lm_head", "re:.*visual.*"]


def test_the_other_files_are_copied_byte_for_byte(wide_checkpoint, tmp_path):
    quantize(wide_checkpoint, tmp_path / "out", scheme="w8a16")
    copied = [name for name in SIDE_FILES if name != "config.json" and (wide_checkpoint / name).is_file()]
    assert {"tokenizer.json", "preprocessor_config.json", "chat_template.jinja", "generation_config.json"} <= set(
        copied
    )
    for name in copied:
        assert (tmp_path / "out" / name).read_bytes() == (wide_checkpoint / name).read_bytes(), name


def test_what_the_source_has_not_the_result_has_not(wide_checkpoint, tmp_path):
    source = shutil.copytree(wide_checkpoint, tmp_path / "source")
    (source / "generation_config.json").unlink()
    quantize(source, tmp_path / "out", scheme="w8a16")
    assert not (tmp_path / "out" / "generation_config.json").exists()


def test_refuses_damaged_weights(wide_checkpoint, tmp_path):
    source = shutil.copytree(wide_checkpoint, tmp_path / "source")
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not readable as safetensors"):
        quantize(source, tmp_path / "out", scheme="w8a16")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(UP), f"1 missing tensors, first {UP}"),
        (lambda tensors: tensors.update({"model.extra.weight": torch.zeros(2)}), "1 unexpected tensors"),
        (lambda tensors: tensors.update({UP: tensors[UP][:-1].contiguous()}), "1 mismatched tensors"),
        (lambda tensors: tensors.update({UP: tensors[UP].to(torch.int8)}), "1 integer tensors"),
    ],
)
def test_refuses_tensors_that_are_not_the_models(wide_checkpoint, tmp_path, change, message):
    source = shutil.copytree(wide_checkpoint, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=message):
        quantize(source, tmp_path / "out", scheme="w8a16")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_writes_as_many_files_as_the_source_has(tiny_checkpoint, tmp_path):
    """Also with a head tied to the embedding, which then is in no file."""
    config = Qwen3VLConfig.from_pretrained(tiny_checkpoint)
    config.tie_word_embeddings = True
    config.vision_config.deepstack_visual_indexes = [0, 1, 2]
    source, out = shutil.copytree(tiny_checkpoint, tmp_path / "source"), tmp_path / "out"
    (source / "model.safetensors").unlink()
    torch.manual_seed(2)
    Qwen3VLForConditionalGeneration(config).save_pretrained(source, max_shard_size="200KB")
    (source / "generation_config.json").unlink(missing_ok=True)
    quantize(source, out, scheme="w8a16")
    files = [path.name for path in weight_files(out)]
    assert files == [path.name for path in weight_files(source)]
    assert len(files) > 2
    index = json.loads((out / WEIGHTS_INDEX).read_text())
    stored = {name: load_file(out / name) for name in files}
    assert index["weight_map"] == {tensor: name for name in files for tensor in stored[name]}
    assert index["metadata"]["total_size"] == sum(each.nbytes for part in stored.values() for each in part.values())
    assert "lm_head.weight" not in index["weight_map"]
    rounded = load(source)
    round_to_nearest(rounded.model, 8, None)
    inputs = {"input_ids": torch.arange(9)[None]}
    assert (logits(load(out).model, inputs) - logits(rounded.model, inputs)).abs().max() < 1e-4


def test_refuses_what_it_cannot_quantize(tiny_checkpoint, wide_checkpoint, tmp_path):
    with pytest.raises(InputError, match="the scheme w8a8-static needs calibration data"):
        quantize(wide_checkpoint, tmp_path / "out", scheme="w8a8-static")
    with pytest.raises(InputError, match="q_proj has 64 input columns"):
        quantize(tiny_checkpoint, tmp_path / "out", scheme="w4a16")
    quantize(wide_checkpoint, tmp_path / "once", scheme="w8a16")
    with pytest.raises(InputError, match="quantized already"):
        quantize(tmp_path / "once", tmp_path / "twice", scheme="w8a16")
    assert [path.name for path in tmp_path.iterdir()] == ["once"]


def test_a_failing_audit_leaves_nothing_behind(wide_checkpoint, tmp_path, monkeypatch):
    whole = stage.write_checkpoint
    monkeypatch.setattr(
        stage,
        "write_checkpoint",
        lambda source, out, config, layers, *rest: whole(source, out, config, layers[1:], *rest),
    )
    with pytest.raises(ExecutionError, match="audit: unexpected or missing tensors"):
        quantize(wide_checkpoint, tmp_path / "out", scheme="w8a16")
    assert list(tmp_path.iterdir()) == []
