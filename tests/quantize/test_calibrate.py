"""What calibration counts, against the same model run record by record, without a batch and without padding."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from calib_data.records import picture
from quantize.calibrate import calibrate
from quantize.observers import clip
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.layers import decoder_groups
from shipvlm.families.qwen3_vl.processor import conversation
from shipvlm.runtime.checkpoint import load
from tests.quantize.made import made_records

GROUPS = decoder_groups(3)


def silent(*_):
    pass


@pytest.fixture(scope="module")
def seen(tiny_checkpoint):
    """One pass over ten records, and what every Linear reads when each of them is alone: (picture tokens?, values)."""
    checkpoint, records = load(tiny_checkpoint), made_records(10)
    found = calibrate(checkpoint, records, GROUPS, 4, silent)
    model, processor = checkpoint.model, checkpoint.processor
    inputs: dict[str, list[np.ndarray]] = {name: [] for group in GROUPS for name in group}
    image: list[np.ndarray] = []
    for name, read in inputs.items():
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, read=read: read.append(args[0][0].double().numpy())
        )
    for record in records:
        text = processor.apply_chat_template(conversation(record.prompt, 1), add_generation_prompt=True)
        arguments = processor(text=[text + record.answers[0]], images=[picture(record)], return_tensors="pt")
        image.append((arguments["input_ids"][0] == model.config.image_token_id).numpy())
        with torch.inference_mode():
            model(**arguments)
    return found, {name: np.concatenate(read) for name, read in inputs.items()}, np.concatenate(image)


def test_counts_the_tokens_of_pictures_and_all_others(seen):
    found, _, image = seen
    assert found.records == 10
    assert found.image_tokens == image.sum() > 0
    assert found.text_tokens == (~image).sum() > 0


def test_sees_every_value_of_every_token_and_no_padding(seen):
    found, inputs, image = seen
    assert [site.layers for site in found.sites] == GROUPS
    for site in found.sites:
        sizes = np.abs(inputs[site.layers[0]])
        assert int(site.histogram.counts.sum()) == sizes.size
        assert site.largest_image == pytest.approx(sizes[image].max(), rel=1e-4)
        assert site.largest_text == pytest.approx(sizes[~image].max(), rel=1e-4)
        assert site.histogram.largest == max(site.largest_image, site.largest_text)
        # A value at the edge of a bin may fall on its other side: batches change the last digits.
        width = site.histogram.width
        below = site.histogram.counts.numpy().cumsum()
        expected, _ = np.histogram(sizes, len(below), (0, width * len(below)))
        assert np.abs(below - expected.cumsum()).max() <= 5 + sizes.size // 2000


def test_the_layers_of_a_group_read_the_same_tensor(seen):
    _, inputs, _ = seen
    for group in GROUPS:
        for name in group[1:]:
            np.testing.assert_array_equal(inputs[name], inputs[group[0]])


def test_two_passes_count_the_same(tiny_checkpoint):
    first, second = (calibrate(load(tiny_checkpoint), made_records(6), GROUPS, 4, silent) for _ in range(2))
    for left, right in zip(first.sites, second.sites, strict=True):
        assert torch.equal(left.histogram.counts, right.histogram.counts)
        assert left.histogram.largest == right.histogram.largest


def test_the_answer_is_seen_too(tiny_checkpoint):
    record = made_records(1)[0]
    longer = record.model_copy(update={"answers": (f"{record.answers[0]} blue square",)})
    short, long = (calibrate(load(tiny_checkpoint), [each], GROUPS, 1, silent) for each in (record, longer))
    added = len(load(tiny_checkpoint).processor.tokenizer(" blue square")["input_ids"])
    assert long.text_tokens == short.text_tokens + added
    assert long.image_tokens == short.image_tokens


def test_reports_its_progress_and_leaves_no_hook(tiny_checkpoint):
    checkpoint, calls = load(tiny_checkpoint), []
    calibrate(checkpoint, made_records(5), GROUPS, 2, lambda *call: calls.append(call))
    assert calls == [("calibrate", 2, 5), ("calibrate", 4, 5), ("calibrate", 5, 5)]
    assert not any(module._forward_pre_hooks for module in checkpoint.model.modules())


def test_refuses_an_empty_set(tiny_checkpoint):
    with pytest.raises(InputError, match="holds no records"):
        calibrate(load(tiny_checkpoint), [], GROUPS, 4, silent)


def test_refuses_a_set_whose_pictures_do_not_arrive(tiny_checkpoint, tmp_path):
    blind = shutil.copytree(tiny_checkpoint, tmp_path / "blind")
    template = (blind / "chat_template.jinja").read_text()
    (blind / "chat_template.jinja").write_text(template.replace("<|image_pad|>", ""))
    with pytest.raises(InputError, match=r"record r\d: 0 picture tokens arrive in the prompt"):
        calibrate(load(blind), made_records(2), GROUPS, 2, silent)


def test_refuses_to_cut_a_record_that_is_too_long(tiny_checkpoint, tmp_path):
    short = shutil.copytree(tiny_checkpoint, tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 24
    (short / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"record r\d: \d+ tokens are more than the 24"):
        calibrate(load(short), made_records(4), GROUPS, 4, silent)


def test_refuses_a_special_token_in_an_answer(tiny_checkpoint):
    record = made_records(1)[0].model_copy(update={"answers": ("red <|image_pad|>",)})
    with pytest.raises(InputError, match=r"record r0: its answer contains the special token '<\|image_pad\|>'"):
        calibrate(load(tiny_checkpoint), [record], GROUPS, 1, silent)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_names_the_layer_that_reads_what_is_not_finite(tiny_checkpoint, tmp_path, value):
    damaged = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.language_model.layers.1.mlp.up_proj.weight"][3, 3] = value
    save_file(tensors, damaged / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.down_proj: reads an activation that is not finite"):
        calibrate(load(damaged), made_records(2), GROUPS, 2, silent)


@pytest.mark.gpu
def test_a_gpu_counts_what_the_cpu_counts(tiny_checkpoint):
    on_cpu, on_gpu = (
        calibrate(load(tiny_checkpoint, device=name), made_records(6), GROUPS, 3, silent) for name in ("cpu", "cuda")
    )
    assert (on_cpu.image_tokens, on_cpu.text_tokens) == (on_gpu.image_tokens, on_gpu.text_tokens)
    for left, right in zip(on_cpu.sites, on_gpu.sites, strict=True):
        assert left.histogram.counts.sum() == right.histogram.counts.sum().cpu()
        assert right.largest_image == pytest.approx(left.largest_image, rel=1e-3)
        assert right.largest_text == pytest.approx(left.largest_text, rel=1e-3)
        assert clip(right.histogram, "mse", 99.99) == pytest.approx(clip(left.histogram, "mse", 99.99), rel=0.1)
