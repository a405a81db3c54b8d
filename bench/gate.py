"""Does a variant hold what the recipe asks of it? PASS, FAIL, or INCONCLUSIVE with how much more would decide.

Reads only a report (bench.json as data), so a committed result can be judged anywhere.

- Score, empty and unparsable answers: non-inferiority. PASS when the one-sided 95 % bound is better than the margin,
  FAIL when the other bound is worse than it (bench.change).
- Times, length, top-1 agreement, KL: PASS when the whole 95 % interval holds, FAIL when all of it does not. A KL that
  is equal for all pictures has no interval (bench.intervals): it is judged as it is, and the reason says of how many
  pictures that is known.
- Memory and size are single numbers: PASS or FAIL.

All must pass: then the whole is wrong no more often than one of them.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scipy import stats

from bench.intervals import CONFIDENCE, MIN_ITEMS
from bench.power import blocks_needed, items_needed
from bench.ratio import MARGIN, MIN_BLOCKS
from bench.timing import METRICS
from shipvlm.errors import InputError
from shipvlm.recipe import GateSection

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Report = Mapping[str, Any]
CUT_OFF = "not all items were answered: run it again, it goes on"


@dataclass(frozen=True)
class Check:
    """One thing asked. `low` and `high`: the bounds that were judged. `needed_items`, `needed_blocks`: about how
    many would decide, None where that cannot be said or all is decided."""

    name: str
    asked: float
    verdict: Verdict
    reason: str
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    needed_items: int | None = None
    needed_blocks: int | None = None


@dataclass(frozen=True)
class Judgement:
    """FAIL when one check fails, else INCONCLUSIVE when one is open, else PASS."""

    verdict: Verdict
    variant: str
    checks: tuple[Check, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"checks": [asdict(check) for check in self.checks]}


def judge(report: Report, gates: GateSection) -> Judgement | None:
    """The verdict on `report["candidate"]`, held against `report["baseline"]`; None when no gate is set, or the two are
    one: nothing was compared.

    Raises InputError when a gate names a task that the report does not have.
    """
    name = report["candidate"]
    if name == report["baseline"]:
        return None
    entry, baseline = report["variants"][name], report["variants"][report["baseline"]]
    checks = tuple([*_answers(report, entry, gates), *_times(entry, gates), *_sizes(entry, baseline, gates)])
    if not checks:
        return None
    verdicts = {check.verdict for check in checks}
    verdict: Verdict = "FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"
    return Judgement(verdict, name, checks)


def _answers(report: Report, entry: Report, gates: GateSection) -> Iterator[Check]:
    scored = {"all": gates.score, **gates.score_by_task}
    found = entry.get("difference") or {}
    whole = not [
        each
        for each in report.get("missing") or ()
        if each["phase"] == "accuracy" and each["variant"] in (report["candidate"], report["baseline"])
    ]
    if unknown := sorted(set(gates.score_by_task) - set(found)) if found else []:
        raise InputError(
            f"gates.score_by_task: this result has no task {unknown[0]!r}; it has {', '.join(sorted(found))}"
        )
    for task, margin in scored.items():
        if margin is not None:
            yield _non_inferior(f"score {task}", found.get(task), margin, whole)
    for name, margin in (("empty", gates.empty), ("unparsable", gates.unparsable)):
        if margin is not None:
            yield _non_inferior(name, entry.get(name), margin, whole, rise=True)
    for name, judged in (("length", _within), ("top1_agreement", _agreement), ("kl", _divergence)):
        asked, estimate = getattr(gates, name), entry.get(name)
        if asked is None:
            continue
        if estimate is None:
            yield _not_measured(name, asked)
        elif not whole:
            yield Check(name, asked, "INCONCLUSIVE", CUT_OFF, estimate["value"])
        else:
            yield judged(name, estimate, asked)


def _times(entry: Report, gates: GateSection) -> Iterator[Check]:
    for metric in METRICS:
        least = getattr(gates, metric)
        if least is not None:
            cases = entry.get("ratio") or {}
            if not cases:
                yield _not_measured(metric, least)
            for case, found in cases.items():
                yield _as_fast(f"{metric} {case}", found.get(metric), least)
    if gates.cold_start is not None:
        yield _as_fast("cold_start", (entry.get("cold_start") or {}).get("ratio"), gates.cold_start)


def _sizes(entry: Report, baseline: Report, gates: GateSection) -> Iterator[Check]:
    for name, part, most in (("memory", ("memory", "peak"), gates.memory), ("size", ("weights", "bytes"), gates.size)):
        if most is None:
            continue
        own, other = ((side.get(part[0]) or {}).get(part[1]) for side in (entry, baseline))
        if not own or not other:
            yield _not_measured(name, most)
            continue
        share = own / other
        reason = f"{share:.3f} of the baseline's, at most {most:g} is asked"
        yield Check(name, most, "PASS" if share <= most else "FAIL", reason, share)


def _non_inferior(name: str, found: Report | None, margin: float, whole: bool, rise: bool = False) -> Check:
    """A mean change that may be `margin` for the worse; with `rise`, upwards is worse."""
    if found is None:
        return _not_measured(name, margin)
    value, lower, upper = found["value"], found["lower"], found["upper"]
    if not whole:
        return Check(name, margin, "INCONCLUSIVE", CUT_OFF, value)
    if lower is None or upper is None:
        needed = max(MIN_ITEMS, items_needed(margin, found["deviation"]) or 0)
        reason = f"items of {found['pictures']} pictures, at least {MIN_ITEMS} are needed"
        return Check(name, margin, "INCONCLUSIVE", reason, value, needed_items=needed)
    worst, best, change = (-upper, -lower, -value) if rise else (lower, upper, value)
    judged, points = (name, margin), f"{100 * margin:g} points"
    bounds = {"measured": value, "low": lower, "high": upper}
    if worst > -margin:
        return Check(*judged, "PASS", f"not worse by {points}, one-sided 95 %", **bounds)
    if best < -margin:
        return Check(*judged, "FAIL", f"worse by more than {points}, one-sided 95 %", **bounds)
    enough = items_needed(change + margin, found["deviation"])
    more = None if enough is None else max(enough, found["n"] + 1)
    if change <= -margin:
        reason = f"{found['n']} items: the change is beyond {points}, its one-sided 95 % bounds are not yet"
    else:
        reason = f"{found['n']} items: the one-sided 95 % bounds reach over {points}"
    return Check(*judged, "INCONCLUSIVE", reason, **bounds, needed_items=more)


def _as_fast(name: str, found: Report | None, least: float) -> Check:
    """A ratio of times that must be at least `least`."""
    if found is None:
        return _not_measured(name, least)
    if found["low"] is None:
        return Check(name, least, "INCONCLUSIVE", found["reason"], found["value"], needed_blocks=MIN_BLOCKS)
    null = found["null"]
    if null and null["low"] is not None and (null["low"] > 1 + MARGIN or null["high"] < 1 / (1 + MARGIN)):
        drift = f"{null['low']:.3f} to {null['high']:.3f}"
        reason = f"the baseline against itself is {drift}: measure again on a quiet machine"
        return Check(name, least, "INCONCLUSIVE", reason, found["value"], found["low"], found["high"])
    check = _interval(name, found, least)
    if check.verdict != "INCONCLUSIVE":
        return check
    n = found["blocks"]
    reach = math.log(found["high"] / found["low"]) / 2
    deviation = reach * math.sqrt(n) / float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    needed = blocks_needed(math.log(found["value"] / least), deviation, n + 1)
    return Check(**asdict(check) | {"needed_blocks": needed})


def _within(name: str, found: Report, most: float) -> Check:
    """A ratio that may be off 1 by `most`, either way."""
    if found["low"] is None:
        return _too_few(name, found, most)
    bounds = (found["value"], found["low"], found["high"])
    if 1 - most <= found["low"] and found["high"] <= 1 + most:
        return Check(name, most, "PASS", f"all of the interval is within {most:g} of 1", *bounds)
    if found["high"] < 1 - most or found["low"] > 1 + most:
        return Check(name, most, "FAIL", f"all of the interval is more than {most:g} from 1", *bounds)
    return Check(name, most, "INCONCLUSIVE", f"the interval reaches over {most:g} from 1", *bounds)


def _agreement(name: str, found: Report, least: float) -> Check:
    """A share that must be at least `least`. Where all agreed, Wilson's bound says how many more would decide."""
    check = _interval(name, found, least)
    if check.verdict != "INCONCLUSIVE" or found["value"] < 1 or least == 1 or found["low"] is None:
        return check
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    return Check(**asdict(check) | {"needed_items": math.ceil(z**2 * least / (1 - least))})


