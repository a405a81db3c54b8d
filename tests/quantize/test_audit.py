"""The audit must see everything that can go wrong in a written checkpoint: each damage is made, and named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantize.audit import audit
from quantize.schemes import quantization_config, quantization_scheme
from shipvlm.errors import ExecutionError
from tests.quantize.made import made_records, quantize

UP = "model.language_model.layers.1.mlp.up_proj"
SKIPPED = "model.language_model.layers.0.mlp.down_proj"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def written(tiny_checkpoint, tmp_path_factory):
    """Results of a static and of a weight-only scheme, and the calibrated scales of the first."""
    folder = tmp_path_factory.mktemp("audit")
    settings = {"w8a8-static": {"observer": "mse", "ignore": (SKIPPED,)}, "w8a16": {}}
    for scheme, more in settings.items():
        quantize(tiny_checkpoint, folder / scheme, made_records(3), scheme=scheme, **more)
    stored = load_file(folder / "w8a8-static" / WEIGHTS)
    scales = {name.removesuffix(".input_scale"): float(stored[name]) for name in stored if name.endswith("input_scale")}
    return folder, scales


def check(source, out, scheme, scales):
    left = (SKIPPED,) if scheme == "w8a8-static" else ()
    return audit(source, out, quantization_config(quantization_scheme(scheme), left), left, scales)


def damaged(written, tmp_path, scheme, change):
    """A copy of a result with its tensors changed."""
    folder, scales = written
    out = shutil.copytree(folder / scheme, tmp_path / "out")
    stored = load_file(out / WEIGHTS)
    change(stored)
    save_file(stored, out / WEIGHTS, {"format": "pt"})
    return out, scales if scheme == "w8a8-static" else {}


@pytest.mark.parametrize("scheme", ["w8a8-static", "w8a16"])
def test_what_was_written_passes(tiny_checkpoint, written, tmp_path, scheme):
    out, scales = damaged(written, tmp_path, scheme, lambda stored: None)
    found = check(tiny_checkpoint, out, scheme, scales)
    assert len(found["quantized"]) == 3 * 7 - len(found["left"])
    assert found["left"] == ([SKIPPED] if scheme == "w8a8-static" else [])
    assert 0.4 < found["largest_error_steps"] <= 0.501


def replaced(name, change):
    def edit(stored):
        stored[name] = change(stored[name])

    return edit


def one_more(values: torch.Tensor) -> torch.Tensor:
    changed = values.clone()
    changed[5, 5] += 1 if changed[5, 5] < 100 else -1
    return changed


@pytest.mark.parametrize(
    ("scheme", "change", "message"),
    [
        ("w8a8-static", replaced(f"{UP}.weight", one_more), r"up_proj strays"),
        ("w8a8-static", replaced(f"{UP}.weight", lambda w: w.short()), r"weight is torch\.int16, expected torch\.int8"),
        ("w8a8-static", replaced(f"{UP}.weight", lambda w: w[:, :-1].contiguous()), r"weight is \[128, 63\]"),
        ("w8a8-static", replaced(f"{UP}.weight_scale", lambda s: s * 1.1), r"weight_scale of row 0 does not belong"),
        ("w8a8-static", replaced(f"{UP}.weight_scale", lambda s: s.half()), r"weight_scale is torch\.float16"),
        ("w8a8-static", replaced(f"{UP}.weight_scale", lambda s: s[0]), r"weight_scale is \[1\], expected \[128, 1\]"),
        ("w8a8-static", replaced(f"{UP}.input_scale", lambda s: s * 1.01), r"up_proj\.input_scale is .*calibration"),
        ("w8a8-static", replaced(f"{UP}.input_scale", lambda s: s[0]), r"input_scale is \[\], expected \[1\]"),
        ("w8a8-static", lambda stored: stored.pop(f"{UP}.input_scale"), "unexpected or missing tensors.*input_scale"),
        ("w8a8-static", lambda stored: stored.update(extra=torch.zeros(1)), "unexpected or missing tensors: .*extra"),
        ("w8a8-static", replaced("lm_head.weight", one_more), r"lm_head\.weight should be unchanged"),
        ("w8a8-static", replaced(f"{SKIPPED}.weight", one_more), r"down_proj\.weight should be unchanged"),
        ("w8a8-static", replaced("lm_head.weight", lambda w: w.half()), r"lm_head\.weight should be unchanged"),
        ("w8a8-static", replaced("model.visual.merger.norm.bias", lambda b: -b), r"norm\.bias should be unchanged"),
        ("w8a16", replaced(f"{UP}.weight_packed", lambda p: p + 1), "strays"),
        ("w8a16", replaced(f"{UP}.weight_packed", lambda p: p.long()), r"weight_packed is torch\.int64"),
        ("w8a16", replaced(f"{UP}.weight_scale", lambda s: s * 1.1), "does not belong to its weights"),
        ("w8a16", replaced(f"{UP}.weight_scale", lambda s: s[:, :0]), "weight_scale is"),
        ("w8a16", replaced(f"{UP}.weight_shape", lambda s: s + 1), "weight_shape is"),
    ],
)
def test_sees_a_damaged_tensor(tiny_checkpoint, written, tmp_path, scheme, change, message):
    out, scales = damaged(written, tmp_path, scheme, change)
    with pytest.raises(ExecutionError, match=message):
        check(tiny_checkpoint, out, scheme, scales)


def test_sees_layers_that_do_not_share_the_scale_of_their_input(tiny_checkpoint, written, tmp_path):
    out, scales = damaged(written, tmp_path, "w8a8-static", replaced(f"{UP}.input_scale", lambda s: s * 2))
    with pytest.raises(ExecutionError, match=r"gate_proj do not share one input_scale"):
        check(tiny_checkpoint, out, "w8a8-static", {**scales, UP: 2 * scales[UP]})


def test_sees_a_layer_that_should_have_been_quantized(tiny_checkpoint, written):
    folder, scales = written
    with pytest.raises(ExecutionError, match="unexpected or missing tensors"):
        audit(
            tiny_checkpoint,
            folder / "w8a8-static",
            quantization_config(quantization_scheme("w8a8-static"), ()),
            (),
            scales,
        )


def test_sees_a_minus_that_compares_equal(tiny_checkpoint, written, tmp_path):
    out, scales = damaged(written, tmp_path, "w8a8-static", replaced("model.visual.blocks.0.norm1.bias", lambda b: -b))
    assert not load_file(out / WEIGHTS)["model.visual.blocks.0.norm1.bias"].any()
    with pytest.raises(ExecutionError, match=r"norm1\.bias should be unchanged"):
        check(tiny_checkpoint, out, "w8a8-static", scales)


def edit_config(change):
    def edit(out):
        config = json.loads((out / "config.json").read_text())
        change(config)
        (out / "config.json").write_text(json.dumps(config))

    return edit


def ignoring(*entries):
    return edit_config(lambda config: config["quantization_config"].update(ignore=list(entries)))


def activations(**settings):
    def change(config):
        config["quantization_config"]["config_groups"]["group_0"]["input_activations"].update(settings)

    return edit_config(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (ignoring("re:.*visual.*", SKIPPED), "disagree whether lm_head is quantized"),
        (ignoring("re:.*lm_head", SKIPPED), r"disagree whether model\.visual\..* is quantized"),
        (ignoring("re:.*lm_head", "re:.*visual.*"), r"disagree whether .*layers\.0\.mlp\.down_proj is quantized"),
        (ignoring("re:.*lm_head", "re:.*visual.*", SKIPPED, UP), r"disagree whether .*layers\.1\.mlp\.up_proj is"),
        (activations(num_bits=4), "config.json says config_groups"),
        (activations(dynamic=True, strategy="token"), "config.json says config_groups"),
        (edit_config(lambda config: config["quantization_config"].update(format="pack-quantized")), "says format"),
        (edit_config(lambda config: config.pop("quantization_config")), "no quantization_config"),
        (edit_config(lambda config: config.update(image_token_id=1)), "more than quantization_config"),
        (lambda out: (out / "tokenizer.json").write_text("{}"), r"tokenizer\.json is not the source's"),
        (lambda out: (out / "chat_template.jinja").unlink(), r"chat_template\.jinja is not the source's"),
        (lambda out: (out / "generation_config.json").write_text("{}"), r"generation_config\.json is not the source's"),
        (lambda out: (out / "processor_config.json").write_text("{}"), r"processor_config\.json is not the source's"),
    ],
)
def test_sees_a_damaged_file(tiny_checkpoint, written, tmp_path, change, message):
    folder, scales = written
    out = shutil.copytree(folder / "w8a8-static", tmp_path / "out")
    change(out)
    with pytest.raises(ExecutionError, match=message):
        check(tiny_checkpoint, out, "w8a8-static", scales)
