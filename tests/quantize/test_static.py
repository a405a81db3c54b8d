"""w8a8-static: the written checkpoint against the source model, rounded by formulas written down here a second time."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from quantize.calibrate import calibrate
from quantize.observers import clip
from quantize.stage import REPORT
from shipvlm.errors import InputError
from shipvlm.families.outlier_twin import outlier_twin_folder
from shipvlm.families.qwen3_vl.layers import decoder_groups
from shipvlm.folder import SIDE_FILES, weight_files
from shipvlm.runtime.checkpoint import load, prepare
from shipvlm.runtime.inputs import Request
from tests.quantize.made import made_records, quantize, write_variant

RECORDS = made_records(6)
GROUPS = decoder_groups(3)
LAYERS = [layer for group in GROUPS for layer in group]
STATIC = {"scheme": "w8a8-static", "observer": "minmax"}


@pytest.fixture(scope="module", params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def written(request, tiny_checkpoint, tmp_path_factory):
    """Source, result and report, with the source in each dtype."""
    folder = tmp_path_factory.mktemp("static")
    source = write_variant(tiny_checkpoint, folder / "source", request.param)
    return source, folder / "out", quantize(source, folder / "out", RECORDS, **STATIC)


def tensors(folder):
    return {name: tensor for path in weight_files(folder) for name, tensor in load_file(path).items()}


def rounded(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.clamp(torch.round(values / scale), -128, 127) * scale


def reference(source, scales: dict[str, float], activations: bool = True):
    """The source model in float32, its decoder's Linears and what they read rounded to `scales`."""
    model = load(source).model
    for name, scale in scales.items():
        linear = model.get_submodule(name)
        dtype = tensors(source)[f"{name}.weight"].dtype
        channel = (linear.weight.detach().abs().amax(1, keepdim=True) / 127.5).to(dtype).float()
        linear.weight.data = rounded(linear.weight.detach(), channel)
        if activations:
            linear.register_forward_pre_hook(lambda _, args, scale=scale: (rounded(args[0], torch.tensor(scale)),))
    return model


def test_transformers_computes_what_the_scales_say(written):
    source, out, report = written
    scales = {layer: site["scale"] for site in report["calibration"]["inputs"] for layer in site["layers"]}
    assert sorted(scales) == sorted(LAYERS)
    picture = Image.effect_mandelbrot((96, 64), (-2, -1, 1, 1), 30).convert("RGB")
    inputs = prepare(load(source), [Request("what is the total", (picture,)), Request("left or right", (picture,))])
    with torch.inference_mode():
        wanted = reference(source, scales)(**inputs).logits
        weights_only = reference(source, scales, activations=False)(**inputs).logits
        plain = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32)(**inputs).logits
        ours = load(out).model(**inputs).logits
    words = inputs["attention_mask"].bool()
    assert (plain - wanted)[words].abs().max() <= 1e-4
    assert (ours - wanted)[words].abs().max() <= 1e-4
    # The activations really are rounded: without that, the logits are elsewhere.
    assert (weights_only - wanted)[words].abs().max() > 1e-2


def test_the_scales_are_those_of_the_calibration(written):
    source, out, report = written
    seen = calibrate(load(source), RECORDS, GROUPS, 4, lambda *_: None)
    stored = tensors(out)
    for site, entry in zip(seen.sites, report["calibration"]["inputs"], strict=True):
        dtype = stored[f"{site.layers[0]}.input_scale"].dtype
        expected = torch.tensor([clip(site.histogram, "minmax", 99.99) / 127], dtype=torch.float64).to(dtype)
        assert entry["layers"] == list(site.layers)
        assert entry["scale"] == float(expected)
        assert (entry["largest_image"], entry["largest_text"]) == (site.largest_image, site.largest_text)
        assert entry["clipped_share"] == 0
        for layer in site.layers:
            assert torch.equal(stored[f"{layer}.input_scale"], expected)


def test_the_files_are_those_of_the_source_but_for_the_layers(written):
    source, out, report = written
    before, after = tensors(source), tensors(out)
    for name, tensor in before.items():
        if name.removesuffix(".weight") in LAYERS:
            assert after[name].dtype == torch.int8
            assert after[name].shape == tensor.shape
        else:
            assert torch.equal(after[name], tensor), name
    names = [name for name in SIDE_FILES if name != "config.json" and (source / name).is_file()]
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json"} <= set(names)
    for name in names:
        assert (out / name).read_bytes() == (source / name).read_bytes(), name
    assert report["audit"]["quantized"] == sorted(LAYERS)
    assert report["weight_bytes"]["out"] < report["weight_bytes"]["source"]
    assert json.loads((out / REPORT).read_text()) == report


