"""Makes the shipped splits: `python -m calib_data.scenes.splits build/scene_assets calib_data/splits`.

evaluation.parquet 1,600 (400 a task), calibration.parquet 512 (128 a task), heldout.parquet 200 (50 a task: drawings
and fonts that neither training nor calibration sees). Calibration keeps clear of the other two by the leakage guard.
"""

import argparse
import io
import random
from collections import Counter
from pathlib import Path

from PIL import Image

from calib_data.leakage import Words, fingerprint, near_duplicates
from calib_data.records import Record, Task, picture, write_parquet
from calib_data.scenes import easy_vqa
from calib_data.scenes.asks import Ask
from calib_data.scenes.canvas import Assets, load_assets, random_size
from calib_data.scenes.draw import DRAW
from calib_data.scenes.guard import guard_of

# task -> kind of picture -> its share, and the kinds of question that take turns
MIXTURE: dict[Task, dict[str, tuple[float, tuple[str, ...]]]] = {
    "vqa": {
        "objects": (
            0.48,
            ("how many", "how many in all", "colour", "ground", "where", "what is at", "neighbour", "what", "size"),
        ),
        "chart": (0.20, ("bar says", "highest", "lowest", "how many bars", "which says", "bar colour")),
        "text": (0.07, ("how many lines", "sign colour", "how many items")),
        "easy-vqa": (0.25, ("easy-vqa",)),
    },
    "caption": {
        "objects": (0.60, ("objects",)),
        "chart": (0.15, ("chart",)),
        "text": (0.25, ("sign", "page", "price list")),
    },
    "consistency": {
        "objects": (0.50, ("kind", "count", "colour", "place", "ground")),
        "chart": (0.20, ("highest", "bar says", "title")),
        "text": (0.30, ("sign", "line", "price", "total", "date")),
    },
    "ocr": {
        "text": (0.95, ("sign", "line", "shop", "price", "item", "item by price", "total", "date")),
        "chart": (0.05, ("title",)),
    },
}
MARGIN = 0.26  # wider than the guard's own threshold, so that another Pillow or scipy cannot turn it red
LICENCES = {
    "objects": "CC0-1.0; drawings: Noto Color Emoji (Apache-2.0 / OFL-1.1), Open Clip Art (public domain)",
    "chart": "CC0-1.0",
    "text": "CC0-1.0",
    "easy-vqa": "MIT",
}


def encode(rng: random.Random, image: Image.Image) -> bytes:
    """JPEG of a common quality; PNG for the smallest pictures."""
    buffer = io.BytesIO()
    if image.width * image.height <= 64 * 64:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=rng.randint(62, 88))
    return buffer.getvalue()


def ask_about(
    rng: random.Random, assets: Assets, task: Task, source: str, kind: str, answer: str | None
) -> tuple[Image.Image, Ask]:
    """Draws pictures until one can be asked a question of this kind, with this answer if one is given."""
    while True:
        scene = DRAW[source](rng, assets, random_size(rng))
        fits = [a for a in scene.asks if (a.task, a.kind) == (task, kind) and answer in (None, a.answers[0])]
        if fits:
            return scene.image, rng.choice(fits)


def easy_questions(rng: random.Random, side: str) -> list[tuple[Image.Image, Ask]]:
    """Questions of easy-VQA's public `side` (train or test), one a picture."""
    one_each = {number: (question, answer) for question, answer, number in easy_vqa.questions(side)}
    chosen = rng.sample(sorted(one_each), 400)
    return [(easy_vqa.picture(side, n), Ask("vqa", "easy-vqa", one_each[n][0], (one_each[n][1],))) for n in chosen]


def turns(task: Task, per_task: int, without: tuple[str, ...]) -> list[tuple[str, str, str | None]]:
    """(kind of picture, kind of question, wanted answer) of each record of a task.

    Kinds of question take turns, and in consistency yes and no for each of them.
    """
    sources = {source: share for source, (share, _) in MIXTURE[task].items() if source not in without}
    rows: list[tuple[str, str, str | None]] = []
    for source, share in sources.items():
        kinds = MIXTURE[task][source][1]
        for n in range(round(per_task * share / sum(sources.values()))):
            answer = ("yes", "no")[n // len(kinds) % 2] if task == "consistency" else None
            rows.append((source, kinds[n % len(kinds)], answer))
    return rows


def make_split(
    name: str, assets: Assets, per_task: int, guard: Words | None = None, without: tuple[str, ...] = ()
) -> list[Record]:
    """A split, seeded by its name. Calibration takes easy-VQA's public training pictures, the others its test ones."""
    rng = random.Random(f"split/{name}")
    easy = [] if "easy-vqa" in without else easy_questions(rng, "train" if name == "calibration" else "test")
    records: list[Record] = []
    rejected = 0
    for task in MIXTURE:
        for number, (source, kind, answer) in enumerate(turns(task, per_task, without)):
            while True:
                image, ask = easy.pop() if source == "easy-vqa" else ask_about(rng, assets, task, source, kind, answer)
                record = Record(
                    id=f"{task}-{number:04}",
                    task=task,
                    image=encode(rng, image),
                    prompt=ask.prompt,
                    answers=ask.answers,
                    source=source if source == "easy-vqa" else f"scenes/{source}",
                    licence=LICENCES[source],
                )
                if guard is None or not near_duplicates(guard, fingerprint(picture(record))[None], MARGIN):
                    break
                rejected += 1
            records.append(record)
    size = sum(len(r.image) for r in records) / 1e6
    sources = dict(Counter(r.source for r in records))
    print(f"{name}: {len(records)} records, {size:.1f} MB, {rejected} near-duplicates thrown away, {sources}")
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path, help="what calib_data.scenes.assets wrote")
    parser.add_argument("out", type=Path, help="folder for the three Parquet files")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    evaluation = make_split("evaluation", load_assets(a.assets), 400)
    heldout = make_split("heldout", load_assets(a.assets, heldout=True), 50, without=("easy-vqa",))
    calibration = make_split("calibration", load_assets(a.assets), 128, guard_of(evaluation + heldout))
    for name, records in (("evaluation", evaluation), ("heldout", heldout), ("calibration", calibration)):
        write_parquet(records, a.out / f"{name}.parquet")


if __name__ == "__main__":
    main()
