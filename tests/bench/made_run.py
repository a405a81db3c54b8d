"""A run as it would have been measured, with times and answers that the test chooses: its plan and its lines."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from bench import plan, report
from bench.environment import describe_data
from bench.observations import Answered, Conditions, Ended, Held, Line, Loaded, Memory, Stages, Timed, Warmed, short
from bench.plan import Described, Item, Plan
from bench.workloads import CASES
from calib_data.records import Record
from calib_data.scoring import score
from shipvlm.recipe import BenchSection, GateSection
from tests.bench.made_records import records

MB = 1_000_000
CASE = CASES["vqa-small"]
QUIET = Conditions(seconds=1.0, others=0.01, steal=0.0, waited=0.01, load=1.0, boot="aaaaaaaaaaaa")
WRONG = "<b>blue</b> & round"


def memory(rss: int, **device: int) -> Memory:
    return Memory(rss=rss, anon=rss // 2, file=rss // 2, peak_rss=rss, peak_anon=rss // 2, peak_file=rss // 2, **device)


def described(engine: str = "onnxruntime", size: int = 30, timed: bool = True, **weights: Any) -> Described:
    return Described.model_validate(
        {
            "engine": engine,
            "device": "cpu",
            "dtype": None,
            "timed": timed,
            "digest": "0" * 64,
            "weights": {"bytes": size * MB, **weights},
            "keys": {"timing": "t", "accuracy": "a"},
        }
    )


def made_plan(
    variants: dict[str, Described], data: Sequence[Record], blocks: int = 6, requests: int = 8, **fields: Any
) -> Plan:
    section = BenchSection(blocks=blocks, latency_items=requests, repeats=1)
    values: dict[str, Any] = {
        "baseline": next(iter(variants)),
        "variants": variants,
        "phases": ("timing", "accuracy"),
        "blocks": blocks,
        "cases": (CASE,),
        "requests": requests,
        "repeats": 1,
        "items": tuple(
            Item(id=r.id, task=r.task, source=r.source, prompt=r.prompt, references=r.answers) for r in data
        ),
        "data": {"name": "made", **describe_data(data)},
        "settings": section.model_dump(mode="json", exclude={"data"}),
        "gates": GateSection(),
        "command": "shipvlm run recipes/default.yaml",
        "machine": {
            "cpu": "A processor",
            "cores": 2,
            "torch_threads": 2,
            "memory": 16_000 * MB,
            "gpus": [],
            "system": "Linux x86_64",
            "python": "3.11.2",
        },
        "libraries": {"torch": "2.13.0", "onnxruntime": "1.31.1"},
    }
    return Plan(**values | fields)


def stages(rng: np.random.Generator, pace: float, tokens: int) -> Stages:
    """Times of a machine that is `pace` times as slow as a made-up one, with some noise."""
    noise = lambda: pace * float(rng.lognormal(0, 0.02))  # noqa: E731
    return Stages(
        preprocess=0.004 * float(rng.lognormal(0, 0.02)),
        vision=0.030 * noise(),
        prefill=0.045 * noise(),
        decode=tuple(0.006 * noise() for _ in range(tokens - 1)),
        detokenise=0.0004,
    )


def timing_lines(
    name: str,
    pace: float = 1.0,
    blocks: int = 6,
    requests: int = 8,
    seed: int = 0,
    disturbed: Sequence[int] = (),
    rss: int = 900,
    case: str = CASE.name,
    boot: str | None = QUIET.boot,
) -> list[Line]:
    """All blocks of the times of one variant; those in `disturbed` were, and were not measured again."""
    rng, lines = np.random.default_rng([seed, *name.encode()]), list[Line]()
    for block in range(blocks):
        said: dict[str, Any] = {"run": "t", "variant": name, "phase": "timing", "block": block}
        drift = pace * float(rng.lognormal(0, 0.004))
        lines.append(
            Loaded(
                **said,
                at="2026-11-22T12:00:00+00:00",
                dtype="float32",
                imports=1.0,
                load=0.5 * drift,
                dropped=True,
                first=0.2 * drift,
                before=memory(400 * MB),
                after=memory(rss * MB - 100 * MB),
            )
        )
        lines.append(Warmed(**said, case=case, seconds=(0.2, 0.1, 0.1), stable=True))
        for item in range(requests):
            parts = stages(rng, drift, CASE.answer_tokens)
            spent = parts.preprocess + parts.vision + parts.prefill + sum(parts.decode) + parts.detokenise
            lines.append(
                Timed(
                    **said,
                    case=case,
                    repeat=0,
                    id=f"made/{item:04d}",
                    prompt_sha256=("p",),
                    image_sha256=(f"{name}/{case}/{block}/{item}",),
                    prompt_tokens=(94,),
                    patches=(256,),
                    new_tokens=CASE.answer_tokens,
                    wall=spent + 0.0002,
                    stages=parts,
                )
            )
        reasons = ("other processes took 40 % of the cores, at most 10 % is allowed",) if block in disturbed else ()
        quiet = QUIET.model_copy(update={"boot": boot})
        lines.append(Ended(**said, clean=not reasons, reasons=reasons, conditions=quiet, memory=memory(rss * MB)))
    return lines


def accuracy_lines(
    name: str, data: Sequence[Record], wrong: Sequence[int] = (), kl: float | None = None, said: str = WRONG
) -> list[Line]:
    """An answer to each record, those at `wrong` not right; held to the baseline's where `kl` is given."""
    block: dict[str, Any] = {"run": "a", "variant": name, "phase": "accuracy", "block": 0}
    lines: list[Line] = []
    for place, record in enumerate(data):
        output = said if place in wrong else record.answers[0]
        graded = vars(score(record.task, output, record.answers))
        lines.append(
            Answered(
                **block,
                id=record.id,
                task=record.task,
                source=record.source,
                prompt_sha256=short(record.prompt.encode()),
                image_sha256=short(record.image),
                output=output,
                token_ids=(5, 6, 7),
                finish="end",
                wall=0.1,
                score=graded.pop("value"),
                **graded,
            )
        )
        if kl is not None:
            values = tuple(kl * (1 + place % 3) for _ in range(3))
            same = (place not in wrong, True, True)
            lines.append(
                Held(**block, id=record.id, kl=values, same=same, delta_p=(-kl, 0.0, kl / 2), kept=256, whole=False)
            )
    return [*lines, Ended(**block, clean=True, conditions=QUIET, memory=memory(1200 * MB))]


