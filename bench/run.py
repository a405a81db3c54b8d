"""Measures variants beside a baseline and writes the report. Each variant runs in its own processes, one at a time.

Folder: `observations/<variant>.jsonl` (one line an answer, as it happens; a killed run continues from them), then
`bench.json` (all numbers, derived from those lines), `bench.md` and `index.html` (the same to read).
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench import observations, page, process, report, table
from bench.environment import (
    LIBRARIES,
    RUNTIMES,
    describe_weights,
    libraries,
    machine,
    model_digest,
    run_key,
)
from bench.observations import Answered, Forced, Job, Loaded, Packed, Phase
from calib_data.records import Record, digest
from shipvlm.errors import ExecutionError, InputError
from shipvlm.folder import GRAPHS, check_folder, make_folder
from shipvlm.recipe import BenchSection
from shipvlm.stages import Progress, code_digest

PHASES: tuple[Phase, ...] = ("timing", "accuracy")
MEASURES = ("shipvlm.runtime", "shipvlm.families", "bench.worker", "bench.accuracy")  # code whose lines these are
Lines = list[Loaded | Answered]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Variant:
    """One form of a model: a checkpoint in `transformers`, or a graph set on `onnxruntime`."""

    name: str  # letters, digits, points, dashes and underscores: it names a file too
    folder: Path
    runtime: Literal["transformers", "onnxruntime"]
    device: Device = "cpu"

    @classmethod
    def of(cls, name: str, folder: Path, device: Device = "cpu") -> "Variant":
        """What is in `folder`. Raises InputError where that is neither."""
        if (folder / GRAPHS).is_file():
            return cls(name, folder, "onnxruntime", device)
        check_folder(folder)
        return cls(name, folder, "transformers", device)


def run(
    variants: Sequence[Variant],
    records: Sequence[Record],
    section: BenchSection,
    out: Path,
    *,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures `variants` on `records`, the first of them the baseline, and writes the report to `out`.

    `section` says how much; `command` is printed under how to reproduce. Returns what is in bench.json.
    Raises InputError for a folder that holds no model, names that cannot be used, data without records and an `out`
    that cannot be written to; what a worker raised; ExecutionError with the last words of a worker that died.
    """
    _check_names([variant.name for variant in variants])
    scored = report.sample(records, section.limit)
    timed = [scored[index * len(scored) // section.latency_items] for index in range(section.latency_items)]
    timed = list({record.id: record for record in timed}.values())
    make_folder(out / "observations")  # before the work
    described = {variant.name: _describe(variant) for variant in variants}
    in_batches = sorted(scored, key=lambda record: record.id)  # batches are made by size: their order does not matter
    keys = _keys(described, {"timing": digest(records), "accuracy": digest(in_batches)}, section)
    logs = {name: out / "observations" / f"{name}.jsonl" for name in described}
    measured = {
        name: [line for phase in PHASES for line in observations.read(log, keys[name, phase])]
        for name, log in logs.items()
    }
    for variant, phase, block in _turns(variants, section.blocks):
        job = _job(variant, phase, block, keys[variant.name, phase], scored if phase == "accuracy" else timed, section)
        if phase == "accuracy" and variant != variants[0]:
            job = job.model_copy(update={"forced": _forced(measured[variants[0].name])})
        _measure(job, measured[variant.name], logs[variant.name], progress)
    used = {name: _used(lines, scored, timed, section) for name, lines in measured.items()}
    made = report.build(described, used, scored, section, command)
    _write(out / "bench.json", json.dumps(made, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _write(out / "bench.md", table.markdown(made))
    _write(out / "index.html", page.render(made))
    return made


def _turns(variants: Sequence[Variant], blocks: int) -> Iterator[tuple[Variant, Phase, int]]:
    """Timing first and close together, there and back (A B B A), so that a drift of the machine meets all alike."""
    for block in range(blocks):
        for variant in variants if block % 2 == 0 else reversed(variants):
            yield variant, "timing", block
    for variant in variants:
        yield variant, "accuracy", 0


def _job(variant: Variant, phase: Phase, block: int, key: str, records: Sequence[Record], section: BenchSection) -> Job:
    timing = phase == "timing"
    return Job(
        run=key,
        variant=variant.name,
        folder=variant.folder.resolve(),
        device=variant.device,
        phase=phase,
        block=block,
        threads=section.threads,
        max_new_tokens=section.latency_tokens if timing else section.max_new_tokens,
        batch_size=1 if timing else section.batch_size,
        warmup=section.warmup if timing else 0,
        repeats=section.repeats if timing else 1,
        records=tuple(Packed(**dict(record)) for record in records),
    )


def _measure(job: Job, lines: Lines, log: Path, progress: Progress | None) -> None:
    """Adds to `lines` and to `log` what is missing of `job`."""
    wanted = {(record.id, repeat) for record in job.records for repeat in range(job.repeats)}
    done = wanted & {
        (line.id, line.repeat)
        for line in lines
        if isinstance(line, Answered) and (line.phase, line.block) == (job.phase, job.block)
    }
    title = f"{job.variant}: {job.phase}" + (f" {job.block + 1}" if job.phase == "timing" else "")
    report_progress = progress or (lambda *_: None)
    report_progress(title, len(done), len(wanted))
    if done == wanted:
        return
    for line in process.measure(job.model_copy(update={"done": frozenset(done)})):
        observations.append(log, line)
        lines.append(line)
        if isinstance(line, Answered):
            done.add((line.id, line.repeat))
            report_progress(title, len(done), len(wanted))
    if done != wanted:
        raise ExecutionError(
            f"variant {job.variant}: its process ended early, {len(wanted - done)} answers are missing"
        )


def _forced(lines: Lines) -> dict[str, Forced]:
    answers = [line for line in lines if isinstance(line, Answered) and line.phase == "accuracy"]
    return {line.id: Forced(token_ids=line.token_ids, ended=line.finish == "end") for line in answers}


def _used(lines: Lines, scored: Sequence[Record], timed: Sequence[Record], section: BenchSection) -> Lines:
    """What belongs to this run: an earlier one may have measured more."""
    ids = {"accuracy": {record.id for record in scored}, "timing": {record.id for record in timed}}
    return [
        line
        for line in lines
        if line.block < section.blocks
        and (isinstance(line, Loaded) or (line.id in ids[line.phase] and line.repeat < section.repeats))
    ]


def _describe(variant: Variant) -> dict[str, Any]:
    return {
        "runtime": variant.runtime,
        "device": variant.device,
        "digest": model_digest(variant.folder),
        "weights": describe_weights(variant.folder),
    }


def _keys(
    described: Mapping[str, Mapping[str, Any]], data: Mapping[Phase, str], section: BenchSection
) -> dict[tuple[str, Phase], str]:
    """A run key for each variant and phase: all that decides its lines. `data` are digests, of all records for timing,
    of exactly the scored ones for accuracy: `limit` decides who shares a batch. How often requests are timed, and how
    many, decides no line."""
    baseline = next(iter(described.values()))["digest"]
    how_many = {"data", "limit", "latency_items", "repeats", "blocks"}
    settings = section.model_dump_json(exclude=how_many)
    made_with = json.dumps([libraries([*LIBRARIES, *RUNTIMES]), machine(), code_digest(MEASURES)])
    return {
        (name, phase): run_key(
            phase,
            *(entry[field] for field in ("digest", "runtime", "device")),
            baseline,
            data[phase],
            settings,
            made_with,
        )
        for name, entry in described.items()
        for phase in PHASES
    }


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise InputError("give at least one variant: the baseline")
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise InputError(f"a variant cannot be named {name!r}: use letters, digits, points, dashes, underscores")
        if names.count(name) > 1:
            raise InputError(f"two variants are named {name!r}: results are kept by name, rename one")


def _write(path: Path, text: str) -> None:
    work = path.with_name(f".{path.name}.partial")
    work.write_text(text, encoding="utf-8")
    os.replace(work, path)
