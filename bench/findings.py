"""What a report says in plain words: its verdict, what of it the data supports, what is missing. Computes nothing."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bench.variants import NULL
from bench.words import NONE, percent, points, ratio, size, small, times

Report = Mapping[str, Any]
METRICS = {"ttft": "first token (TTFT)", "tpot": "further tokens (TPOT)", "e2e": "whole answer"}
CHECKS = {
    "empty": "empty answers",
    "unparsable": "answers that cannot be read",
    "length": "length of the answers",
    "top1_agreement": "top-1 agreement",
    "kl": "KL divergence",
    "ttft": "first token",
    "tpot": "further tokens",
    "e2e": "whole answer",
    "cold_start": "cold start",
    "memory": "peak memory",
    "size": "size of the files",
}
SHARES = ("score", "empty", "unparsable", "top1_agreement")  # checks whose numbers are shares


class Finding(NamedTuple):
    """One thing that was compared: its name, the word for it, the number with its interval, the same of the baseline
    against itself, and why the word is this one."""

    name: str
    word: str
    value: str
    null: str
    reason: str = ""


def headline(report: Report) -> tuple[str, str]:
    """The verdict's word, or nothing where no gate is set, and a sentence."""
    candidate, baseline, judgement = report["candidate"], report["baseline"], report["judgement"]
    if candidate == baseline:
        forms = [name for name in report["variants"] if name not in (baseline, NULL)]
        beside = f"{', '.join(forms)} beside {baseline}" if forms else f"Only {baseline} was measured"
        return "", f"{beside}: no other folder was given, so nothing passes or fails."
    if judgement is None:
        return "", f"{candidate} beside {baseline}. No gate is set, so nothing passes or fails."
    verdict, checks = judgement["verdict"], judgement["checks"]
    open_, failed = ([c["name"] for c in checks if c["verdict"] == word] for word in ("INCONCLUSIVE", "FAIL"))
    if verdict == "PASS":
        return verdict, f"{candidate} holds what is asked of it against {baseline}."
    if verdict == "FAIL":
        return verdict, f"{candidate} does not hold what is asked of it against {baseline}: {_listed(failed)}."
    return (
        verdict,
        f"What was measured does not decide whether {candidate} holds what is asked of it: {_listed(open_)}.",
    )


def checks(report: Report) -> list[dict[str, str]]:
    """Each thing asked of the candidate: name, verdict, what was asked, what was measured, why, what would decide."""
    found = []
    for check in (report["judgement"] or {"checks": []})["checks"]:
        kind = check["name"].split()[0]
        number = percent if kind in SHARES else ratio if kind not in ("kl", "memory", "size") else _plain
        enough = [
            f"about {check[field]:,} {unit} would decide"
            for field, unit in (("needed_items", "items"), ("needed_blocks", "blocks"))
            if check[field]
        ]
        signed = {"signed": True} if kind in SHARES and kind != "top1_agreement" else {}
        measured = {"value": check["measured"], "low": check["low"], "high": check["high"], "n": None}
        shown = number(measured, **signed) if check["low"] is not None else _bare(measured["value"], kind)
        found.append(
            {
                "name": _listed([check["name"]]),
                "verdict": check["verdict"],
                "asked": _asked(kind, check["asked"]),
                "measured": shown,
                "reason": "; ".join([check["reason"], *enough]),
            }
        )
    return found


def findings(report: Report, name: str) -> list[Finding]:
    """What the data supports of one variant against the baseline."""
    return list(_findings(report["variants"][name], report["variants"].get(NULL, {})))


def _findings(own: Report, null: Report) -> Iterator[Finding]:
    if "difference" in own:
        change = own["difference"]["all"]
        beside = (null.get("difference") or {}).get("all")
        yield Finding("score, points", change["word"], percent(change, signed=True), percent(beside, signed=True))
    for case, ratios in own["ratio"].items():
        for metric, title in METRICS.items():
            if found := ratios[metric]:
                yield Finding(f"{title}, {case}", found["word"], ratio(found), ratio(found["null"]), found["reason"])
    cold = (own["cold_start"] or {}).get("ratio")
    if cold:
        yield Finding("cold start", cold["word"], ratio(cold), ratio(cold["null"]), cold["reason"])
    if own["against"]["memory"]:
        mine = times((null.get("against") or {}).get("memory"))
        yield Finding("peak memory", "", f"{times(own['against']['memory'])} ({size(own['memory']['peak'])})", mine)
    yield Finding("size of the files", "", f"{times(own['against']['size'])} ({size(own['weights']['bytes'])})", NONE)


