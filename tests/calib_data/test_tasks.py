"""The public evaluation sets: two rows of each in the form in which they are published, pictures drawn here.

The columns and their types are those of the data sets' cards on the hub (dataset_info of README.md).
"""

import string

import datasets
import pytest
import yaml
from datasets import ClassLabel, List, Value
from datasets import Image as Picture
from PIL import Image, ImageDraw

from calib_data.external import NAMES, TASKS, find
from calib_data.load import load_records
from calib_data.peek import count_records
from calib_data.scoring import score
from shipvlm.errors import InputError, SetupError

TEXT = Value("string")
FEATURES = {
    "ai2d": {"question": TEXT, "options": List(TEXT), "answer": TEXT, "image": Picture()},
    "chartqa": {
        "image": Picture(),
        "query": TEXT,
        "label": List(TEXT),
        "human_or_machine": ClassLabel(names=["human", "machine"]),
    },
    "docvqa": {
        "questionId": TEXT,
        "question": TEXT,
        "question_types": List(TEXT),
        "image": Picture(),
        "docId": Value("int64"),
        "ucsf_document_id": TEXT,
        "ucsf_document_page_no": TEXT,
        "answers": List(TEXT),
        "data_split": TEXT,
    },
    "mmmu": {
        **{name: TEXT for name in ("id", "question", "options", "explanation")},
        **{f"image_{number}": Picture() for number in range(1, 8)},
        **{name: TEXT for name in ("img_type", "answer", "topic_difficulty", "question_type", "subfield")},
    },
    "ocrbench": {"dataset": TEXT, "question": TEXT, "question_type": TEXT, "answer": List(TEXT), "image": Picture()},
}
# Where the files of a split lie in the data set's repository, and what its card says of them.
FILES = {
    "ai2d": "data/test-00000-of-00001.parquet",
    "chartqa": "data/test-00000-of-00001.parquet",
    "docvqa": "DocVQA/validation-00000-of-00001.parquet",
    "mmmu": "data/validation-00000-of-00001.parquet",
    "ocrbench": "data/test-00000-of-00001.parquet",
}


def drawn(words: str) -> Image.Image:
    image = Image.new("RGB", (160, 64), "white")
    ImageDraw.Draw(image).text((4, 24), words, fill="black")
    return image


def document(number: int, question: str, answers: list[str]) -> dict:
    fields = {"questionId": str(number), "question": question, "image": drawn("TOTAL 12.50"), "answers": answers}
    page = {"docId": 14, "ucsf_document_id": "xnbl0037", "ucsf_document_page_no": "1", "data_split": "val"}
    return fields | page | {"question_types": ["form"]}


def exam(number: int, **changes) -> dict:
    row = dict.fromkeys(FEATURES["mmmu"]) | {
        "id": f"validation_Math_{number}",
        "question": "Which shape is in <image 1>?",
        "options": "['circle', 'square', 'star']",
        "explanation": "",
        "image_1": drawn("o"),
        "img_type": "['Diagrams']",
        "answer": "B",
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice",
        "subfield": "Geometry",
    }
    return row | changes


ROWS = {
    "ai2d": [
        {
            "question": "What eats grass?",
            "options": ["fox", "hare", "owl", "sun"],
            "answer": "1",
            "image": drawn("web"),
        },
        {"question": "What is A?", "options": ["leaf", "root"], "answer": "0", "image": drawn("A")},
    ],
    "chartqa": [
        {"image": drawn("bars"), "query": "How many bars?", "label": ["14"], "human_or_machine": 0},
        {"image": drawn("pie"), "query": "Is red larger?", "label": ["Yes"], "human_or_machine": 1},
    ],
    "docvqa": [document(49153, "What is the total?", ["12.50", "$12.50"]), document(24580, "Whose?", ["J. Doe"])],
    "mmmu": [exam(1), exam(2, question="<image 1> What is it?", options="['a <image 1>', 'it\\'s \"b\"']")],
    "ocrbench": [
        {
            "dataset": "IIIT5K",
            "question": "what is written in the image?",
            "question_type": "Regular Text Recognition",
            "answer": ["CENTRE"],
            "image": drawn("CENTRE"),
        },
        {
            "dataset": "HME100k",
            "question": "Please write out the expression of the formula in the image using LaTeX format.",
            "question_type": "Handwritten Mathematical Expression Recognition",
            "answer": ["x ^ { 2 }"],
            "image": drawn("x^2"),
        },
    ],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def copy_of(name: str, folder, rows: list[dict]) -> str:
    """A copy of the data set's repository with these rows; the spec that names it."""
    path = folder / name / FILES[name]
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=datasets.Features(FEATURES[name])).to_parquet(path)
    source, split = find(name), path.name.partition("-")[0]
    assert source
    config = source.task.config or "default"
    files = [{"split": split, "path": f"{path.parent.name}/{split}-*"}]
    card = yaml.safe_dump({"configs": [{"config_name": config, "data_files": files}]})
    (folder / name / "README.md").write_text(f"---\n{card}---\n")
    return f"{name}@{folder / name}"


