"""ONNX Runtime as this project uses it: one provider and no other, errors instead of fallbacks."""

from pathlib import Path
from platform import machine

import numpy as np
import onnxruntime
from onnxruntime import InferenceSession, OrtValue

from shipvlm.errors import InputError, SetupError
from shipvlm.runtime.model import Device

CPU_INFO = Path("/proc/cpuinfo")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(path: Path, device: Device, threads: int | None = None) -> InferenceSession:
    """Load the graph in `path` to run on `device` with `threads` CPU threads an operation (None: one a core).

    Raises `SetupError` where ONNX Runtime cannot use `device`, and `InputError` where it cannot load the graph.
    """
    provider = PROVIDERS[device]
    absent = f"ONNX Runtime cannot use {provider} here; choose device cpu, or install onnxruntime-gpu and its driver"
    if provider not in onnxruntime.get_available_providers():
        raise SetupError(absent)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it logs as an error it also raises
    options.intra_op_num_threads = threads or 0
    # Its threads spin while they wait: two sessions, or any other work on the machine, then starve each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # 0 is no limit: above 1 GiB the head of a large model would be cast from FP16 again at every step.
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", "0")
    # Its default rounds the inputs of weight-only layers to INT8.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    if _saturates(machine(), CPU_INFO.read_text() if CPU_INFO.is_file() else ""):
        options.add_session_config_entry("session.x64quantprecision", "1")
    settings = {"use_tf32": "0"} if device == "cuda" else {}  # FP32 graphs compute in FP32
    try:
        session = InferenceSession(path, options, providers=[(provider, settings)], enable_fallback=False)
    except Exception as error:  # there is a class for each of its status codes, and no common base
        reason = str(error).strip().splitlines()[0].rpartition(" : ")[2]
        raise InputError(
            f"{path}: ONNX Runtime cannot load it ({reason}); if a file is missing or damaged, convert again"
        ) from error
    if session.get_providers()[0] != provider:  # its libraries are there and do not load
        raise SetupError(absent)
    return session


def _saturates(processor: str, cpu_info: str) -> bool:
    """Whether ONNX Runtime's INT8 kernels may add up past 16 bits: x86 without VNNI, or x86 of which too little is
    known. It has slower kernels that do not."""
    return processor.lower() in ("x86_64", "amd64") and not {"avx512_vnni", "avx_vnni"} & set(cpu_info.split())


def to_device(array: np.ndarray, device: Device) -> OrtValue:
    """`array` as a value on `device`: a copy of it, except on the CPU, where the value is the array's own memory."""
    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device)
