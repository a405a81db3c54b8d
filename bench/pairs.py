"""A variant beside its baseline, item by item: differences of the scores, and flips.

Everything is paired, and the picture is the unit (bench.change). McNemar's exact test of the flips (Q. McNemar,
Psychometrika 12, 1947: two-sided binomial, half of the flips either way) takes items as independent.
"""

from collections.abc import Callable, Sequence
from typing import Any

from scipy import stats

from bench import accuracy, change, intervals
from bench.accuracy import ItemResult
from bench.intervals import EQUAL
from bench.observations import Answered, Held

Items = Sequence[ItemResult]


def grade(answered: Sequence[Answered], held: Sequence[Held] = ()) -> list[ItemResult]:
    """One result an item, ordered by id; with what was held against the baseline, where it was."""
    by_id = {line.id: line for line in held}
    found = []
    for line in sorted(answered, key=lambda line: line.id):
        fields: dict[str, Any] = {}
        if beside := by_id.get(line.id):
            fields = {"compared": len(beside.kl), "agreed": sum(beside.same), "kl": sum(beside.kl)}
        found.append(
            ItemResult(
                run=line.run,
                id=line.id,
                task=line.task,
                source=line.source,
                prompt_sha256=line.prompt_sha256,
                image_sha256=line.image_sha256,
                answer=line.output,
                value=line.score,
                parsed=line.parsed,
                similarity=line.similarity,
                token_ids=line.token_ids,
                seconds=line.wall,
                **fields,
            )
        )
    return found


def together(items: Items, baseline: Items) -> tuple[list[ItemResult], list[ItemResult]]:
    """The items that both were asked (the same id, words and picture), in the order of `items`."""
    asked = {_asked(item): item for item in baseline}
    kept = [item for item in items if _asked(item) in asked]
    return kept, [asked[_asked(item)] for item in kept]


def scores(items: Items, baseline: Items) -> dict[str, Any]:
    """`score` by task and over `all` items (accuracy.summarise), and the paired `difference` from the baseline.

    Raises ValueError when the two are not of the same items in the same order.
    """
    tasks = [*sorted({item.task for item in items}), "all"]
    return {
        "score": {**accuracy.summarise(items, lambda item: item.task), **accuracy.summarise(items, lambda _: "all")},
        "difference": {task: _difference(items, baseline, lambda item: item.value, task) for task in tasks},
    }


def changes(items: Items, baseline: Items) -> dict[str, Any]:
    """What else changed, over all items.

    `recovery`: share of the baseline's score that is left; null where it has none. `flips`: items that score `worse`
    and `better` (count, share with its interval), the `same`, and McNemar's p of as many either way. `length`: tokens
    of the answers over those of the baseline's. `empty`, `unparsable`: differences of these rates. `top1_agreement`:
    with the baseline's answers, null where it was not measured.
    """
    _check_paired(items, baseline)
    pictures = [item.image_sha256 for item in items]
    before, after = [item.value for item in baseline], [item.value for item in items]
    tokens_before, tokens_after = ([float(len(item.token_ids)) for item in each] for each in (baseline, items))
    held = [item for item in items if item.compared]
    agreement = (
        intervals.share(
            [item.agreed or 0 for item in held],
            [item.compared or 0 for item in held],
            [item.image_sha256 for item in held],
        )
        if held
        else None
    )
    return {
        "recovery": _as_dict(change.ratio(before, after, pictures, whole=1.0)),
        "flips": flips(before, after, pictures),
        "length": _as_dict(change.ratio(tokens_before, tokens_after, pictures)),
        "empty": _difference(items, baseline, lambda item: item.parsed == "empty"),
        "unparsable": _difference(items, baseline, lambda item: item.parsed == "unparsable"),
        "top1_agreement": _as_dict(agreement),
    }


def flips(before: Sequence[float], after: Sequence[float], pictures: Sequence[str]) -> dict[str, Any]:
    """Items whose score fell and rose, as `changes` says."""
    pairs = list(zip(before, after, strict=True))
    worse, better = [b < a - EQUAL for a, b in pairs], [b > a + EQUAL for a, b in pairs]
    either = sum(worse) + sum(better)
    return {
        "worse": {"count": sum(worse), **change.rate(worse, pictures).as_dict()},
        "better": {"count": sum(better), **change.rate(better, pictures).as_dict()},
        "same": len(pairs) - either,
        "mcnemar": float(stats.binomtest(sum(worse), either).pvalue) if either else 1.0,
    }


def _difference(
    items: Items, baseline: Items, value: Callable[[ItemResult], float], task: str = "all"
) -> dict[str, Any]:
    _check_paired(items, baseline)
    pairs = [pair for pair in zip(baseline, items, strict=True) if task in (pair[1].task, "all")]
    before, after = ([float(value(pair[side])) for pair in pairs] for side in (0, 1))
    return change.difference(before, after, [item.image_sha256 for _, item in pairs]).as_dict()


def _asked(item: ItemResult) -> tuple[str, str, str]:
    return item.id, item.prompt_sha256, item.image_sha256


def _check_paired(items: Items, baseline: Items) -> None:
    if [_asked(item) for item in items] != [_asked(item) for item in baseline]:
        raise ValueError("not paired: the items differ")


def _as_dict(estimate: intervals.Estimate | None) -> dict[str, Any] | None:
    return estimate.as_dict() if estimate else None