@cache
def made_run(count: int = 160) -> tuple[Plan, dict[str, list[Line]], list[Record]]:
    """A baseline, INT8 in transformers, graphs in two types, and the null. Made once: do not change it."""
    data = records(count)
    variants = {
        "original": described("transformers", 31, values={"F16": 15_000_000}),
        "w8a8-static": described("transformers", 24, timed=False, values={"I8": 8_000_000, "F16": 7_000_000}),
        "onnx": described("onnxruntime", 62, precision="fp32", scheme=None),
        "onnx-w8a8-static": described("onnxruntime", 27, precision="fp32", scheme="w8a8-static"),
        "null": described("transformers", 31, values={"F16": 15_000_000}),
    }
    lines = {
        "original": timing_lines("original") + accuracy_lines("original", data, range(0, 30, 3)),
        "w8a8-static": accuracy_lines("w8a8-static", data, range(0, 33, 3), 2e-3),
        "onnx": timing_lines("onnx", 0.6, rss=500) + accuracy_lines("onnx", data, range(0, 30, 3), 1e-6),
        "onnx-w8a8-static": timing_lines("onnx-w8a8-static", 0.35, disturbed=[2], rss=420)
        + accuracy_lines("onnx-w8a8-static", data, range(0, 33, 3), 2e-3),
        "null": timing_lines("null") + accuracy_lines("null", data, range(0, 30, 3), 0.0),
    }
    return made_plan(variants, data), lines, data


def made_limits(names: Sequence[str]) -> dict[str, Any]:
    """What the machine would allow, the first name the baseline."""
    best = {"vision": 0.010, "prefill": 0.012, "decode": 0.0015, "request": 0.010 + 0.012 + 15 * 0.0015}
    variants = {}
    for place, name in enumerate(names):
        pace = 0.7**place
        found = {
            stage: {
                "bytes": 1,
                "operations": 1,
                "operations_by_type": {"fp32": 1},
                "seconds_at_best": pace * seconds,
                "bound": "memory" if stage == "decode" else "compute",
            }
            for stage, seconds in best.items()
        }
        fits = {
            "card": "t4",
            "memory": 16_106 * MB,
            "reserve": 1_074 * MB,
            "free": 15_000 * MB,
            "cache_a_token": 7168,
            "context": 110,
            "patches": 256,
            "largest_context": 4096,
            "largest_batch": 6168,
            "limit": {"largest_context": "model", "largest_batch": "memory"},
        }
        possible = {stage: 1 / pace for stage in best}
        variants[name] = {"stages": found, "most_possible": possible, "capacity": [fits]}
    rates = {
        "device": "cpu",
        "name": "A processor",
        "threads": None,
        "bandwidth": [{"value": 12e9, "by": "dot", "size": 268435456}],
        "operations": {"fp32": {"value": 27e9, "by": "MatMul"}},
        "seconds": 3.0,
        "reasons": [],
    }
    work = {"batch": 1, "patches": 256, "prompt_tokens": 94, "answer_tokens": 16}
    return {CASE.name: {"baseline": names[0], "work": work, "rates": rates, "variants": variants}}


@cache
def made_report(count: int = 160) -> dict[str, Any]:
    """The report of `made_run`, with limits. Made once: do not change it."""
    made, lines, data = made_run(count)
    limits = made_limits([name for name, each in made.variants.items() if each.timed and name != "null"])
    return report.build(made, lines, data, limits)


def write_run(out: Any, made: Plan, lines: dict[str, list[Line]]) -> None:
    """The folder that bench.run leaves before it writes the report."""
    from bench import observations

    (out / plan.OBSERVATIONS).mkdir(parents=True)
    (out / plan.PLAN).write_text(made.model_dump_json(indent=2))
    for name, said in lines.items():
        observations.append(plan.log(out, name), said)