def test_the_config_is_what_servers_read(written):
    source, out, _ = written
    config = json.loads((out / "config.json").read_text())
    found = config.pop("quantization_config")
    assert config == json.loads((source / "config.json").read_text())
    assert (found["quant_method"], found["format"]) == ("compressed-tensors", "int-quantized")
    assert found["quantization_status"] == "compressed"
    assert found["ignore"] == ["re:.*lm_head", "re:.*visual.*"]
    group = found["config_groups"]["group_0"]
    assert group["targets"] == ["Linear"]
    shared = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False}
    assert group["weights"].items() >= {**shared, "strategy": "channel"}.items()
    assert group["input_activations"].items() >= {**shared, "strategy": "tensor"}.items()


@pytest.mark.parametrize("observer", ["percentile", "mse"])
def test_two_runs_write_the_same_bytes(tiny_checkpoint, tmp_path, observer):
    settings = {"scheme": "w8a8-static", "observer": observer, "percentile": 99.9}
    for name in ("first", "second"):
        quantize(tiny_checkpoint, tmp_path / name, RECORDS, **settings)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "second").iterdir())
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_layers_can_be_left_as_they_are(tiny_checkpoint, tmp_path):
    ignore = ("model.language_model.layers.0.mlp.down_proj", r"re:.*layers\.2\.self_attn\.[qkv]_proj$")
    report = quantize(tiny_checkpoint, tmp_path / "out", RECORDS, **STATIC, ignore=ignore)
    left = [ignore[0], *(f"model.language_model.layers.2.self_attn.{name}_proj" for name in "qkv")]
    assert sorted(report["audit"]["left"]) == sorted(left)
    assert report["audit"]["quantized"] == sorted(set(LAYERS) - set(left))
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert sorted(config["ignore"]) == sorted(["re:.*lm_head", "re:.*visual.*", *left])
    before, after, model = tensors(tiny_checkpoint), tensors(tmp_path / "out"), load(tmp_path / "out").model
    for layer in left:
        assert torch.equal(after[f"{layer}.weight"], before[f"{layer}.weight"])
        assert not hasattr(model.get_submodule(layer), "input_scale")
    scales = {name.removesuffix(".input_scale"): float(after[name]) for name in after if name.endswith("input_scale")}
    with torch.inference_mode():
        found, wanted = (
            each(input_ids=torch.arange(9)[None]).logits for each in (model, reference(tiny_checkpoint, scales))
        )
    assert (found - wanted).abs().max() <= 1e-4


def test_an_outlier_twin_keeps_its_two_dtypes(tiny_checkpoint, tmp_path):
    half = write_variant(tiny_checkpoint, tmp_path / "half", torch.float16)
    outlier_twin_folder(half, tmp_path / "twin", strength=64.0, channels=2, seed=0)
    quantize(tmp_path / "twin", tmp_path / "out", RECORDS, **STATIC)
    scales = {name: tensor for name, tensor in tensors(tmp_path / "out").items() if name.endswith("input_scale")}
    plain = quantize(half, tmp_path / "plain", RECORDS, **STATIC)
    assert {tensor.dtype for tensor in scales.values()} == {torch.float32}
    for site in plain["calibration"]["inputs"]:
        assert float(scales[f"{site['layers'][0]}.input_scale"]) > 5 * site["scale"]


def test_refuses_calibration_that_is_missing_or_of_no_use(tiny_checkpoint, tmp_path):
    for records, message in ((None, "needs calibration data"), ([], "holds no records")):
        with pytest.raises(InputError, match=message):
            quantize(tiny_checkpoint, tmp_path / str(records), records, **STATIC)
    with pytest.raises(InputError, match=r"the input of .*q_proj: of \d+ values none lies beyond percentile 99\.99999"):
        settings = {**STATIC, "observer": "percentile", "percentile": 99.99999}
        quantize(tiny_checkpoint, tmp_path / "few", RECORDS[:1], **settings)


@pytest.mark.parametrize(("factor", "message"), [(0.0, "is zero throughout"), (1e-5, r"cannot be stored as torch\.f")])
def test_refuses_a_scale_that_cannot_be_stored(tiny_checkpoint, tmp_path, factor, message):
    source = write_variant(tiny_checkpoint, tmp_path / "source", torch.float16)
    [path] = weight_files(source)
    stored = load_file(path)
    stored["model.language_model.layers.1.mlp.up_proj.weight"] *= factor
    stored["model.language_model.layers.1.mlp.gate_proj.weight"] *= max(factor, 1e-3)
    save_file(stored, path, {"format": "pt"})
    with pytest.raises(InputError, match=rf"layers\.1\.mlp\.down_proj: .*{message}"):
        quantize(source, tmp_path / "out", RECORDS, **STATIC)
