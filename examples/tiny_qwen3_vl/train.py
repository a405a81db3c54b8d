"""Trains the default model on one GPU: `python -m examples.tiny_qwen3_vl.train --help`.

Prepared ahead by calib_data.scenes.assets, calib_data.scenes.guard and examples.tiny_qwen3_vl.tokenizer. Interrupt it
at will: the same command goes on from OUT/state.pt. The learning rate follows the share of the planned minutes that is
done, so that an interrupted training ends as planned. Seeds fix the weights at the start and every picture, not the
weights at the end: those depend on how much the machine does in a minute. Ends with FP16 shards in OUT/checkpoint.
"""

import argparse
import copy
import csv
import hashlib
import json
import math
import os
import platform
import queue
import random
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Qwen3VLForConditionalGeneration

from calib_data.leakage import load_fingerprints
from calib_data.scenes.canvas import load_assets
from examples.tiny_qwen3_vl.fast_forward import FastForward
from examples.tiny_qwen3_vl.model_config import model_config
from examples.tiny_qwen3_vl.muon import Muon
from examples.tiny_qwen3_vl.stream import Stream, load_easy_vqa

HERE = Path(__file__).parent
SEED = 20261122
WARMUP = 0.02  # share of the minutes
COOLDOWN = 0.5  # share of the minutes at the end in which the learning rate falls to zero
SHARD_BYTES = 14_000_000
REPLAY = 500  # batches kept on the GPU, drawn from when the processor has no new one ready
SAVE_SECONDS = 180
OWN_CORES = 3
CURVE = ("step", "minutes", "pictures", "replayed", "learning_rate_factor", "loss", "token_accuracy")


def new_model(tokenizer: Tokenizer) -> Qwen3VLForConditionalGeneration:
    torch.manual_seed(SEED)
    config = model_config(tokenizer.get_vocab(with_added_tokens=True))
    return Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.float32).float()


