"""The splits that travel with the repository keep their promises."""

import io
import re
from collections import Counter

import datasets
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.stats import binomtest

from calib_data.leakage import check, fingerprints_rotated, near_duplicates
from calib_data.load import SPLITS, load_records
from calib_data.records import Record, picture
from calib_data.scoring import score

PER_TASK = {"evaluation": 400, "calibration": 128, "heldout": 50}
KINDS_OF_SENTENCE = 13


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Record]]:
    return {name: load_records(name) for name in PER_TASK}


def test_counts_and_size(splits: dict[str, list[Record]]) -> None:
    for name, per_task in PER_TASK.items():
        counts = Counter(record.task for record in splits[name])
        assert counts == dict.fromkeys(("vqa", "caption", "consistency", "ocr"), per_task)
    assert sum(path.stat().st_size for path in SPLITS.glob("*.parquet")) < 25e6


def test_pictures_vary_as_promised(splits: dict[str, list[Record]]) -> None:
    sizes = [picture(r).size for records in splits.values() for r in records if r.source != "easy-vqa"]
    assert all(96 <= edge <= 640 for size in sizes for edge in size)
    assert max(max(size) for size in sizes) > 600
    assert min(min(size) for size in sizes) < 100
    assert {round(w / h, 1) for w, h in sizes} >= {0.5, 0.7, 1.0, 1.5, 2.0}


def test_references_score_full_marks_and_yes_is_about_as_frequent_as_no(splits: dict[str, list[Record]]) -> None:
    for records in splits.values():
        assert all(score(r.task, r.answers[0], r.answers).value == 1 for r in records)
        said = Counter(r.answers[0] for r in records if r.task == "consistency")
        # Yes and no take turns within each kind of sentence; each kind with an odd number has one yes more.
        assert abs(said["yes"] - said["no"]) <= KINDS_OF_SENTENCE


def test_a_consistency_sentence_alone_does_not_tell_its_answer(splits: dict[str, list[Record]]) -> None:
    """Sentences that are about the same kind of fact are true as often as false."""
    facts = {"colour": r"\b(red|blue|green|yellow|pink|orange|purple)\b", "count": r"\b(two|three|four|five)\b"}
    facts |= {"place": r"\b(left|right|top|bottom)\b", "total": "total", "date": r"\bdate\b", "text": "['\"“]"}
    asked = [r for name in ("evaluation", "calibration") for r in splits[name] if r.task == "consistency"]
    for fact, pattern in facts.items():
        answers = [r.answers[0] == "yes" for r in asked if re.search(pattern, r.prompt)]
        assert len(answers) >= 15, f"only {len(answers)} sentences about {fact}"
        low, high = binomtest(sum(answers), len(answers)).proportion_ci(0.99)
        assert low <= 0.5 <= high, f"{fact}: {sum(answers)} of {len(answers)} are true"


@pytest.mark.parametrize("pattern", ["total", "date", "sign", "line", "item", "(cost|price|How much)", "title", "name"])
def test_every_kind_of_text_is_asked_for(splits: dict[str, list[Record]], pattern: str) -> None:
    asked = [r for r in splits["evaluation"] if r.task == "ocr" and re.search(pattern, r.prompt, re.IGNORECASE)]
    assert len(asked) >= 20


def test_reading_is_in_two_scripts_and_every_source_has_a_licence(splits: dict[str, list[Record]]) -> None:
    read = [r.answers[0] for r in splits["evaluation"] if r.task == "ocr"]
    chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in read)
    assert 40 < chinese < len(read) - 200
    assert {r.source for r in splits["evaluation"]} == {"scenes/objects", "scenes/text", "scenes/chart", "easy-vqa"}
    assert all(r.licence for records in splits.values() for r in records)


def test_loads_with_datasets_alone() -> None:
    rows = datasets.Dataset.from_parquet(str(SPLITS / "calibration.parquet"))
    assert len(rows) == 512
    assert rows[0]["image"].convert("RGB").size[0] > 0
    assert set(rows.column_names) == {"id", "task", "image", "prompt", "answers", "source", "licence"}


@pytest.mark.slow
def test_the_leakage_guard_is_green_on_what_is_shipped(splits: dict[str, list[Record]]) -> None:
    assert check(splits["evaluation"] + splits["heldout"], splits["calibration"]) == []


def test_the_leakage_guard_is_red_on_a_planted_duplicate(splits: dict[str, list[Record]]) -> None:
    """One evaluation picture of each source, recoloured, turned and re-encoded, hidden among calibration's."""
    chosen = list({r.source: r for r in splits["evaluation"]}.values())
    planted = []
    for record in chosen:
        changed = (
            ImageEnhance.Color(picture(record)).enhance(0.4).rotate(2, Image.Resampling.BICUBIC, fillcolor=(128,) * 3)
        )
        buffer = io.BytesIO()
        changed.save(buffer, "JPEG", quality=50)
        planted.append(record.model_copy(update={"id": f"planted-{record.id}", "image": buffer.getvalue()}))
    found = check(chosen, [*splits["calibration"][:60], *planted])
    assert {(left, right) for left, right, _ in found} == {(r.id, f"planted-{r.id}") for r in chosen}


def test_pictures_of_one_split_are_not_all_alike(splits: dict[str, list[Record]]) -> None:
    """The guard would be worthless if its threshold called everything alike, or if the pictures were."""
    some = [picture(r) for r in splits["heldout"][:100]]
    prints = np.stack([fingerprints_rotated(image)[0] for image in some])
    pairs = [p for p in near_duplicates(prints, prints) if p.left_index != p.right_index]
    assert len(pairs) < 10