def _divergence(name: str, found: Report, most: float) -> Check:
    """A mean of at most `most`; where it is equal for all pictures, that one value."""
    value, unseen = found["value"], found.get("unseen")
    if unseen is None:
        return _interval(name, found, most, at_most=True)
    reason = f"{value:.3g} for every picture: at 95 % confidence it is another for fewer than"
    return Check(
        name, most, "PASS" if value <= most else "FAIL", f"{reason} {100 * unseen:.1f} % of all pictures", value
    )


def _interval(name: str, found: Report, asked: float, at_most: bool = False) -> Check:
    """A value that must be at least `asked`, or `at_most`."""
    if found["low"] is None:
        return _too_few(name, found, asked)
    low, high = found["low"], found["high"]
    holds, fails = (high <= asked, low > asked) if at_most else (low >= asked, high < asked)
    side = "at most" if at_most else "at least"
    verdict: Verdict = "PASS" if holds else "FAIL" if fails else "INCONCLUSIVE"
    part = {"PASS": "all", "FAIL": "none", "INCONCLUSIVE": "part"}[verdict]
    return Check(name, asked, verdict, f"{part} of the interval is {side} {asked:g}", found["value"], low, high)


def _too_few(name: str, found: Report, asked: float) -> Check:
    reason = f"{found['n']} items are too few for an interval: it takes items of {MIN_ITEMS} pictures"
    return Check(name, asked, "INCONCLUSIVE", reason, found["value"])


def _not_measured(name: str, asked: float) -> Check:
    return Check(name, asked, "INCONCLUSIVE", "not measured")