def why(report: Report) -> list[str]:
    """Why words of the candidate are AMBIGUOUS, each reason once; and how many blocks were disturbed."""
    entry = report["variants"][report["candidate"]]
    ratios = [found for case in entry["ratio"].values() for found in case.values()]
    ratios += [entry["cold_start"]["ratio"]] if (entry["cold_start"] or {}).get("ratio") else []
    open_ = [found for found in ratios if found["word"] == "AMBIGUOUS"]
    needed = [found["blocks_needed"] for found in open_ if found["blocks_needed"]]
    said = [f"AMBIGUOUS: {reason}." for reason in dict.fromkeys(found["reason"] for found in open_)]
    said += [f"About {max(needed)} blocks would decide (bench.blocks)."] if needed else []
    counts = [entry["blocks"] for entry in report["variants"].values()]
    measured, clean = (sum(count[part] for count in counts) for part in ("measured", "clean"))
    if clean < measured:
        reasons = [reason for count in counts for each in count["disturbed"] for reason in each["reasons"]]
        said.append(f"{measured - clean} of {measured} blocks were disturbed and do not count, such as: {reasons[0]}.")
    return said


def missing(report: Report) -> str:
    """What of the plan was not measured; nothing where all was."""
    if report["complete"]:
        return ""
    blocks = sum(each["phase"] == "timing" for each in report["missing"])
    answers = [each for each in report["missing"] if each["phase"] == "accuracy"]
    parts = [f"{blocks} blocks of times"] if blocks else []
    if answers:
        wanted, done = (sum(each[field] for each in answers) for field in ("wanted", "done"))
        parts.append(f"{wanted - done} answers ({', '.join(each['variant'] for each in answers)})")
    return f"Not complete: {' and '.join(parts)} were not measured. What is below is of the rest."


def caption(report: Report) -> str:
    """What was measured, where."""
    data, machine = report["data"], report["machine"]
    where = ", ".join([*machine["gpus"], machine["cpu"], f"{machine['cores']} cores"])
    boots = {boot for entry in report["variants"].values() for boot in entry["blocks"]["boots"]}
    if len(boots) > 1:
        many = "how many machines is not known" if "" in boots else f"{len(boots)} machines, or starts of one"
        where += f" ({many})"
    each = [entry for entry in report["variants"].values() if entry["timed"] and not entry["only_disturbed"]]
    requests = [sum(found["e2e"]["requests"] for found in entry["latency"].values()) for entry in each]
    clean = [entry["blocks"]["clean"] for entry in each]
    timed = f"{_span(requests)} requests timed of each variant in {_span(clean)} blocks, " if any(requests) else ""
    scored = "score" in report["variants"][report["baseline"]]
    asked = f"{data['records']} records of {data['name']} scored, " if scored else f"pictures of {data['name']}, "
    return f"{asked}{timed}on {where}. Brackets: 95 % interval; a gate judges answers by one-sided 95 % bounds."


def reading(report: Report) -> list[str]:
    """How the tables are to be read."""
    scored = "score" in report["variants"][report["baseline"]]
    scores = (
        "LOWER and HIGHER: the paired interval of the score leaves out 0. NO DIFFERENCE SEEN is no proof of equality: "
        "its interval says how large a difference could still be. INCONCLUSIVE: too few for an interval, or to decide."
    )
    return [
        f"Ratios of times are {report['baseline']} / variant: above 1x is faster. FASTER and SLOWER: the interval over "
        "blocks leaves out 1, the ratio is more than 2 % from 1, and the baseline against itself did not go as far. "
        "SAME: all of the interval is within 2 % of 1. AMBIGUOUS: neither.",
        "Milliseconds are of all clean blocks of a variant, a ratio of the turns in which both were clean, request by "
        "request: it is not the quotient of the two.",
        *([scores] if scored else []),
        f"null: {report['baseline']} measured once more as if it were another variant (A/A): what is seen without any "
        "change.",
    ]


def _span(counts: list[int]) -> str:
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _listed(names: list[str]) -> str:
    """Names of checks as people know them: `score all`, `ttft vqa-small`."""
    said = []
    for name in names:
        kind, _, rest = name.partition(" ")
        said.append(
            f"{CHECKS.get(kind, kind)}{', ' + rest if rest and kind in METRICS else ' ' + rest if rest else ''}"
        )
    return "; ".join(said)


def _asked(kind: str, value: float) -> str:
    if kind in ("score", "empty", "unparsable"):
        unit = "point" if value == 0.01 else "points"
        return f"at most {100 * value:g} {unit} {'lower' if kind == 'score' else 'higher'}"
    if kind == "length":
        return f"within {100 * value:g} % of the baseline's"
    if kind == "top1_agreement":
        return f"at least {100 * value:g} %"
    if kind == "kl":
        return f"at most {value:g} nats a token"
    return f"at most {value:g}x the baseline's" if kind in ("memory", "size") else f"at least {value:g}x as fast"


def _plain(estimate: Mapping[str, Any]) -> str:
    return f"{estimate['value']:.4g} [{estimate['low']:.4g}, {estimate['high']:.4g}]"


def _bare(value: float | None, kind: str) -> str:
    if value is None:
        return NONE
    if kind == "kl":
        return small(value)
    return points(value, signed=kind != "top1_agreement") if kind in SHARES else times(value)
