"""Makes the shipped splits: `python -m calib_data.scenes.splits build/scene_assets calib_data/splits`.

evaluation.parquet 1,600 (400 a task), calibration.parquet 512 (128 a task), heldout.parquet 200 (50 a task: drawings
and fonts that neither training nor calibration sees). Calibration keeps clear of the other two by the leakage guard.
"""

import io
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from calib_data.leakage import fingerprint, fingerprints_rotated, near_duplicates
from calib_data.records import Record, Task, write_parquet
from calib_data.scenes import easy_vqa
from calib_data.scenes.canvas import Ask, Assets, Scene, load_assets, random_size
from calib_data.scenes.charts import chart_scene
from calib_data.scenes.objects import objects_scene
from calib_data.scenes.text import text_scene

DRAW: dict[str, Callable[[random.Random, Assets, tuple[int, int]], Scene]] = {
    "objects": objects_scene,
    "chart": chart_scene,
    "text": text_scene,
}
# task -> share of each kind of picture; easy-vqa is the public benchmark
MIXTURE: dict[Task, dict[str, float]] = {
    "vqa": {"objects": 0.48, "chart": 0.2, "text": 0.07, "easy-vqa": 0.25},
    "caption": {"objects": 0.6, "chart": 0.15, "text": 0.25},
    "consistency": {"objects": 0.5, "chart": 0.2, "text": 0.3},
    "ocr": {"text": 0.95, "chart": 0.05},
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


def pick(rng: random.Random, asks: list[Ask], answer: str | None) -> Ask | None:
    """One question; kinds of question (their first two words) are equally likely."""
    asks = [a for a in asks if answer in (None, a.answers[0])]
    kinds: dict[str, list[Ask]] = {}
    for ask in asks:
        kinds.setdefault(" ".join(ask.prompt.split()[:2]), []).append(ask)
    return rng.choice(kinds[rng.choice(sorted(kinds))]) if kinds else None


def one(
    rng: random.Random, assets: Assets, name: str, task: Task, kind: str, number: int, easy: list[tuple[str, str, int]]
) -> Record:
    """Draws pictures until one can be asked about the task; yes and no take turns in consistency."""
    wanted = ("yes", "no")[number % 2] if task == "consistency" else None
    while True:
        if kind == "easy-vqa":
            question, answer, index = easy.pop()
            image, ask = easy_vqa.picture(name, index), Ask("vqa", question, (answer,))
        else:
            scene = DRAW[kind](rng, assets, random_size(rng))
            image = scene.image
            found = pick(rng, [a for a in scene.asks if a.task == task], wanted)
            if found is None:
                continue
            ask = found
        source = kind if kind == "easy-vqa" else f"scenes/{kind}"
        return Record(
            id=f"{task}-{number:04}",
            task=task,
            image=encode(rng, image),
            prompt=ask.prompt,
            answers=ask.answers,
            source=source,
            licence=LICENCES[kind],
        )


def kinds_of(task: Task, count: int) -> Iterator[str]:
    """The kind of picture of each of `count` records, in the shares of MIXTURE."""
    for kind, share in MIXTURE[task].items():
        yield from [kind] * round(share * count)


def make_split(name: str, assets: Assets, per_task: int, guard: np.ndarray | None) -> list[Record]:
    """A split, seeded by its name. Calibration takes easy-VQA's public training pictures, the others its test ones."""
    rng = random.Random(f"split/{name}")
    side = "train" if name == "calibration" else "test"
    easy: list[tuple[str, str, int]] = []
    seen: set[int] = set()
    for row in rng.sample(easy_vqa.questions(side), 2000):
        if row[2] not in seen:
            seen.add(row[2])
            easy.append(row)
    records, rejected = [], 0
    for task in MIXTURE:
        kinds = [k for k in kinds_of(task, per_task) if not (name == "heldout" and k == "easy-vqa")]
        kinds += ["objects"] * (per_task - len(kinds))
        for number, kind in enumerate(kinds):
            while True:
                record = one(rng, assets, side, task, kind, number, easy)
                if guard is None or not near_duplicates(
                    guard, fingerprint(Image.open(io.BytesIO(record.image)))[None], MARGIN
                ):
                    break
                rejected += 1
            records.append(record)
    size = sum(len(r.image) for r in records) / 1e6
    print(
        f"{name}: {len(records)} records, {size:.1f} MB, {rejected} near-duplicates thrown away,",
        dict(Counter(r.source for r in records)),
    )
    return records


def guard_of(records: list[Record]) -> np.ndarray:
    """uint64 [records, rotations, words] for the evaluation side of calib_data.leakage.near_duplicates."""
    return np.stack([fingerprints_rotated(Image.open(io.BytesIO(r.image))) for r in records])


def main() -> None:
    assets, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    evaluation = make_split("evaluation", load_assets(assets), 400, None)
    heldout = make_split("heldout", load_assets(assets, heldout=True), 50, None)
    guard = guard_of(evaluation + heldout)
    calibration = make_split("calibration", load_assets(assets), 128, guard)
    for name, records in (("evaluation", evaluation), ("heldout", heldout), ("calibration", calibration)):
        write_parquet(records, out / f"{name}.parquet")
    np.save(assets / "guard.npy", guard, allow_pickle=False)


if __name__ == "__main__":
    main()
