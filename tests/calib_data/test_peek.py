"""How many records a data set has, told without reading its pictures."""

import json
from pathlib import Path

import pytest

from calib_data.load import SPLITS, load_records
from calib_data.peek import count_records
from calib_data.records import write_parquet
from shipvlm.errors import InputError


@pytest.mark.parametrize("split", ["calibration", "evaluation", "heldout"])
def test_counting_agrees_with_reading(split: str) -> None:
    assert count_records(split) == count_records(str(SPLITS / f"{split}.parquet")) == len(load_records(split))


def test_a_folder_is_counted_by_its_lines(tmp_path: Path) -> None:
    row = json.dumps({"image": "0.png", "prompt": "p", "answers": ["a"], "task": "vqa"})
    (tmp_path / "rows.jsonl").write_text(f"\ufeff{row}\n\n{row}\n")
    assert count_records(str(tmp_path)) == 2
    (tmp_path / "more.jsonl").write_text("")
    assert count_records(str(tmp_path)) is None  # for load_records to refuse
    assert count_records("owner/name") is None


def test_what_has_no_pictures_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["p"], "task": ["vqa"]}), tmp_path / "words.parquet")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.jsonl").write_text('{"prompt": "p"}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "rows.jsonl").write_text("\n")
    for name in ("words.parquet", "rows", "empty"):
        with pytest.raises(InputError, match="it has no pictures"):
            count_records(str(tmp_path / name))


@pytest.mark.parametrize("name", ["calibraton", "nowhere.parquet", "a/b/c", "file.txt", "broken.parquet", "bad"])
def test_what_is_no_data_set_is_refused(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "broken.parquet").write_text("text")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "rows.jsonl").write_text("{")
    with pytest.raises(InputError, match=name):
        count_records(name)


def test_counts_are_those_of_what_pack_writes(tmp_path: Path) -> None:
    write_parquet(load_records("heldout")[:3], tmp_path / "three.parquet")
    assert count_records(str(tmp_path / "three.parquet")) == 3
