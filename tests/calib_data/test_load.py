import json
import os
import shutil
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from calib_data.load import MAX_IMAGE_BYTES, load_records
from calib_data.records import digest, write_parquet
from shipvlm.errors import InputError, SetupError
from tests.calib_data.made_records import encoded, record

ROW = {"image": "pictures/red.png", "task": "vqa", "prompt": "Which colour?", "answers": ["red"]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "set" / "pictures").mkdir(parents=True)
    (tmp_path / "set" / "pictures" / "red.png").write_bytes(encoded(Image.new("RGB", (4, 3), "red")))
    (tmp_path / "outside.png").write_bytes(encoded(Image.new("RGB", (4, 3), "blue")))
    return tmp_path / "set"


def listing(folder: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "rows.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


def refusal(spec, **options) -> str:
    with pytest.raises(InputError) as caught:
        load_records(spec, **options)
    return str(caught.value)


def test_parquet_round_trip(tmp_path):
    written = [record("a"), record("b", task="ocr", answers=("红",))]
    write_parquet(written, tmp_path / "set.parquet")
    read = load_records(tmp_path / "set.parquet")
    assert read == written
    assert digest(load_records(str(tmp_path / "set.parquet"))) == digest(written)


def test_folder(folder):
    rows = [ROW, "", ROW | {"id": "mine", "source": "shop", "licence": "MIT", "answers": "red"}]
    rows.append({key: value for key, value in ROW.items() if key != "answers"} | {"answer": "scarlet"})
    first, second, third = load_records(listing(folder, *rows))
    assert first.image == (folder / "pictures" / "red.png").read_bytes()
    assert (first.id, first.source, first.licence, first.answers) == ("1", "rows.jsonl", "unspecified", ("red",))
    assert (second.id, second.source, second.licence, second.answers) == ("mine", "shop", "MIT", ("red",))
    assert (third.id, third.answers) == ("4", ("scarlet",))  # the line's number


def test_folder_with_other_names_and_one_task(folder):
    row = {"file": "pictures/red.png", "question": "Which colour?", "label": "red", "task": "visual reasoning"}
    (only,) = load_records(
        listing(folder, row), columns={"image": "file", "prompt": "question", "answers": "label"}, task="vqa"
    )
    assert (only.task, only.prompt, only.answers) == ("vqa", "Which colour?", ("red",))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": None}, "the column 'prompt' is empty"),
        ({"prompt": " "}, "prompt is blank"),
        ({"task": "vqaa"}, "unknown task 'vqaa': did you mean 'vqa'?"),
        ({"task": 3}, "unknown task 3"),
        ({"answers": []}, "answers is empty"),
        ({"answers": ["red", ""]}, "answers[1] is blank"),
        ({"answers": 12}, "answers: input should be a valid tuple, got int"),
        ({"answers": [12]}, "answers[0]: input should be a valid string, got int"),
        ({"answer": "red"}, "both 'answer' and 'answers'"),
        ({"image": "pictures/blue.png"}, "image: there is no file 'pictures/blue.png'"),
        ({"image": "pictures"}, "image: there is no file 'pictures'"),
        ({"image": ""}, "image: there is no file ''"),
        ({"image": 5}, "image: input should be a valid bytes, got int"),
        ({"image": "text.png"}, "not a picture in PNG, JPEG, WEBP"),
        ({"image": "half.jpg"}, "cannot be decoded"),
        ({"image": "bomb.png"}, "too large: 9000 x 9000"),
        ({"image": "heavy.png"}, "is larger than 64 MiB"),
        ({"image": "../outside.png"}, "without '..'"),
        ({"image": "pictures/../pictures/red.png"}, "without '..'"),
        ({"image": "/etc/hostname"}, "must be a path relative to its folder"),
        ({"image": "link.png"}, "leads out of"),
        ({"image": "way_out/outside.png"}, "leads out of"),
        ({"image": "loop.png"}, "'loop.png'"),
        ({"image": "a\0b"}, "is no path"),
        ({"image": "x" * 5000}, "is no path"),
        ({"prompt": "\ud800"}, "prompt: input should be a valid string"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else None,
)
def test_a_broken_row_says_where_and_why(folder, change, reason):
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    (folder / "text.png").write_text("no picture")
    (folder / "half.jpg").write_bytes(encoded(noise, "JPEG")[:1500])
    (folder / "bomb.png").write_bytes(encoded(Image.new("1", (9000, 9000))))
    with (folder / "heavy.png").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "way_out").symlink_to(folder.parent)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    message = refusal(listing(folder, ROW, ROW | change))
    assert message.startswith(f"{folder / 'rows.jsonl'}: 1 of 2 rows are broken\n  row 2: ")
    assert reason in message


def test_a_link_inside_the_folder_is_followed(folder):
    (folder / "same.png").symlink_to(folder / "pictures" / "red.png")
    assert len(load_records(listing(folder, ROW | {"image": "same.png"}))) == 1


def test_a_fifo_is_no_picture(folder):
    os.mkfifo(folder / "pipe.png")
    assert "there is no file 'pipe.png'" in refusal(listing(folder, ROW | {"image": "pipe.png"}))


def test_all_broken_rows_are_reported_together(folder):
    without = {key: value for key, value in ROW.items() if key != "prompt"}
    rows = [ROW | {"id": "a"}, "{not json", "[1]", without, ROW | {"id": "a"}, "\ufeff" + json.dumps(ROW)]
    message = refusal(listing(folder, *rows, *[ROW | {"task": "x"}] * 30))
    lines = message.splitlines()
    assert lines[0].endswith("34 of 36 rows are broken")
    assert "row 2: not JSON" in lines[1]
    assert "row 3: a JSON object is expected, got list" in lines[2]
    assert "row 4: the column 'prompt' is missing: it has 'image', 'task', 'answers'" in lines[3]
    assert "row 5: the id 'a' is that of row 1 too" in lines[4]
    assert "row 7: unknown task" in lines[5]
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "  and 14 more"


