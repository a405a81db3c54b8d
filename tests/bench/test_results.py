"""What a run has written is found where a person says it is, and what is not whole is named."""

import json
import shutil

import pytest

from bench import plan, report, results
from shipvlm.errors import InputError
from tests.bench.made_run import made_report, made_run, write_run


@pytest.fixture
def result(tmp_path):
    made, lines, data = made_run(80)
    write_run(tmp_path / "mine", made, lines)
    report.rebuild(tmp_path / "mine", data)
    return tmp_path / "mine"


def test_a_result_is_found_by_its_folder_its_file_or_where_it_was_to_be(result, tmp_path):
    assert results.folder_of(result) == result
    assert results.folder_of(result / "bench.json") == result
    shutil.move(result, tmp_path / ".mine.partial")
    assert results.folder_of(result) == tmp_path / ".mine.partial"


def test_what_is_not_there_is_named_as_it_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("")
    for name in ("nothere", "note.txt", "."):
        with pytest.raises(InputError, match=f"^{name}: holds no result"):
            results.folder_of(tmp_path.__class__(name))


def test_a_cut_off_run_is_derived_anew_and_nothing_is_written(result, tmp_path):
    whole = results.read(result)
    work = tmp_path / ".other.partial"
    shutil.move(result, work)  # its bench.json is of an earlier attempt
    path = plan.log(work, "onnx-w8a8-static")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    before = {file: file.read_bytes() for file in work.rglob("*") if file.is_file()}
    found = results.read(tmp_path / "other")
    assert (whole["complete"], found["complete"]) == (True, False)
    assert {file: file.read_bytes() for file in work.rglob("*") if file.is_file()} == before


def test_the_file_alone_is_enough(result, tmp_path):
    shutil.copy(result / "bench.json", tmp_path / "some.json")
    assert results.read(tmp_path / "some.json") == results.read(result)


def test_a_report_of_another_version_is_refused(tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(InputError, match="a report of version 1, this shipvlm reads 4"):
        results.read_report(tmp_path)
    (tmp_path / "bench.json").write_text("[")
    with pytest.raises(InputError, match=r"holds no bench\.json that can be read"):
        results.read_report(tmp_path)


@pytest.mark.parametrize("name", results.KEYS)
def test_a_report_that_is_not_whole_is_refused_by_what_it_lacks(tmp_path, name):
    (tmp_path / "bench.json").write_text(
        json.dumps({key: value for key, value in made_report().items() if key != name})
    )
    with pytest.raises(InputError, match=f"is no whole report, it lacks {name}"):
        results.read_report(tmp_path)


def test_all_that_a_report_has_is_asked_for():
    assert {"schema_version", *results.KEYS} == made_report().keys()


@pytest.mark.parametrize("name", ["baseline", "candidate"])
def test_a_report_without_its_candidate_is_refused(tmp_path, name):
    (tmp_path / "bench.json").write_text(json.dumps(made_report() | {name: "gone"}))
    with pytest.raises(InputError, match=f"names 'gone' as its {name}, and has only original, w8a8-static"):
        results.read_report(tmp_path)
