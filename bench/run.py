"""Measures variants beside a baseline, each block in a fresh process, and writes the report.

Folder: `plan.json` (what is to be measured), `observations/<variant>.jsonl` (a line for all that was, as it happens; a
killed run continues from them), then `bench.json`, `bench.md` and `index.html`, derived from those.

Blocks of times are taken in turns, there and back: A B C N | N C B A | ..., so that a drift of the machine meets all
alike; a turn in which a block is missing is measured again as a whole. A block that was disturbed is measured once
more at once; after RETRIES in a row that were disturbed again the machine is busy, and none is until one was clean.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import conditions, fidelity, observations, plan, process, report, salt
from bench.job import Job, Known, Packed
from bench.limits import Say, settled, write_limits
from bench.observations import LINE, Ended, Line, Phase, Timed
from bench.plan import Described, Plan
from bench.variants import NULL, Variant, variants_of
from calib_data.records import Record
from shipvlm.errors import ExecutionError, Interrupted
from shipvlm.folder import make_folder
from shipvlm.recipe import BenchSection, GateSection
from shipvlm.stages import Progress

RETRIES = 3


def run(
    given: Sequence[Variant],
    records: Sequence[Record],
    section: BenchSection,
    out: Path,
    *,
    gates: GateSection | None = None,
    command: str = "",
    progress: Progress | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Measures `given` (the first is the baseline) and what the recipe adds on `records`; writes the report to `out`.

    `section` says how much; `command` is printed under how to reproduce; what is possible at best is given to `say`.
    Returns what is in bench.json.
    Raises InputError for a folder that holds no model, names that cannot be used, data without records and an `out`
    that cannot be written to; what a process raised; ExecutionError with the last words of one that died, and where
    two timed requests saw the same picture; Interrupted, with what is missing, on Ctrl-C.
    """
    made = measure(given, records, section, out, gates=gates, command=command, progress=progress, say=say)
    return report.write(out, made, plan.lines(out, made), records)


def measure(
    given: Sequence[Variant],
    records: Sequence[Record],
    section: BenchSection,
    out: Path,
    *,
    gates: GateSection | None = None,
    command: str = "",
    progress: Progress | None = None,
    say: Say | None = None,
) -> Plan:
    """Measures what is missing in `out`, and returns the plan that it belongs to. Raises as `run`."""
    scored = plan.sample(records, section.limit)
    variants = variants_of(given, section)
    make_folder(out / plan.OBSERVATIONS)  # before the work
    timed = plan.spread(scored, section.latency_items * max(case.batch for case in plan.cases(section)))
    made = plan.make(variants, scored, timed, section, gates or GateSection(), command)
    known = plan.write(out, made)
    session = _Session(made, variants, scored, timed, section, out, progress or (lambda *_: None))
    try:
        if "timing" in made.phases:
            if not known or not settled(out):
                write_limits(out, made, variants, timed, section.threads, say or (lambda _: None))
            session.times()
        if "accuracy" in made.phases:
            session.answers()
    except KeyboardInterrupt:
        raise Interrupted(f"stopped: {_left(made, session.lines)}; what was measured is kept in {out}") from None
    salt.refuse_repeated(
        digest
        for lines in session.lines.values()
        for line in lines
        if isinstance(line, Timed)
        for digest in line.image_sha256
    )
    return made


def _left(made: Plan, lines: Mapping[str, Sequence[Line]]) -> str:
    left = plan.missing(made, lines)
    blocks = sum(each.phase == "timing" for each in left)
    answers = sum(each.wanted - each.done for each in left if each.phase == "accuracy")
    return f"{blocks} blocks of times and {answers} answers are missing"