def test_the_five_sets_are_there():
    assert tuple(sorted(FEATURES)) == NAMES
    for name in NAMES:
        task = find(name).task
        assert task.page.startswith("https://huggingface.co/datasets/") and task.licence and task.covers
        assert {field for _, field, _, _ in string.Formatter().parse(task.prompt) if field} <= {"question", "choices"}
        # Every column that the file names is one of the data set.
        columns = {task.image, task.question, task.choices, task.answers, task.id, *task.only, *task.empty}
        assert columns - {None} <= FEATURES[name].keys()
        assert task.exceptions.keys() <= FEATURES[name].keys()
    assert sorted(path.suffix for path in TASKS.iterdir()) == [".yaml"] * 5


@pytest.mark.parametrize("name", NAMES)
def test_two_rows_of_each(name, tmp_path):
    records = load_records(copy_of(name, tmp_path, ROWS[name]))
    assert len(records) == 2
    for record in records:
        assert (record.source, record.licence) == (name, find(name).task.licence)
        assert score(record.task, record.answers[0], record.answers).value == 1.0
        assert score(record.task, "something else", record.answers).value == 0.0


def test_a_question_with_choices(tmp_path):
    first, second = load_records(copy_of("ai2d", tmp_path, ROWS["ai2d"]))
    assert first.prompt.splitlines() == [
        "What eats grass?",
        "A. fox",
        "B. hare",
        "C. owl",
        "D. sun",
        "Answer with the option's letter from the given choices directly.",
    ]
    assert (first.task, first.answers, first.id) == ("choice", ("B", "hare"), "1")
    assert second.answers == ("A", "leaf")


def test_documents_and_charts(tmp_path):
    first, _ = load_records(copy_of("docvqa", tmp_path, ROWS["docvqa"]))
    assert (first.id, first.task, first.answers) == ("49153", "document", ("12.50", "$12.50"))
    assert first.prompt == "What is the total?\nAnswer the question using a single word or phrase."
    first, _ = load_records(copy_of("chartqa", tmp_path, ROWS["chartqa"]))
    assert (first.task, first.answers) == ("chart", ("14",))


def test_formulas_have_a_rule_of_their_own(tmp_path):
    word, formula = load_records(copy_of("ocrbench", tmp_path, ROWS["ocrbench"]))
    assert (word.task, formula.task) == ("contains", "formula")
    assert word.prompt == "what is written in the image?"
    assert score(formula.task, "x^{2}", formula.answers).value == 1.0


def test_exams_with_one_picture_and_the_number_of_the_others(tmp_path, caplog):
    others = [
        exam(3, image_2=drawn("two")),
        exam(4, question_type="open", options="[]", answer="12"),
        exam(5, question_type="open", options="[]", answer="12", image_3=drawn("three")),
    ]
    first, second = load_records(copy_of("mmmu", tmp_path, [*ROWS["mmmu"], *others]))
    assert first.prompt.splitlines()[:2] == ["Which shape is in (the picture)?", "A. circle"]
    assert (first.id, first.answers) == ("validation_Math_1", ("B", "square"))
    assert second.prompt.splitlines()[:3] == ["(the picture) What is it?", "A. a (the picture)", 'B. it\'s "b"']
    assert "mmmu: 3 of 5 rows are left out" in caplog.text
    assert "2 are not multiple-choice (question_type)" in caplog.text
    assert "1 have several pictures" in caplog.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"options": "no list"}, "the choices 'no list' are no list"),
        ({"options": "['one']"}, "the choices \"['one']\" are no list of 2 to 26"),
        ({"answer": "F"}, "the answer 'F' is none of the 3 choices"),
        ({"answer": ""}, "the answer '' is none of the 3 choices"),
    ],
)
def test_broken_rows_are_named(changes, reason, tmp_path):
    with pytest.raises(InputError, match="1 of 2 rows are broken") as caught:
        load_records(copy_of("mmmu", tmp_path, [exam(1), exam(2, **changes)]))
    assert f"row 2: {reason}" in str(caught.value)


def test_another_form_is_refused(tmp_path):
    spec = copy_of("chartqa", tmp_path, ROWS["chartqa"])
    with pytest.raises(InputError, match="the column 'options' is missing: it has 'image', 'query'"):
        load_records(f"ai2d@{tmp_path / 'chartqa'}")
    with pytest.raises(InputError, match="columns and tasks of its own"):
        load_records(spec, task="vqa")
    with pytest.raises(InputError, match="no folder 'gone'"):
        load_records("ai2d@gone")
    assert len(load_records(spec, split="test[:1]")) == 1


def test_a_plan_need_not_read_them(tmp_path):
    assert count_records("chartqa") is None
    assert count_records(copy_of("ai2d", tmp_path, ROWS["ai2d"])) is None
    with pytest.raises(InputError, match="no folder 'gone'"):
        count_records("ai2d@gone")
    with pytest.raises(InputError, match="ai2d, chartqa"):
        count_records("chart-qa")


def test_without_a_network(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SetupError, match=r"lmms-lab/ai2d: it is on the hub, which cannot be reached") as caught:
        load_records("ai2d")
    assert caught.value.exit_code == 3
