"""The checkpoint that ships: what it is, and that it answers a picture of each task, also with plain transformers."""

import copy
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from calib_data.load import load_records
from calib_data.records import Record, picture
from calib_data.scoring import score
from shipvlm.cli import app
from shipvlm.families.outlier_twin import outlier_twin
from shipvlm.runtime.checkpoint import load, prepare
from shipvlm.runtime.generate import generate
from shipvlm.runtime.inputs import Request

MODEL = Path("examples/tiny_qwen3_vl")
SAMPLES = {"vqa": "vqa-0006", "caption": "caption-0008", "consistency": "consistency-0008", "ocr": "ocr-0006"}


@pytest.fixture(scope="module")
def samples() -> dict[str, Record]:
    by_id = {record.id: record for record in load_records("calibration")}
    return {task: by_id[name] for task, name in SAMPLES.items()}


def test_it_is_small_and_genuine() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]
    assert text["rope_parameters"]["mrope_interleaved"]
    assert text["num_key_value_heads"] < text["num_attention_heads"]
    assert len(vision["deepstack_visual_indexes"]) >= 2
    assert (vision["patch_size"], vision["spatial_merge_size"]) == (16, 2)
    shards = [path.stat().st_size for path in MODEL.glob("*.safetensors")]
    assert max(shards) < 15e6
    assert sum(shards) < 32e6
    model = load(MODEL, dtype="auto").model
    assert model.dtype == torch.float16
    assert sum(parameter.numel() for parameter in model.parameters()) <= 16e6


def test_it_can_show_a_loss() -> None:
    """Measured: rounding its weights ever more coarsely shows, in the right order."""
    assert json.loads((MODEL / "results.json").read_text())["quantization"]["verdict"]["separates"] is True


def test_the_sample_pictures_are_calibration_records(samples: dict[str, Record]) -> None:
    for task, record in samples.items():
        assert (MODEL / "pictures" / f"{task}.jpg").read_bytes() == record.image


@pytest.mark.parametrize("task", SAMPLES)
def test_ask_answers_a_picture_of_each_task(task: str, samples: dict[str, Record]) -> None:
    record = samples[task]
    image = str(MODEL / "pictures" / f"{task}.jpg")
    result = CliRunner().invoke(app, ["ask", "--model", str(MODEL), "--image", image, record.prompt])
    assert result.exit_code == 0, result.output
    assert score(task, result.stdout.strip(), record.answers).value > 0.9  # type: ignore[arg-type]


def test_plain_transformers_gives_the_same_answers() -> None:
    """Nothing of ours between the files and the answer: as the model card tells people to do it."""
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLForConditionalGeneration

    records = load_records("heldout")[::12]
    model = Qwen3VLForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    images = Qwen2VLImageProcessorPil.from_pretrained(MODEL)
    ours = generate(load(MODEL), [Request(record.prompt, (picture(record),)) for record in records])
    for record, answer in zip(records, ours, strict=True):
        pixels = images(picture(record), return_tensors="pt")
        cells = int(pixels["image_grid_thw"].prod()) // 4
        content = [{"type": "image"}, {"type": "text", "text": record.prompt}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * cells), return_tensors="pt")
        types = (inputs["input_ids"] == model.config.image_token_id).int()
        ids = model.generate(**inputs, **pixels, mm_token_type_ids=types, max_new_tokens=64, do_sample=False)
        said = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said.strip() == answer.text


@torch.inference_mode()
def test_its_outlier_twin_computes_the_same() -> None:
    checkpoint = load(MODEL)
    records = load_records("heldout")[::40]
    inputs = prepare(checkpoint, [Request(record.prompt, (picture(record),)) for record in records])
    twin = copy.deepcopy(checkpoint.model)
    outlier_twin(twin, strength=50, channels=8, seed=0)
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(twin(**inputs).logits[seen], checkpoint.model(**inputs).logits[seen], atol=1e-4, rtol=0)