class _Session:
    """One run of the blocks that are missing."""

    def __init__(
        self,
        made: Plan,
        variants: Sequence[Variant],
        scored: Sequence[Record],
        timed: Sequence[Record],
        section: BenchSection,
        out: Path,
        progress: Progress,
    ) -> None:
        self.plan, self.variants, self.section, self.out, self.progress = made, variants, section, out, progress
        self.lines = plan.lines(out, made)
        self.scored = tuple(Packed(**dict(record)) for record in scored)
        self.timed = tuple(Packed(**dict(record)) for record in timed)
        self.disturbed = 0  # blocks in a row that were disturbed twice

    def times(self) -> None:
        """The turns in which a block is missing, each as a whole."""
        variants = [variant for variant in self.variants if variant.timed]
        for turn in range(self.plan.blocks):
            if all(self._ended(variant, "timing", turn) for variant in variants):
                continue
            for variant in variants if turn % 2 == 0 else reversed(variants):
                clean = self._time(variant, turn).clean
                if not clean and self.disturbed < RETRIES:
                    clean = self._time(variant, turn).clean
                self.disturbed = 0 if clean else self.disturbed + 1

    def answers(self) -> None:
        """The baseline's first: the others are held to them."""
        for variant in self.variants:
            mine, path = self.lines[variant.name], plan.references(self.out)
            baseline = variant == self.variants[0]
            if self._ended(variant, "accuracy", 0) and (
                not baseline or fidelity.read(path, self._described(variant).keys["accuracy"]) is not None
            ):
                continue
            of_baseline = plan.answered(self.lines[self.plan.baseline])
            done = plan.answered(mine).keys() if baseline else plan.answered(mine).keys() & plan.held(mine).keys()
            known = {
                name: Known(token_ids=line.token_ids, ended=line.finish == "end")
                for name, line in of_baseline.items()
                if not baseline or name in done
            }
            self._block(
                variant,
                "accuracy",
                0,
                records=tuple(plan.scored_by(variant.name, self.scored)),
                # The null's batches are others: what an answer is computed beside may change its last bits.
                batch_size=max(1, self.section.batch_size // 2) if variant.name == NULL else self.section.batch_size,
                max_new_tokens=self.section.max_new_tokens,
                baseline=baseline,
                answers=known,
                done=frozenset(done),
                references=path.resolve(),
                reference_run=self.plan.variants[self.plan.baseline].keys["accuracy"],
            )

    def _time(self, variant: Variant, turn: int) -> Ended:
        return self._block(
            variant,
            "timing",
            turn,
            records=self.timed,
            cases=self.plan.cases,
            items=self.plan.requests,
            repeats=self.plan.repeats,
            warmup=self.section.warmup,
        )

    def _block(self, variant: Variant, phase: Phase, block: int, **asked: Any) -> Ended:
        """Measures one attempt at a block; its lines are kept as they come."""
        attempts = [
            each.attempt
            for each in observations.attempts(self.lines[variant.name])
            if (each.phase, each.block) == (phase, block)
        ]
        job = Job(
            run=self._described(variant).keys[phase],
            variant=variant.name,
            phase=phase,
            block=block,
            attempt=max(attempts, default=-1) + 1,
            **variant.opening,
            threads=self.section.threads,
            started=conditions.launched(),
            **asked,
        )
        title = f"{variant.name}: {phase}" + (f" {block + 1}" if phase == "timing" else "")
        wanted = job.items * job.repeats * len(job.cases) if phase == "timing" else len(job.records)
        count, ended = len(job.done), None
        self.progress(title, count, wanted)
        for line in process_lines(job):
            observations.append(plan.log(self.out, variant.name), [line])
            self.lines[variant.name].append(line)
            if line.kind in ("timed", "answered"):
                count += 1
                self.progress(title, count, wanted)
            ended = line if isinstance(line, Ended) else ended
        if ended is None:
            raise ExecutionError(
                f"variant {variant.name}: its process ended early, {wanted - count} answers are missing"
            )
        return ended

    def _ended(self, variant: Variant, phase: Phase, block: int) -> bool:
        return (variant.name, phase, block) in {
            (each.variant, each.phase, each.block) for each in observations.blocks(self.lines[variant.name])
        }

    def _described(self, variant: Variant) -> Described:
        return self.plan.variants[variant.name]


def process_lines(job: Job) -> Iterator[Line]:
    """The lines of a fresh process that measures `job`. Raises as `bench.process.lines`."""
    for line in process.lines("bench.worker", job, f"variant {job.variant}"):
        yield LINE.validate_json(line)
