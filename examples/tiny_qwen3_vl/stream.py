"""The training stream: batches of scenes of one picture grid, each picture with several questions, made on the fly.

A batch is a function of (seed, worker, number) alone; in which order training meets them depends on how fast they are
made. Every picture passes the leakage guard: a near-duplicate of an evaluation picture is thrown away and counted.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset, get_worker_info

from calib_data.leakage import fingerprint, near_duplicates
from calib_data.scenes import easy_vqa
from calib_data.scenes.asks import Ask
from calib_data.scenes.canvas import MERGE, PATCH, Assets, grid_of, random_size
from calib_data.scenes.draw import DRAW

# easy-VQA's pictures have one size: in batches of other sizes its share goes to objects
MIXTURE = {"objects": 0.30, "text": 0.53, "chart": 0.12, "easy-vqa": 0.05}
IMAGE_TOKENS = 14_000  # merged tokens in a batch, about
QUESTION_TOKENS = 192  # tokens of questions and answers for each picture
UNIT = PATCH * MERGE


@dataclass(frozen=True)
class EasyVqa:
    """The public training pictures (PIL, RGB) with their questions."""

    pictures: Sequence[Image.Image]
    asks: Sequence[Sequence[Ask]]


@dataclass(frozen=True)
class Prompts:
    """Token ids of the fixed parts of a turn."""

    before_image: list[int]
    image: int
    after_image: list[int]
    before_answer: list[int]
    end: int
    pad: int


def prompts(tokenizer: Tokenizer) -> Prompts:
    ids = lambda text: tokenizer.encode(text).ids  # noqa: E731
    return Prompts(
        ids("<|im_start|>user\n<|vision_start|>"),
        ids("<|image_pad|>")[0],
        ids("<|vision_end|>"),
        ids("<|im_end|>\n<|im_start|>assistant\n"),
        ids("<|im_end|>")[0],
        ids("<|endoftext|>")[0],
    )


def size_in_grid(rng: random.Random, rows: int, columns: int) -> tuple[int, int] | None:
    """A picture size that the processor turns into this grid, or None when no try hit one."""
    for _ in range(30):
        scale = rng.uniform(0.36, 1.05) if rows * columns <= 80 else 1.0
        width = round(columns * UNIT * scale + rng.uniform(-16, 16))
        height = round(rows * UNIT * scale + rng.uniform(-16, 16))
        if min(width, height) >= 96 and max(width, height) <= 640 and grid_of(width, height) == (rows, columns):
            return width, height
    return None


def choose(
    rng: random.Random, asks: Sequence[Ask], tokenizer: Tokenizer, fixed: Prompts
) -> list[tuple[list[int], list[int]]]:
    """(question ids, answer ids) in random order, as many as QUESTION_TOKENS allows."""
    turns, room = [], QUESTION_TOKENS
    order = rng.sample(list(asks), len(asks))
    if rng.random() < 0.5:  # reading is the hardest to learn: half of the time it goes first
        order.sort(key=lambda ask: ask.task != "ocr")
    for ask in order:
        question = tokenizer.encode(ask.prompt).ids + fixed.before_answer
        answer = [*tokenizer.encode(ask.answers[0]).ids, fixed.end]
        if len(question) + len(answer) <= room:
            turns.append((question, answer))
            room -= len(question) + len(answer)
        if room < 14:
            break
    return turns


class Stream(IterableDataset):
    """Yields dicts of numpy arrays: pixels uint8 [B, H, W, 3]; ids, branch, position int32
    [B, T]; label int32 [B, T] (-100: none); weight float32 [B, T]: an answer of n tokens weighs sqrt(n), not n."""

    def __init__(
        self, assets: Assets, easy: EasyVqa, tokenizer: Tokenizer, guard: np.ndarray, seed: int, start: int = 0
    ):
        self.assets, self.easy, self.guard = assets, easy, guard
        self.seed, self.start = seed, start
        self.tokenizer = tokenizer
        self.fixed = prompts(tokenizer)

    def __iter__(self) -> Iterator[dict]:
        info = get_worker_info()
        worker = info.id if info else 0
        number = self.start
        while True:
            yield self.batch(random.Random(f"{self.seed}/{worker}/{number}"))
            number += 1

    def scene(self, rng: random.Random, rows: int, columns: int) -> tuple[Image.Image, Sequence[Ask]]:
        kind = rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
        if kind == "easy-vqa" and (rows, columns) == (8, 8):
            i = rng.randrange(len(self.easy.pictures))
            return self.easy.pictures[i], self.easy.asks[i]
        draw = DRAW["objects" if kind == "easy-vqa" else kind]
        size = size_in_grid(rng, rows, columns) or (columns * UNIT, rows * UNIT)
        made = draw(rng, self.assets, size)
        return made.image, made.asks

    def batch(self, rng: random.Random) -> dict:
        rows, columns = (8, 8) if rng.random() < 0.25 else grid_of(*random_size(rng))
        count = min(220, IMAGE_TOKENS // (rows * columns))
        kept: list[tuple[Image.Image, Sequence[Ask]]] = []
        rejected = 0
        while len(kept) < count:
            made = [self.scene(rng, rows, columns) for _ in range(count - len(kept))]
            near = near_evaluation([image for image, _ in made], self.guard)
            kept += [scene for i, scene in enumerate(made) if i not in near]
            rejected += len(near)
        pixels = np.empty((count, rows * UNIT, columns * UNIT, 3), np.uint8)
        for i, (image, _) in enumerate(kept):
            pixels[i] = np.asarray(image.resize((columns * UNIT, rows * UNIT), Image.Resampling.BICUBIC))
        turns = [choose(rng, asks, self.tokenizer, self.fixed) for _, asks in kept]
        return {"pixels": pixels, "rejected": rejected, **pack(turns, self.fixed, rows, columns)}


def near_evaluation(images: Sequence[Image.Image], guard: np.ndarray) -> set[int]:
    """Which pictures are near-duplicates of evaluation pictures. `guard`: uint64 [evaluation, rotations, words]."""
    return {pair.right_index for pair in near_duplicates(guard, np.stack([fingerprint(image) for image in images]))}


def pack(
    turns: list[list[tuple[list[int], list[int]]]], fixed: Prompts, rows: int, columns: int
) -> dict[str, np.ndarray]:
    """Lays a picture's questions side by side: each sees the picture and itself only (`branch`), from one position.

    One sequence is prefix (picture) + questions, right-padded. branch: 0 prefix, 1.. questions, -1 padding.
    position is M-RoPE's [3, B, T]: the picture's cells by row and column, each question starting after them.
    """
    before, after = fixed.before_image, fixed.after_image
    prefix = [*before, *([fixed.image] * rows * columns), *after]
    start = len(before) + max(rows, columns)
    length = len(prefix) + max(sum(len(q) + len(a) for q, a in t) for t in turns)
    length = -(-length // 32) * 32
    ids = np.full((len(turns), length), fixed.pad, np.int32)
    branch = np.full_like(ids, -1)
    label = np.full_like(ids, -100)
    weight = np.zeros(ids.shape, np.float32)
    position = np.zeros((3, len(turns), length), np.int32)
    head = np.tile(np.arange(len(prefix)), (3, 1))
    cells = slice(len(before), len(before) + rows * columns)
    head[0, cells] = len(before)
    head[1, cells] = len(before) + np.repeat(np.arange(rows), columns)
    head[2, cells] = len(before) + np.tile(np.arange(columns), rows)
    head[:, cells.stop :] = start + np.arange(len(after))
    for b, asked in enumerate(turns):
        ids[b, : len(prefix)], branch[b, : len(prefix)], position[:, b, : len(prefix)] = prefix, 0, head
        at = len(prefix)
        for n, (question, answer) in enumerate(asked, start=1):
            tokens = question + answer
            end = at + len(tokens)
            ids[b, at:end], branch[b, at:end] = tokens, n
            position[:, b, at:end] = start + len(after) + np.arange(len(tokens))
            told = slice(at + len(question) - 1, end - 1)
            label[b, told], weight[b, told] = answer, len(answer) ** -0.5
            at = end
    return {"ids": ids, "branch": branch, "position": position, "label": label, "weight": weight}


def load_easy_vqa(guard: np.ndarray) -> tuple[EasyVqa, int]:
    """The public training split less near-duplicates of evaluation pictures, and how many of those there were."""
    asks: dict[int, list[Ask]] = {}
    for question, answer, number in easy_vqa.questions("train"):
        asks.setdefault(number, []).append(Ask("vqa", "easy-vqa", question, (answer,)))
    pictures = {number: easy_vqa.picture("train", number) for number in asks}
    near = near_evaluation(list(pictures.values()), guard)
    kept = [n for i, n in enumerate(asks) if i not in near]
    return EasyVqa([pictures[n] for n in kept], [asks[n] for n in kept]), len(near)
