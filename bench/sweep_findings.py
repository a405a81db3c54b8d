"""What the levels of a sweep say: requests a second and latency of each, which of them hold a limit for p95, and words.

A level HOLDS the limit if p95 lies within it in each clean process, and BREAKS it if p95 is over it in each; else the
word is AMBIGUOUS. In one process p95 is an estimate from its batches: what is held against the limit are its one-sided
95 % bounds, two of the measured times by their rank (scipy.stats.quantile_test), as if batches were independent. That
they are not is why one process alone says nothing.

Nothing is interpolated: told is the highest rate that was measured at a level that holds.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from scipy import stats

from bench.intervals import CONFIDENCE
from bench.sweep_levels import Level
from bench.timing import PERCENTILES, percentile
from bench.words import milliseconds, number, with_interval

HOLDS, BREAKS, AMBIGUOUS = "HOLDS", "BREAKS", "AMBIGUOUS"
BATCHES = PERCENTILES["p95"][1]  # as few as p95 can be told from
MIN_CLEAN = 2  # processes
MEASURES = ("requests_a_second", "p50", "p95", "first_p50")


def of_levels(said: Iterable[Level], slo_seconds: float) -> list[dict[str, Any]]:
    """The levels that were measured, by their clients, each with `word` and `reason` (for AMBIGUOUS, else null).

    Of each process its last attempt at a level counts. `requests_a_second` (time between batches left out), `p50`,
    `p95` and `first_p50` (to the first token; seconds, null where the batches are too few) are over the `clean` ones
    of its `processes`, over all where none is: n, their median `value`, `low` and `high` the lowest and highest of
    them (null for one alone). `attempts` has all of them.
    """
    groups: dict[int, list[Level]] = {}
    for level in said:
        groups.setdefault(level.clients, []).append(level)
    return [_level(clients, groups[clients], slo_seconds) for clients in sorted(groups)]


def finding(levels: Sequence[Mapping[str, Any]], slo_seconds: float) -> dict[str, Any]:
    """Of the levels that hold the limit the one of the highest rate: its `clients` and `requests_a_second`, null where
    none holds it; and `words`, which name the lowest level that breaks it too, and all of which it cannot be said."""
    by_word = {word: [level for level in levels if level["word"] == word] for word in (HOLDS, BREAKS, AMBIGUOUS)}
    best = max(by_word[HOLDS], key=lambda level: level["requests_a_second"]["value"], default=None)
    words = [f"up to {number(best['requests_a_second']['value'])} requests/s, with {_asked(best)}"] if best else []
    words += [f"not with {_asked(level)}" for level in by_word[BREAKS][:1]]
    if unsure := by_word[AMBIGUOUS]:
        words.append(f"{AMBIGUOUS} with {' and with '.join(_clients(level) for level in unsure)}")
    if best and not by_word[BREAKS] and not unsure:
        words.append("no level that was measured breaks it: give higher levels")
    return {
        "clients": best and best["clients"],
        "requests_a_second": best and best["requests_a_second"]["value"],
        "words": f"{_limit(slo_seconds)}: {'; '.join(words)}",
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The sweep as one table, what it says, what is missing, and what it is of."""
    limit = _limit(result["slo_seconds"])
    rows = [["clients", "requests/s", "p50, ms", "p95, ms", "first token p50, ms", limit], ["---"] * 6]
    for level in result["levels"]:
        times = [milliseconds(level[name]) for name in ("p50", "p95", "first_p50")]
        rows.append([str(level["clients"]), with_interval(level["requests_a_second"], number), *times, _judged(level)])
    said = [f"{result['finding']['words']}."]
    if missing := result["missing"]:
        left = ", ".join(f"process {each['process'] + 1} at {each['clients']}" for each in missing)
        whole = result["processes"] * len(result["asked"])
        said += ["", f"Cut off: {len(missing)} of {whole} measurements are missing: {left}."]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", *said, "", _caption(result)]) + "\n"


def p95_bounds(seconds: Sequence[float]) -> tuple[float, float]:
    """One-sided 95 % lower and upper bound of the 95th percentile; at least BATCHES values, which have both."""
    below, above = (
        stats.quantile_test(seconds, p=0.95, alternative=side).confidence_interval(CONFIDENCE)
        for side in ("greater", "less")
    )
    return float(below.low), float(above.high)


