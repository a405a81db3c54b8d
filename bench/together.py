"""Several checkpoints in one process, batch by batch beside each other: scores, and fidelity to the first of them.

For checkpoints that exist only in memory. What serves is measured by bench.run, each variant in its own process.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import Progress

from bench import fidelity, intervals, pairs
from bench.accuracy import BATCH_SIZE, MAX_NEW_TOKENS, ItemResult, answer, append_log, ask, batches, read_log
from bench.vision import shared_vision
from calib_data.records import Record
from shipvlm.runtime.checkpoint import Checkpoint

Done = Mapping[str, Mapping[str, ItemResult]]


def measure(
    checkpoints: Mapping[str, Checkpoint],
    records: Sequence[Record],
    folder: Path,
    runs: Mapping[str, str],
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Progress | None = None,
) -> dict[str, list[ItemResult]]:
    """Answers of every checkpoint to `records`, scored, and held token by token against the first, the baseline.

    All see the same batches, one after the other. One line an item goes to `folder/<name>.jsonl`; a later call with
    the same `runs[name]` (whatever identifies model, baseline, data and settings) continues there. The results are in
    the order of `records`.
    """
    logs = {name: folder / f"{name}.jsonl" for name in checkpoints}
    done = {name: read_log(log, runs[name], records) for name, log in logs.items()}
    bar = progress.add_task(" ".join(checkpoints), total=len(records)) if progress else None
    for batch in batches(records, batch_size):
        for name, made in _measure_batch(checkpoints, batch, runs, max_new_tokens, done).items():
            new = [item for item in made if item.id not in done[name]]
            done[name].update((item.id, item) for item in new)
            append_log(logs[name], new)
        if progress and bar is not None:
            progress.advance(bar, len(batch))
    return {name: [items[record.id] for record in records] for name, items in done.items()}


def summarise(items: Sequence[ItemResult], baseline: Sequence[ItemResult]) -> dict[str, Any]:
    """Scores by task and over all items, paired differences from `baseline`; top-1 agreement with it and KL a token,
    with 95 % intervals over items; seconds an answer."""
    compared = [item.compared or 0 for item in items]
    return {
        **pairs.scores(items, baseline),
        "top1_agreement": intervals.share([item.agreed or 0 for item in items], compared).as_dict(),
        "kl": intervals.weighted_mean([item.kl or 0.0 for item in items], compared).as_dict(),
        "seconds_per_answer": median(item.seconds for item in items),
    }


def _measure_batch(
    checkpoints: Mapping[str, Checkpoint],
    batch: Sequence[Record],
    runs: Mapping[str, str],
    max_new_tokens: int,
    done: Done,
) -> dict[str, list[ItemResult]]:
    """Measures what is missing of one batch. It is always computed whole, so that an answer does not depend on
    when a run was cut off."""
    missing = {name for name in checkpoints if any(record.id not in done[name] for record in batch)}
    results: dict[str, list[ItemResult]] = {}
    known: list[fidelity.Forced] = []
    references: list[fidelity.Reference] = []
    for name, checkpoint in checkpoints.items():
        if not missing or (references and name not in missing):
            continue
        ends, asked = checkpoint.end_ids, [ask(record) for record in batch]
        with shared_vision([checkpoint.model]):
            if name in missing:
                items = answer(checkpoint, batch, runs[name], max_new_tokens)
            else:
                items = [done[name][record.id] for record in batch]
            known = known or [fidelity.Forced(item.token_ids, len(item.token_ids) < max_new_tokens) for item in items]
            logits = fidelity.forced(checkpoint, asked, known)
        references = references or [
            fidelity.reference(each, forced, ends, whole=True) for each, forced in zip(logits, known, strict=True)
        ]
        results[name] = [
            item.model_copy(update=_sums(fidelity.hold(reference, each, forced, ends)))
            for item, reference, each, forced in zip(items, references, logits, known, strict=True)
        ]
    return results


def _sums(held: fidelity.Fidelity) -> dict[str, Any]:
    return {"compared": len(held.kl), "agreed": sum(held.same), "kl": sum(held.kl)}
