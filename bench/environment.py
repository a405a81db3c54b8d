"""What a measurement was made with and on: digests of model and data, library versions, the machine. No host name."""

import os
import platform
from collections import Counter
from collections.abc import Sequence
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from calib_data.records import Record, digest
from shipvlm.folder import weight_files

LIBRARIES = ("torch", "transformers", "compressed-tensors", "safetensors", "tokenizers", "pillow", "numpy", "scipy")
# Everything that decides what a checkpoint answers, beside its weights.
BEHAVIOUR_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 over the weights and the files that decide how the checkpoint answers."""
    whole = sha256()
    for path in [*weight_files(folder), *(folder / name for name in BEHAVIOUR_FILES)]:
        if path.is_file():
            with path.open("rb") as file:
                whole.update(f"{path.name}\0{file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def describe_data(records: Sequence[Record]) -> dict[str, Any]:
    """Records by task, source and licence, with their digest."""
    counts = {field: dict(sorted(Counter(getattr(r, field) for r in records).items())) for field in ("task", "source")}
    licences = {source: sorted({r.licence for r in records if r.source == source}) for source in counts["source"]}
    return {"records": len(records), **counts, "licences": licences, "digest": digest(records)}


def describe_weights(folder: Path) -> dict[str, Any]:
    """Bytes of the weight files, and how many values of each stored type they hold."""
    types: Counter[str] = Counter()
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                part = file.get_slice(name)
                types[part.get_dtype()] += torch.Size(part.get_shape()).numel()
    return {"bytes": sum(path.stat().st_size for path in weight_files(folder)), "values": dict(sorted(types.items()))}


def machine() -> dict[str, Any]:
    """Processor, its cores that this process may use, threads of torch, system."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def libraries() -> dict[str, str]:
    """Installed versions of what the numbers depend on."""
    return {name: version(name) for name in LIBRARIES}


def run_key(*parts: str) -> str:
    """A short name for everything that decides a result: lines of another key are never reused."""
    return sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