def _level(clients: int, said: Sequence[Level], slo_seconds: float) -> dict[str, Any]:
    last = list({level.process: level for level in said}.values())
    clean = [level for level in last if level.clean]
    counted = [_told(level) for level in clean or last]
    word, reason = _word(last, clean, slo_seconds)
    return {
        "clients": clients,
        "word": word,
        "reason": reason,
        "processes": len(last),
        "clean": len(clean),
        "warm": all(level.warm for level in clean or last),
        **{name: _spread([each[name] for each in counted]) for name in MEASURES},
        "attempts": [_told(level) for level in said],
    }


def _word(last: Sequence[Level], clean: Sequence[Level], slo_seconds: float) -> tuple[str, str | None]:
    if (fewest := min(len(level.seconds) for level in last)) < BATCHES:
        return AMBIGUOUS, f"p95 needs {BATCHES} batches, measured were {fewest}"
    if len(clean) < MIN_CLEAN:
        noisy = [reason for level in last for reason in level.reasons]
        why = f": {noisy[-1]}" if noisy else ""
        return AMBIGUOUS, f"{len(clean)} of {len(last)} processes clean, {MIN_CLEAN} are needed{why}"
    bounds = [p95_bounds(level.seconds) for level in clean]
    if all(high <= slo_seconds for _, high in bounds):
        return HOLDS, None
    if all(low > slo_seconds for low, _ in bounds):
        return BREAKS, None
    lowest, highest = min(low for low, _ in bounds), max(high for _, high in bounds)
    return AMBIGUOUS, f"p95 may be from {number(1e3 * lowest)} to {number(1e3 * highest)} ms"


def _told(level: Level) -> dict[str, Any]:
    count = len(level.seconds)
    enough = count >= BATCHES
    return {
        "process": level.process,
        "attempt": level.attempt,
        "batches": count,
        "requests_a_second": count * level.clients / sum(level.seconds),
        "p50": percentile(level.seconds, "p50"),
        "p95": percentile(level.seconds, "p95"),
        "p95_bounds": list(p95_bounds(level.seconds)) if enough else None,
        "first_p50": percentile(level.first, "p50"),
        "warm": level.warm,
        "clean": level.clean,
        "reasons": list(level.reasons),
        "conditions": level.conditions.model_dump(mode="json"),
        "seconds": list(level.seconds),
        "first": list(level.first),
    }


def _spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    there = [value for value in values if value is not None]
    if not there:
        return None
    low, high = (min(there), max(there)) if len(there) > 1 else (None, None)
    return {"n": len(there), "value": median(there), "low": low, "high": high}


def _judged(level: Mapping[str, Any]) -> str:
    notes = [f"{level['word']}: {level['reason']}" if level["reason"] else level["word"]]
    if level["clean"] == 0:
        notes.append("numbers of disturbed processes")
    elif level["clean"] < level["processes"]:
        notes.append(f"numbers of {level['clean']} of {level['processes']} processes, the others were disturbed")
    return "; ".join([*notes, *([] if level["warm"] else ["not stable after the warm-up"])])


def _caption(result: Mapping[str, Any]) -> str:
    case, weights = result["case"], result["weights"]
    form = (
        f"graphs {' '.join(filter(None, (weights['precision'], weights['scheme'])))}"
        if "precision" in weights
        else (f"in {result['dtype']}")
    )
    return (
        f"{result['variant']} on {result['engine']}, {form}, {result['device']}; case {case['name']}: pictures of "
        f"{case['width']} x {case['height']}, prompts of {case['prompt_tokens']} tokens without picture, answers of "
        f"{case['answer_tokens']}. {result['batches']} batches a level in each of {result['processes']} processes; "
        "numbers are medians over processes, brackets their lowest and highest. Closed loop: each client asks again "
        "when it is answered, and the engine answers all that wait as one batch. No server, no continuous batching."
    )


def _limit(slo_seconds: float) -> str:
    return f"p95 within {1000 * slo_seconds:.0f} ms"


def _asked(level: Mapping[str, Any]) -> str:
    return f"{_clients(level)} (p95 {number(1e3 * level['p95']['value'])} ms)"


def _clients(level: Mapping[str, Any]) -> str:
    return f"{level['clients']} client{'s' if level['clients'] > 1 else ''}"