def test_a_broken_parquet_row_has_its_number(tmp_path):
    write_parquet([record("a"), record("b")], tmp_path / "set.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "set.parquet").to_pylist()
    table[1]["image"] = {"bytes": None, "path": "/etc/hostname"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "set.parquet")
    assert "row 2: image: it holds no picture, only the path '/etc/hostname'" in refusal(tmp_path / "set.parquet")


def test_the_spec_must_be_something(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_text("no parquet")
    assert "no such file" in refusal(tmp_path / "none.parquet")
    assert "no such file" in refusal("./nothing/here/at/all")
    assert "given by its folder" in refusal(listing(folder, ROW) / "rows.jsonl")
    assert "cannot be read as Parquet" in refusal(tmp_path / "broken.parquet")
    assert "it holds no rows" in refusal(listing(folder))
    (folder / "more.jsonl").touch()
    assert "found more.jsonl, rows.jsonl" in refusal(folder)
    assert "cannot load it" in refusal(tmp_path / "empty")


def test_a_mapping_must_fit(folder):
    listing(folder, ROW)
    assert "unknown field 'promt': did you mean 'prompt'?" in refusal(folder, columns={"promt": "x"})
    assert "the column 'question' is missing: it has 'image'" in refusal(folder, columns={"prompt": "question"})
    assert "not both" in refusal(folder, columns={"task": "kind"}, task="vqa")
    assert "did you mean 'caption'" in refusal(folder, task="captions")


@pytest.fixture
def dataset_folder(tmp_path) -> Path:
    """A dataset as its author's: other names, integer ids, two splits, pictures inside the Parquet files."""
    features = datasets.Features(
        {"number": datasets.Value("int64"), "photo": datasets.Image(), "question": datasets.Value("string"),
         "replies": datasets.List(datasets.Value("string"))}
    )  # fmt: skip
    for split, colours in (("train", ("red", "blue")), ("test", ("green",))):
        rows = [
            {"number": i, "photo": {"bytes": encoded(Image.new("RGB", (4, 4), colour)), "path": None},
             "question": "Which colour?", "replies": [colour]}
            for i, colour in enumerate(colours)
        ]  # fmt: skip
        datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "theirs" / f"{split}.parquet")
    return tmp_path / "theirs"


COLUMNS = {"id": "number", "image": "photo", "prompt": "question", "answers": "replies"}


def test_a_dataset_folder(dataset_folder):
    red, blue = load_records(dataset_folder, columns=COLUMNS, task="vqa", split="train")
    assert (red.id, red.answers, blue.id, blue.answers) == ("0", ("red",), "1", ("blue",))
    assert red.image == encoded(Image.new("RGB", (4, 4), "red"))  # the bytes as they were, not encoded again
    assert red.source == "theirs"
    assert len(load_records(dataset_folder, columns=COLUMNS, task="vqa", split="train[:1]")) == 1
    assert "cannot load it" in refusal(dataset_folder, columns=COLUMNS, task="vqa", split="dev")
    message = refusal(dataset_folder, columns=COLUMNS, task="vqa")
    assert "it has the splits train, test: name one, shipvlm data pack --split NAME" in message
    assert "the column 'image' is missing: it has 'number'" in refusal(dataset_folder, task="vqa", split="test")


def test_a_dataset_of_picture_files(folder):
    (folder / "metadata.csv").write_text("file_name,prompt,answers\npictures/red.png,Which colour?,red\n")
    (only,) = load_records(folder, task="vqa", split="train")
    assert (only.image, only.answers) == ((folder / "pictures" / "red.png").read_bytes(), ("red",))


def test_a_dataset_cannot_read_files_outside_its_folder(dataset_folder, tmp_path):
    table = pyarrow.parquet.read_table(dataset_folder / "test.parquet")
    (tmp_path / "secret.png").write_bytes(encoded(Image.new("RGB", (4, 4), "red")))
    rows = table.to_pylist()
    rows[0]["photo"] = {"bytes": None, "path": str(tmp_path / "secret.png")}
    shutil.rmtree(dataset_folder)
    dataset_folder.mkdir()
    table = pyarrow.Table.from_pylist(rows, schema=table.schema)
    pyarrow.parquet.write_table(table, dataset_folder / "test.parquet")
    message = refusal(dataset_folder, columns=COLUMNS, task="vqa", split="test")
    assert "row 1: image:" in message
    assert "leads out of" in message


def test_a_dataset_script_is_never_run(tmp_path):
    (tmp_path / "scripted").mkdir()
    trace = tmp_path / "ran"
    (tmp_path / "scripted" / "scripted.py").write_text(f"open({str(trace)!r}, 'w')\n")
    assert "cannot load it" in refusal(tmp_path / "scripted", split="train")
    assert not trace.exists()


def test_an_id_goes_to_datasets_with_its_split_and_config(monkeypatch):
    asked = {}

    def load_dataset(spec, name, split):
        asked.update(spec=spec, name=name, split=split)
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(SetupError, match=r"owner/name.*cannot be reached from here \(no network\).*HF_ENDPOINT"):
        load_records("owner/name", split="validation", config="en")
    assert asked == {"spec": "owner/name", "name": "en", "split": "validation"}