def optimizers(model: torch.nn.Module, lr: float, muon_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks and mergers, AdamW for embeddings, norms and biases."""
    named = list(model.named_parameters())
    embeddings = [p for name, p in named if "embed" in name]
    matrices = [p for name, p in named if "embed" not in name and p.ndim == 2]
    vectors = [p for name, p in named if "embed" not in name and p.ndim != 2]
    groups = [{"params": embeddings, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    both = [adamw, Muon(matrices, lr=muon_lr, weight_decay=0.05)]
    for optimizer in both:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return both


def schedule(share: float) -> float:
    """Factor of the peak learning rate at a share of the planned time: warm-up, plateau, linear fall to zero."""
    return min(1.0, (share + 1e-4) / WARMUP, max(0.0, (1.0 - share) / COOLDOWN))


def answer_loss(hidden: Tensor, head: Tensor, at: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean cross-entropy over answer tokens (`at`: flat places, `target`: ids); the share that is right."""
    logits = (hidden.flatten(0, 1)[at] @ head.to(hidden.dtype).T).float()
    loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
    return loss, (logits.argmax(-1) == target).float().mean()


def to_gpu(batch: dict) -> dict[str, Tensor]:
    """The batch on the GPU; labels as flat places and ids of answer tokens, found here so that no one waits."""
    label = batch["label"].flatten()
    at = (label >= 0).nonzero().flatten()
    tensors = {k: batch[k] for k in ("ids", "branch", "position")} | {"at": at, "target": label[at]}
    longs = {k: v.to("cuda", non_blocking=True).long() for k, v in tensors.items()}
    weight = batch["weight"].flatten()[at].to("cuda", non_blocking=True)
    return longs | {"weight": weight, "pixels": batch["pixels"].to("cuda", non_blocking=True)}


def leave_room(_: int) -> None:
    """Keeps a worker off the first cores, which the process that drives the GPU needs for itself."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[min(OWN_CORES, len(cores) - 1) :])


def in_background(loader: DataLoader) -> queue.Queue:
    """The loader's batches as a queue that can be asked without waiting."""
    ready: queue.Queue = queue.Queue(maxsize=4)

    def fill() -> None:
        for batch in loader:
            ready.put(batch)

    threading.Thread(target=fill, daemon=True).start()
    return ready


def write_shards(model: Qwen3VLForConditionalGeneration, out: Path) -> None:
    """FP16 safetensors in Hugging Face's layout, shards under SHARD_BYTES; the tied head is not stored."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    groups: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if sum(t.nbytes for t in groups[-1].values()) + tensor.nbytes > SHARD_BYTES:
            groups.append({})
        groups[-1][name] = tensor
    files = {}
    for i, group in enumerate(groups, start=1):
        file = f"model-{i:05}-of-{len(groups):05}.safetensors"
        save_file(group, out / file, metadata={"format": "pt"})
        files.update(dict.fromkeys(group, file))
    total = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    config = copy.deepcopy(model.config)
    for part in (config, config.text_config, config.vision_config):
        part.dtype = torch.float16
    config.save_pretrained(out)


class Training:
    """The model, its optimizers and what has been done: what state.pt holds."""

    def __init__(self, tokenizer: Tokenizer, out: Path, lr: float, muon_lr: float):
        self.saved = out / "state.pt"
        self.model = new_model(tokenizer).cuda().train()
        self.forward = FastForward(self.model, torch.compile)
        self.optimizers = optimizers(self.model, lr, muon_lr)
        self.done: dict[str, Any] = {"step": 0, "seconds": 0.0, "pictures": 0, "replayed": 0, "rejected": 0}
        if self.saved.exists():
            loaded = torch.load(self.saved, map_location="cuda", weights_only=True)
            self.model.load_state_dict(loaded["model"])
            for optimizer, values in zip(self.optimizers, loaded["optimizers"], strict=True):
                optimizer.load_state_dict(values)
            self.done = loaded["state"]

    def save(self) -> None:
        values = {"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        torch.save(values | {"state": self.done}, self.saved.with_suffix(".new"))
        self.saved.with_suffix(".new").replace(self.saved)

    def step(self, batch: dict[str, Tensor], factor: float) -> tuple[Tensor, Tensor]:
        """One update at `factor` of the peak learning rate. Returns loss and share of right tokens, on the GPU."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
        hidden = self.forward(batch["pixels"], batch["ids"], batch["branch"], batch["position"], torch.bfloat16)
        loss, right = answer_loss(hidden, self.model.lm_head.weight, batch["at"], batch["target"], batch["weight"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.done["step"] += 1
        return loss.detach(), right.detach()


class Batches:
    """New batches as the processor makes them; while none is ready, one of the last REPLAY again."""

    def __init__(self, stream: Stream, workers: int):
        self.fresh = in_background(
            DataLoader(
                stream,
                batch_size=None,
                num_workers=workers,
                pin_memory=True,
                prefetch_factor=4,
                worker_init_fn=leave_room,
            )
        )
        self.replay: deque[dict[str, Tensor]] = deque([to_gpu(self.fresh.get())], maxlen=REPLAY)
        self.chooser = random.Random(SEED)

    def next(self, done: dict[str, Any]) -> dict[str, Tensor]:
        """A batch on the GPU; counts it in `done`."""
        try:
            batch = self.fresh.get_nowait()
        except queue.Empty:
            again = self.chooser.choice(self.replay)
            done["replayed"] += len(again["pixels"])
            return again
        self.replay.append(to_gpu(batch))
        done["pictures"] += len(batch["pixels"])
        done["rejected"] += int(batch["rejected"])
        return self.replay[-1]


class Curve:
    """training_curve.csv: a row every hundred steps, the mean of what happened in them."""

    def __init__(self, path: Path, step: int):
        """Keeps the rows up to `step`: those after it were written by a run that was cut off before it saved."""
        rows = list(csv.reader(path.open(newline="")))[1:] if path.exists() else []
        self.file = path.open("w", newline="")
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.writer.writerows([CURVE, *(row for row in rows if int(row[0]) <= step)])
        self.file.flush()
        self.losses: list[Tensor] = []
        self.rights: list[Tensor] = []

    def add(self, done: dict[str, Any], factor: float, loss: Tensor, right: Tensor) -> None:
        """Raises SystemExit when the loss is not finite."""
        self.losses.append(loss)
        self.rights.append(right)
        if len(self.losses) < 100:
            return
        mean, accuracy = (torch.stack(values).mean().item() for values in (self.losses, self.rights))
        self.losses, self.rights = [], []
        if not math.isfinite(mean):
            raise SystemExit("the loss is not finite: lower --lr and --muon-lr")
        minutes = done["seconds"] / 60
        row = (done["step"], f"{minutes:.3f}", done["pictures"], done["replayed"])
        self.writer.writerow((*row, f"{factor:.4f}", f"{mean:.4f}", f"{accuracy:.4f}"))
        self.file.flush()
        print(f"{done['step']:6} {minutes:6.2f} min  loss {mean:.4f}  tokens right {accuracy:.3f}", flush=True)


def train(a: argparse.Namespace) -> None:
    began = time.monotonic()
    torch._dynamo.config.recompile_limit = 64  # batch and length become dynamic; a few sizes are special
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for each shape, and shapes change with every batch
    a.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    guard = load_fingerprints(a.guard)
    easy, left_out = load_easy_vqa(guard)
    training = Training(tokenizer, a.out, a.lr, a.muon_lr)
    done = training.done
    print(f"easy-VQA: {len(easy.pictures)} pictures, {left_out} near-duplicates of evaluation left out; from {done}")
    batches = Batches(Stream(load_assets(a.assets), easy, tokenizer, guard, SEED, start=done["step"]), a.workers)
    curve = Curve(a.out / "training_curve.csv", done["step"])
    before, started, saved = done["seconds"], time.monotonic(), time.monotonic()
    while True:
        done["seconds"] = before + time.monotonic() - started
        share = done["seconds"] / 60 / a.minutes
        if share >= 1 or (time.monotonic() - began) / 60 >= a.stop_after:
            break
        factor = schedule(share)
        curve.add(done, factor, *training.step(batches.next(done), factor))
        if time.monotonic() - saved > SAVE_SECONDS:
            training.save()
            saved = time.monotonic()
    training.save()
    write_shards(training.model, a.out / "checkpoint")
    summary = {
        "machine": f"one {torch.cuda.get_device_name()} and {os.cpu_count()} CPU cores",
        "minutes": round(done["seconds"] / 60, 2),
        "planned_minutes": a.minutes,
        "steps": done["step"],
        "pictures": done["pictures"],
        "replayed": done["replayed"],
        "near_duplicates_rejected": done["rejected"],
        "guard_sha256": hashlib.sha256(a.guard.read_bytes()).hexdigest(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "easy_vqa_left_out": left_out,
        "workers": a.workers,
        "seed": SEED,
        "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }
    (a.out / "training.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="what calib_data.scenes.assets wrote")
    parser.add_argument("--guard", type=Path, required=True, help="what calib_data.scenes.guard wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0, help="training time planned in all")
    parser.add_argument("--stop-after", type=float, default=1e9, help="minutes after which this call ends")
    parser.add_argument("--workers", type=int, default=13, help="processes that make pictures")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate of AdamW")
    parser.add_argument("--muon-lr", type=float, default=6e-3, help="peak learning rate of Muon")
    train(parser.parse_args())
    os._exit(0)  # not waiting for the loader's workers, who wait for their queue to be read


if __name__ == "__main__":
    main()
