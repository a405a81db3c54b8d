"""Observations as a worker would have said them, with times and answers that the test chooses."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.observations import Answered, Loaded, Phase, Stages, identity
from bench.report import build
from calib_data.records import Record
from shipvlm.recipe import BenchSection
from tests.bench.made_records import records

MEGABYTE = 1_000_000


def loaded(phase: Phase = "timing", block: int = 0, seconds: float = 1.5) -> Loaded:
    return Loaded(
        run="r", phase=phase, block=block, seconds=seconds, rss_before=400 * MEGABYTE, rss_after=900 * MEGABYTE
    )


def answered(
    record: Record,
    phase: Phase = "timing",
    block: int = 0,
    repeat: int = 0,
    output: str = "red square",
    stages: Stages | None = None,
    other: float = 0.001,
    **fields,
) -> Answered:
    """One line; `wall` is the sum of the stages and `other`."""
    stages = stages or Stages(preprocess=0.01, vision=0.02, prefill=0.03, decode=(0.004, 0.004))
    total = stages.preprocess + stages.vision + stages.prefill + sum(stages.decode) + other
    line: dict[str, Any] = {"token_ids": (5, 6), "finish": "end", "peak_rss": 1000 * MEGABYTE, "wall": total} | fields
    return Answered(
        run="r", phase=phase, block=block, repeat=repeat, **identity(record), output=output, stages=stages, **line
    )


def stages(rng: np.random.Generator, pace: float, tokens: int) -> Stages:
    """Times of a machine that is `pace` times as slow as a made-up one, with some noise."""
    noise = lambda: pace * float(rng.lognormal(0, 0.05))  # noqa: E731
    return Stages(
        preprocess=0.012 * float(rng.lognormal(0, 0.05)),
        vision=0.030 * noise(),
        prefill=0.045 * noise(),
        decode=tuple(0.006 * noise() for _ in range(tokens - 1)),
    )


def variant_lines(
    scored: Sequence[Record],
    timed: Sequence[Record],
    pace: float = 1.0,
    right: float = 0.8,
    seed: int = 0,
    blocks: int = 2,
    repeats: int = 3,
    agreed: int | None = None,
    wrong: str = "<b>blue</b> & round",
) -> list[Loaded | Answered]:
    """All lines of one variant; a share `right` of its answers score."""
    rng = np.random.default_rng(seed)
    lines: list[Loaded | Answered] = []
    for block in range(blocks):
        lines.append(loaded("timing", block))
        for repeat in range(repeats):
            lines += [
                answered(record, "timing", block, repeat, stages=stages(rng, pace, 8), finish="length")
                for record in timed
            ]
    lines.append(loaded("accuracy"))
    for record in scored:
        output = record.answers[0] if np.random.default_rng([seed, len(lines)]).random() < right else wrong
        held: dict[str, Any] = {} if agreed is None else {"compared": 3, "agreed": agreed}
        lines.append(answered(record, "accuracy", output=output, peak_rss=1500 * MEGABYTE, **held))
    return lines


def described(size: int) -> dict:
    return {"runtime": "onnxruntime", "device": "cpu", "digest": "0" * 64, "weights": {"bytes": size, "values": {}}}


def made_report(count: int = 160, timed: int = 16) -> dict:
    """A report of a baseline and two faster variants, one of which answers worse."""
    data = records(count)
    lines = {
        "fp16": variant_lines(data, data[:timed], 1.0, 0.85),
        "onnx-fp32": variant_lines(data, data[:timed], 0.7, 0.85, agreed=3),
        "onnx-w8a8-static": variant_lines(data, data[:timed], 0.45, 0.8, agreed=2),
    }
    sizes = dict(zip(lines, (60, 62, 33), strict=True))
    return build(
        {name: described(size * MEGABYTE) for name, size in sizes.items()},
        lines,
        data,
        BenchSection(),
        "shipvlm run recipes/default.yaml -o build/default",
    )
