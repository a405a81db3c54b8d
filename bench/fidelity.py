"""How close a model stays to its baseline, token by token: far tighter evidence than task scores.

Teacher-forced: the baseline's own greedy answer is put after the prompt, and both models say at each of its tokens
what should come there. Only answer tokens count, the end token among them where the answer ended by itself.

    top-1 agreement = share of tokens at which both have the same most likely token
    KL = sum_v p_baseline(v) (log p_baseline(v) - log p_model(v)), in nats
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress
from transformers import BatchFeature

from bench import intervals
from bench.accuracy import BATCH_SIZE, MAX_NEW_TOKENS, ItemResult, answer, append_log, ask, batches, read_log
from bench.vision import shared_vision
from calib_data.records import Record
from shipvlm.runtime.checkpoint import Checkpoint, prepare


@dataclass(frozen=True)
class Agreement:
    """Of one answer: tokens compared, tokens with the same most likely token, sum of KL in nats."""

    compared: int
    agreed: int
    kl: float


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


def answer_logits(checkpoint: Checkpoint, inputs: BatchFeature, answers: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """What the model says at each token of each answer, all tokens before it given: [tokens, vocabulary] an answer.

    `inputs` are left-padded prompts (shipvlm.runtime.checkpoint.prepare); every answer has at least one token.
    """
    longest = max(len(ids) for ids in answers)
    device = inputs["input_ids"].device
    tokens = torch.zeros(len(answers), longest, dtype=torch.long, device=device)
    mask = torch.zeros_like(tokens)
    for row, ids in enumerate(answers):
        tokens[row, : len(ids)] = torch.tensor(ids, device=device)
        mask[row, : len(ids)] = 1
    forced = {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], tokens], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], mask], 1),
        "mm_token_type_ids": torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tokens)], 1),
    }
    with torch.inference_mode():
        logits = checkpoint.model(**forced, logits_to_keep=longest + 1, use_cache=False).logits
    return [logits[row, : len(ids)] for row, ids in enumerate(answers)]


def compare(baseline: torch.Tensor, model: torch.Tensor) -> Agreement:
    """Two [tokens, vocabulary] logits of any float dtype; computed in float64."""
    left, right = baseline.double().log_softmax(-1), model.double().log_softmax(-1)
    kl = (left.exp() * (left - right)).sum()
    agreed = (baseline.argmax(-1) == model.argmax(-1)).sum()
    return Agreement(len(baseline), int(agreed), max(0.0, float(kl)))


def summarise(items: Sequence[ItemResult]) -> dict[str, dict[str, float | int | None]]:
    """Top-1 agreement and KL a token, with 95 % intervals over items."""
    compared = [item.compared or 0 for item in items]
    return {
        "top1_agreement": intervals.share([item.agreed or 0 for item in items], compared).as_dict(),
        "kl": intervals.weighted_mean([item.kl or 0.0 for item in items], compared).as_dict(),
    }


def _measure_batch(
    checkpoints: Mapping[str, Checkpoint],
    batch: Sequence[Record],
    runs: Mapping[str, str],
    max_new_tokens: int,
    done: Mapping[str, Mapping[str, ItemResult]],
) -> dict[str, list[ItemResult]]:
    """Measures what is missing of one batch. It is always computed whole, so that an answer does not depend on
    when a run was cut off."""
    missing = {name for name in checkpoints if any(record.id not in done[name] for record in batch)}
    results: dict[str, list[ItemResult]] = {}
    forced: list[list[int]] = []
    reference: list[torch.Tensor] = []
    for name, checkpoint in checkpoints.items():
        if not missing or (reference and name not in missing):
            continue
        with shared_vision([checkpoint.model]):
            if name in missing:
                items = answer(checkpoint, batch, runs[name], max_new_tokens)
            else:
                items = [done[name][record.id] for record in batch]
            if not forced:
                end = checkpoint.processor.tokenizer.eos_token_id
                forced = [[*item.token_ids, end][:max_new_tokens] for item in items]
            logits = answer_logits(checkpoint, prepare(checkpoint, [ask(record) for record in batch]), forced)
        reference = reference or logits
        results[name] = [
            item.model_copy(update=vars(compare(left, right)))
            for item, left, right in zip(items, reference, logits, strict=True)
        ]
    return results
