"""The plan: sizes as they then are on disk, and problems seen before any work."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from calib_data.load import load_records
from quantize.stage import run as run_quantize
from shipvlm import plan as plan_module
from shipvlm.families.qwen3_vl.layers import decoder_groups
from shipvlm.ignore import ignored
from shipvlm.lock import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LOCK, UNFINISHED, Lock, write_lock
from shipvlm.plan import plan
from shipvlm.plan_checks import Merging
from shipvlm.recipe_file import make_recipe

COUNTS: dict[str, int | str | None] = {"calibration": 512, "evaluation": 1600}


def planned(
    model: Path,
    *settings: str,
    counts: dict[str, int | str | None] = COUNTS,
    until: str = "bench",
    merging: Merging | str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    recipe = make_recipe({"name": "test", "model": {"path": str(model), **fields}}, settings)
    return plan(recipe, Path("build/test"), counts, until, merging)


def problems(found: dict[str, Any], stops: bool = True) -> str:
    return "\n".join(f"{p['where']}: {p['message']}" for p in found["problems"] if p["stops"] is stops)


def test_a_sound_recipe_has_no_problem(tiny_checkpoint: Path) -> None:
    found = planned(tiny_checkpoint)
    assert problems(found) == ""
    assert [stage["name"] for stage in found["stages"]] == ["quantize", "baseline", "convert", "bench"]
    assert [stage["folder"] for stage in found["stages"]] == ["quantized", "onnx-baseline", "artifact", "report"]
    assert found["target"]["verdict"] == "fast"
    assert json.loads(json.dumps(found)) == found


def test_the_model_is_described_as_transformers_loads_it(tiny_checkpoint: Path) -> None:
    from transformers import Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(tiny_checkpoint)
    found = planned(tiny_checkpoint)["model"]
    assert found["parameters"] == model.num_parameters()
    assert found["decoder_layers"] == 3
    assert found["deepstack_levels"] == 2
    assert found["quantized_linears"] == 3 * 7
    linears = [
        module.weight.numel()
        for name, module in model.named_modules()
        if "language_model.layers" in name and hasattr(module, "weight") and module.weight.ndim == 2
    ]
    assert found["quantized_share"] == pytest.approx(sum(linears) / model.num_parameters())
    assert found["kv_cache_bytes_a_token"] == 2 * 3 * 2 * 16 * 4


@pytest.mark.parametrize(
    "settings",
    [
        ["quantize.scheme=w8a16"],
        ["quantize.observer=minmax"],
        ["quantize.observer=mse", "quantize.ignore=['re:.*mlp']"],
    ],
)
def test_the_quantized_checkpoint_is_as_large_as_planned(
    tiny_checkpoint: Path, tmp_path: Path, settings: list[str]
) -> None:
    recipe = make_recipe({"name": "test", "model": {"path": str(tiny_checkpoint)}}, settings)
    run_quantize(tiny_checkpoint, recipe.quantize, load_records("calibration")[:2], tmp_path, lambda *_: None)
    (tmp_path / "quantize.json").unlink()  # the report of what was done grows with what was asked
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    headers = sum(path.stat().st_size for path in tmp_path.glob("*.index.json")) + sum(
        struct.unpack("<Q", path.open("rb").read(8))[0] for path in tmp_path.glob("*.safetensors")
    )
    [stage, *_] = planned(tiny_checkpoint, *settings)["stages"]
    assert stage["disk_bytes"] == pytest.approx(written - headers, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["target.device=hopper"], "w8a8-static is slow on onnxruntime, hopper"),
        (["target.device=hopper"], "take w8a16 on onnxruntime"),
        (["target.runtime=transformers"], "w8a8-static is slow on transformers, cpu"),
        (["target.runtime=vllm"], "not covered here; take w8a8-static on onnxruntime"),
        (["target={runtime: tensorrt-rtx, device: hopper}"], "w8a8-static is refused on tensorrt-rtx, hopper"),
        (["target={runtime: vllm, device: ada}"], "vllm loads checkpoints, no ONNX graphs; write convert: null"),
        (["convert=null"], "onnxruntime loads ONNX graphs; leave out convert: null"),
        (
            ["quantize.scheme=w4a16", "target={runtime: vllm, device: ada}", "convert=null"],
            "groups of 128 columns do not divide the width of model.language_model.layers.0.self_attn.q_proj (64) "
            "and 17 more layers; take w8a16",
        ),
        (["quantize.ignore=[nothing]"], "'nothing' matches no layer of the text decoder"),
        (["quantize.ignore=['re:(']"], "( is no regular expression"),
        (["quantize.ignore=['re:.*']"], "nothing is left to quantize"),
        (
            ["quantize.ignore=['re:.*v_proj']"],
            "0.self_attn.k_proj read the same input and are quantized together or not at all",
        ),
        (["calibration.samples=513"], "calibration: it has 512 records, 513 are asked for"),
        (["convert.parity.items=1601"], "evaluation: it has 1600 records, 1601 are asked for"),
    ],
)
def test_a_problem_is_seen(tiny_checkpoint: Path, settings: list[str], message: str) -> None:
    assert message in problems(planned(tiny_checkpoint, *settings))


def test_data_that_cannot_be_had_is_a_problem_and_data_unread_a_note(tiny_checkpoint: Path) -> None:
    found = planned(tiny_checkpoint, counts={"calibration": "calibration: it has no pictures", "evaluation": None})
    assert problems(found) == "calibration.data: calibration: it has no pictures"
    assert "bench.data: evaluation: its records are counted when it is read" in problems(found, stops=False)


def test_weight_only_schemes_need_no_calibration_and_say_so(tiny_checkpoint: Path) -> None:
    settings = ["quantize.scheme=w8a16", "target={runtime: vllm, device: ada}", "convert=null"]
    found = planned(tiny_checkpoint, *settings, counts={"calibration": "no such file", "evaluation": 4})
    assert problems(found) == ""
    assert "calibration and observer are not used" in problems(found, stops=False)
    assert [stage["name"] for stage in found["stages"]] == ["quantize", "bench"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(quantization_config={}), "is quantized already"),
        (lambda config: config["text_config"].update(attention_bias=True), "attention_bias"),
        (
            lambda config: config["text_config"].update(num_hidden_layers=4),
            "11 missing tensors",
        ),
        (lambda config: config["text_config"].update(intermediate_size=96), "9 mismatched tensors"),
        (lambda config: config.update(model_type="llava"), "model_type is 'llava'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_a_problem(
    tiny_checkpoint: Path, tmp_path: Path, change, message: str
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "odd")
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    change(config)
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config))
    found = planned(tmp_path / "odd")
    assert message in problems(found)
    assert (found["model"], found["stages"]) == (None, [])


def test_a_broken_weights_file_is_a_problem(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "cut")
    content = (tiny_checkpoint / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(content[:1000])
    assert "not readable as safetensors" in problems(planned(tmp_path / "cut"))


def test_a_folder_that_is_missing_is_a_problem() -> None:
    assert "nowhere: no such folder" in problems(planned(Path("nowhere")))


def unfinished(folder: Path) -> Path:
    """A copy of a checkpoint whose download was broken off at the end."""
    lock = Lock(
        repo="a/b", revision="main", commit=None, source="hf", endpoint=None, licence=None, files={}, documents={}
    )
    (folder / UNFINISHED).mkdir()
    write_lock(lock, folder / UNFINISHED / LOCK)
    return folder


def test_of_a_checkpoint_that_is_still_to_be_fetched_it_says_from_where(tiny_checkpoint: Path, tmp_path: Path) -> None:
    part = unfinished(shutil.copytree(tiny_checkpoint, tmp_path / "part"))
    for path in (tmp_path / "nowhere", part):
        found = planned(path, repo="owner/name", revision="v1", source="modelscope")
        assert problems(found) == ""
        note = f"model.path: {path}: not there yet; shipvlm run fetches owner/name at v1 from ModelScope. What it"
        assert note in problems(found, stops=False)
        assert (found["model"], found["stages"]) == (None, [])
    assert "its download is not complete" in problems(planned(part))
    assert "w8a8-static is slow" in problems(planned(tmp_path / "nowhere", "target.device=hopper", repo="a/b"))
    there = planned(tiny_checkpoint, repo="a/b")
    assert "not there yet" not in problems(there, stops=False)
    assert [stage["name"] for stage in there["stages"]] == ["quantize", "baseline", "convert", "bench"]


def test_fields_of_the_fetch_that_contradict_each_other_are_problems(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert "model.repo: nothing is to be fetched" in problems(planned(tiny_checkpoint, until="fetch"))
    assert planned(tiny_checkpoint, until="fetch", repo="a/b")["stages"] == []
    (tmp_path / "lock.json").write_text("{}")
    found = planned(tiny_checkpoint, repo="a/b", lock=str(tmp_path / "lock.json"), include=["x"])
    assert "model.include: model.lock says which files are fetched" in problems(found)
    assert "model.lock: " in problems(found)


def test_adapters_are_a_stage_of_their_own(tiny_checkpoint: Path) -> None:
    found = planned(tiny_checkpoint, adapters=["a"], merging=Merging(10**9, ("adapter 1 is odd",)))
    merge, *_ = found["stages"]
    assert (merge["name"], merge["folder"]) == ("merge", "merged")
    assert merge["disk_bytes"] == found["stages"][2]["disk_bytes"]  # as large as the graphs in float32
    assert merge["memory_bytes"] == 600e6 + 6.5 * 4e9
    assert problems(found, stops=False) == "model.adapters: adapter 1 is odd"
    assert problems(planned(tiny_checkpoint, adapters=["a"], merging="a: is none")) == "model.adapters: a: is none"


def test_a_tied_head_may_be_stored(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The tiny checkpoint stores its head; here config.json says that it is the embedding's twin."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tied")
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    assert problems(planned(folder)) == ""


def test_a_disk_and_a_memory_too_small_stop(tiny_checkpoint: Path, monkeypatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    monkeypatch.setattr(plan_module.os, "sysconf", lambda _: 1000)
    found = planned(tiny_checkpoint)
    assert "GB are needed, 0.0 GB are free" in problems(found)
    assert "quantize needs about 1 GB, baseline needs about 1 GB" in problems(found)


def test_ignore_means_what_compressed_tensors_means(tiny_checkpoint: Path) -> None:
    from compressed_tensors.utils import match_name

    names = [name for group in decoder_groups(3) for name in group]
    patterns = ["re:.*mlp.*", "re:model.language_model.layers.1.", "re:mlp", names[3], "mlp", "re:.*[qk]_proj"]
    wanted = {pattern: [name for name in names if match_name(name, pattern)] for pattern in patterns}
    assert ignored(names, patterns) == wanted


def test_planning_loads_no_heavy_library(tmp_path: Path) -> None:
    """Also where there are adapters to look at."""
    layer = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    tensors = {f"{layer}.lora_A.weight": (4, 256), f"{layer}.lora_B.weight": (256, 4)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, tmp_path / ADAPTER_WEIGHTS)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["0.self_attn.q_proj"]}
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps(config))
    script = (
        "import sys; from shipvlm.cli import main\n"
        f"try: main(['plan', 'recipes/default.yaml', '--json', '--set', 'model.adapters=[{tmp_path}]'])\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(code or (f'loaded {heavy}' if heavy else 0))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["stages"][0]["name"] == "merge"
