"""What a measurement was made with and on: digests of model and data, library versions, the machine. No host name."""

import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest, sha256
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from bench import nvml
from calib_data.records import Record, digest
from shipvlm.errors import InputError
from shipvlm.folder import GRAPHS, weight_files

LIBRARIES = ("torch", "transformers", "compressed-tensors", "safetensors", "tokenizers", "pillow", "numpy", "scipy")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
BESIDE = ("bitsandbytes", "triton")
READERS = 4  # files that are read at once
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


def model_files(folder: Path) -> list[Path]:
    """What holds the numbers of a model: the weights of a checkpoint, or a graph set's graphs and their data.

    Raises InputError where there are none.
    """
    if not (folder / GRAPHS).is_file():
        return weight_files(folder)
    graphs = sorted(folder.glob("*.onnx"))
    if not graphs:
        raise InputError(f"{folder}: has {GRAPHS} but no *.onnx; convert the checkpoint again")
    return [folder / GRAPHS, *graphs, *sorted(folder.glob("*.onnx.data"))]


def model_digest(folder: Path) -> str:
    """SHA-256 over the model's own files and those that decide how it answers."""
    paths = [*model_files(folder), *(folder / name for name in BEHAVIOUR_FILES)]
    paths = [path for path in paths if path.is_file()]
    with ThreadPoolExecutor(READERS) as pool:
        digests = pool.map(_file_digest, paths)
        lines = [f"{path.name}\0{digest}\n" for path, digest in zip(paths, digests, strict=True)]
    return sha256("".join(lines).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def describe_data(records: Sequence[Record]) -> dict[str, Any]:
    """Records by task, source and licence, with their digest."""
    counts = {field: dict(sorted(Counter(getattr(r, field) for r in records).items())) for field in ("task", "source")}
    licences = {source: sorted({r.licence for r in records if r.source == source}) for source in counts["source"]}
    return {"records": len(records), **counts, "licences": licences, "digest": digest(records)}


def describe_weights(folder: Path) -> dict[str, Any]:
    """Bytes of the model's files; how many values of each type a checkpoint stores, or what a graph set says it is."""
    size = sum(path.stat().st_size for path in model_files(folder))
    if (folder / GRAPHS).is_file():
        declared = json.loads((folder / GRAPHS).read_bytes())
        return {"bytes": size, **{name: declared.get(name) for name in ("precision", "scheme")}}
    types: Counter[str] = Counter()
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                part = file.get_slice(name)
                types[part.get_dtype()] += torch.Size(part.get_shape()).numel()
    return {"bytes": size, "values": dict(sorted(types.items()))}


def machine() -> dict[str, Any]:
    """Processor, its cores that this process may use, threads of torch, memory in bytes, GPUs by name, system."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": nvml.names(),  # torch would take memory of the device to say it
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def libraries(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Installed versions of what the numbers depend on; a package that is not installed is left out."""
    installed = {distribution.name.lower() for distribution in distributions()}
    return {name: version(name) for name in names if name in installed}


def stack() -> dict[str, str]:
    """What may have run, for the record: `libraries`, and on a GPU CUDA, cuDNN and the driver. Of two packages of ONNX
    Runtime, which share a folder, the one that Python imports."""
    found = libraries([*LIBRARIES, *RUNTIMES, *BESIDE])
    if set(RUNTIMES) <= set(found):
        import onnxruntime

        found = {name: v for name, v in found.items() if name not in RUNTIMES or v == onnxruntime.__version__}
    if nvml.names():
        parts = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": nvml.device().driver}
        found |= {name: str(value) for name, value in parts.items() if value is not None}
    return found


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
