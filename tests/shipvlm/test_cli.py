"""The command line: what it prints, where, and its exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import calib_data
from shipvlm.runtime.checkpoint import load
from shipvlm.runtime.generate import generate
from shipvlm.runtime.inputs import Request
from shipvlm.runtime.sampling import Sampling
from tests.shipvlm.commands import pack, run


def test_ask_prints_the_answer(capsys, tiny_checkpoint: Path, picture: Path) -> None:
    arguments = ("ask", "--model", tiny_checkpoint, "--image", picture, "--max-new-tokens", 8, "what is red")
    image = Image.open(picture).convert("RGB")
    [wanted] = generate(load(tiny_checkpoint), [Request("what is red", (image,))], Sampling(max_new_tokens=8))
    capsys.readouterr()

    code, out, err = run(capsys, *arguments)
    assert (code, out, err) == (0, wanted.text + "\n", "")
    code, out, err = run(capsys, *arguments, "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["answer"] == wanted.text
    assert report["tokens"] == len(wanted.token_ids)
    assert set(report["seconds"]) == {"load", "preprocess", "vision", "prefill", "decode"}


def test_ask_samples_as_told(capsys, tiny_checkpoint: Path, picture: Path) -> None:
    common = ("ask", "--model", tiny_checkpoint, "--image", picture, "--max-new-tokens", 8, "--temperature", 9, "what")
    answers = [run(capsys, *common, "--seed", seed)[1] for seed in (1, 2, 1)]
    assert answers[0] == answers[2] != answers[1]
    code, _, err = run(capsys, *common, "--top-p", 0)
    assert (code, "top_p" in err) == (2, True)


def test_ask_takes_several_pictures(capsys, tiny_checkpoint: Path, picture: Path) -> None:
    common = ("ask", "--model", tiny_checkpoint, "--max-new-tokens", 8, "--image", picture)
    one = run(capsys, *common, "what is red")
    two = run(capsys, *common, "--image", picture, "what is red")
    assert one[0] == two[0] == 0
    assert one[1] != two[1]


def test_ask_turns_a_photo_upright(capsys, tiny_checkpoint: Path, picture: Path, tmp_path: Path) -> None:
    turned = Image.open(picture).rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn clockwise to look at it
    turned.save(tmp_path / "photo.png", exif=exif)
    common = ("ask", "--model", tiny_checkpoint, "--max-new-tokens", 8, "what is red", "--image")
    assert run(capsys, *common, tmp_path / "photo.png") == run(capsys, *common, picture)


@pytest.mark.parametrize(
    ("model", "image", "message"),
    [
        ("nowhere", None, "no such folder"),
        ("empty", None, "no config.json"),
        ("llava", None, "model_type is 'llava'"),
        ("remote", None, "auto_map"),
        (None, "nowhere.png", "nowhere.png: "),
        (None, "text.png", "text.png: not a picture"),
        (None, "cut.png", "cut.png: the picture cannot be decoded"),
    ],
)
def test_ask_refuses(capsys, tiny_checkpoint, picture, tmp_path, model, image, message) -> None:
    (tmp_path / "empty").mkdir()
    for name, change in (("llava", {"model_type": "llava"}), ("remote", {"auto_map": {"AutoModel": "evil.Evil"}})):
        shutil.copytree(tiny_checkpoint, tmp_path / name)
        config = json.loads((tiny_checkpoint / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(config | change))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:5000])
    folder = tmp_path / model if model else tiny_checkpoint
    code, out, err = run(capsys, "ask", "--model", folder, "--image", tmp_path / image if image else picture, "what")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_help_and_version_load_no_heavy_library() -> None:
    script = (
        "import sys; from shipvlm.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'PIL'} & set(sys.modules)\n"
        "sys.exit(code or (f'loaded {heavy}' if heavy else 0))"
    )
    for arguments in (["--help"], ["ask", "--help"], ["data", "--help"], ["run", "--help"], ["bench", "--help"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout


def test_version(capsys) -> None:
    from importlib.metadata import version

    assert run(capsys, "--version") == (0, f"shipvlm {version('shipvlm')}\n", "")


def test_data_pack_and_show(capsys, pictures: Path, tmp_path: Path) -> None:
    code, out, _ = pack(capsys, pictures, tmp_path / "mine.parquet")
    assert code == 0
    assert json.loads(out)["records"] == 4
    code, out, _ = run(capsys, "data", "show", tmp_path / "mine.parquet", "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["records"] == 4
    assert summary["task"] == {"vqa": 4}
    assert (summary["width"], summary["height"]) == ([160, 160], [120, 120])
    assert summary["image_bytes"] == sum(path.stat().st_size for path in pictures.glob("*.png"))
    code, out, _ = run(capsys, "data", "show", tmp_path / "mine.parquet")
    assert code == 0
    assert "vqa 4" in out
    assert "160 to 160 px" in out


def test_data_show_knows_the_shipped_splits(capsys) -> None:
    named = run(capsys, "data", "show", "heldout", "--json")
    assert named == run(capsys, "data", "show", Path(calib_data.__file__).parent / "splits/heldout.parquet", "--json")
    assert json.loads(named[1])["records"] == 200


def test_data_show_names_a_broken_row(capsys, pictures: Path, tmp_path: Path) -> None:
    (pictures / "2.png").write_bytes(b"no picture")
    code, out, err = pack(capsys, pictures, tmp_path / "mine.parquet")
    assert (code, out) == (2, "")
    assert "row 3" in err
    assert not (tmp_path / "mine.parquet").exists()


@pytest.mark.parametrize("column", ["prompt", "=question", "prompt="])
def test_data_pack_refuses_half_a_mapping(capsys, pictures: Path, tmp_path: Path, column: str) -> None:
    code, _, err = run(capsys, "data", "pack", pictures, "-o", tmp_path / "a.parquet", "--column", column)
    assert code == 2
    assert "FIELD=NAME" in err


def test_data_check_is_red_on_a_planted_duplicate(capsys, pictures: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    with Image.open(pictures / "1.png") as original:
        original.resize((120, 90)).save(planted / "0.jpg", quality=70)
    row = {"id": "copy", "image": "0.jpg", "task": "vqa", "prompt": "what", "answers": ["noise"]}
    (planted / "rows.jsonl").write_text(json.dumps(row))
    pack(capsys, pictures, tmp_path / "mine.parquet")

    code, out, err = run(capsys, "data", "check", tmp_path / "mine.parquet", planted, "--json")
    assert code == 1
    assert [(pair["left"], pair["right"]) for pair in json.loads(out)["near_duplicates"]] == [("2", "copy")]
    assert "share pictures" in err
    code, out, _ = run(capsys, "data", "check", tmp_path / "mine.parquet", planted)
    assert code == 1
    assert "2  copy" in out


def test_data_check_is_green_on_different_pictures(capsys, pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    small = np.random.default_rng(99).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC).save(other / "0.png")
    row = {"image": "0.png", "task": "vqa", "prompt": "what", "answers": ["noise"]}
    (other / "rows.jsonl").write_text(json.dumps(row))
    pack(capsys, pictures, tmp_path / "mine.parquet")
    code, out, err = run(capsys, "data", "check", tmp_path / "mine.parquet", other, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"left": 4, "right": 1, "near_duplicates": []}


def test_ask_without_a_picture_and_without_a_question(capsys, tiny_checkpoint: Path) -> None:
    code, out, err = run(capsys, "ask", "--model", tiny_checkpoint, "--max-new-tokens", 4, "what is red")
    assert code == 0, err
    assert out.strip()
    code, _, err = run(capsys, "ask", "--model", tiny_checkpoint, " ")
    assert (code, err) == (2, "error: the question is empty\n")
