"""Which scheme runs fast where: one table, each line with its evidence. What is not in it, or is slow, is refused.

`fast` is faster than the FP16 original. On a processor it is what `shipvlm bench shape qwen3-vl-2b` showed on two cores
with VNNI (docs/results.md). Times on an H100 were taken in November 2026 with the shape of Qwen3-VL-8B and random
weights: those of w4a16 in ONNX Runtime are docs/results/qwen3-vl-8b-h100, the others were taken outside of this
repository (ONNX Runtime 1.31.1: 8 decoder layers, plain runs, scaled to 36, without the head; vLLM 0.24.0: all of it).
So was the time of one w8a16 Linear on a processor. `unmeasured` loads, by its documentation, but nobody timed it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from shipvlm.recipe import Device, Runtime, Scheme

Verdict = Literal["fast", "unmeasured", "slow", "refused"]
DEVICES: tuple[Device, ...] = get_args(Device)
GPUS = DEVICES[1:]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


@dataclass(frozen=True)
class Scale:
    """How a scheme stores weights: bits of a number, and input columns that share a scale (None: all of a row)."""

    bits: int
    group: int | None
    activations: bool  # of the Linears' inputs too, static, one scale a tensor


SCALES: dict[Scheme, Scale] = {
    "w8a8-static": Scale(8, None, activations=True),
    "w8a16": Scale(8, None, activations=False),
    "w4a16": Scale(4, 128, activations=False),
}


@dataclass(frozen=True)
class Line:
    """What one runtime does with one scheme on some devices, and how that is known."""

    scheme: Scheme
    runtime: Runtime
    devices: tuple[Device, ...]
    verdict: Verdict
    reason: str


BLOCKS = "block-wise DequantizeLinear is fused to MatMulNBits: "
RTX_BLOCKS = "block-wise DequantizeLinear is accepted and builds; no time was taken"
UNPACKED = "loads through compressed-tensors, which turns the integers back into floats: it saves disk, not time"
NOT_COVERED = "not covered here"
RTX_HOPPER = "TensorRT-RTX engines run on compute capability 8.0, 8.6, 8.9 and 12.x only"

TABLE: tuple[Line, ...] = (
    Line(
        "w8a8-static",
        "onnxruntime",
        ("cpu",),
        "fast",
        "Q/DQ is fused to integer products, where the processor has VNNI",
    ),
    Line(
        "w8a8-static",
        "onnxruntime",
        GPUS,
        "slow",
        "the CUDA provider does not fuse static Q/DQ: 36 ms a token on an H100 where FP16 takes 11",
    ),
    Line(
        "w8a8-static",
        "tensorrt-rtx",
        ("ampere", "ada", "blackwell"),
        "unmeasured",
        "static scales a tensor and weights a channel are its contract; the graph builds for it, no time was taken",
    ),
    Line("w8a8-static", "tensorrt-rtx", ("turing", "hopper"), "refused", RTX_HOPPER),
    Line(
        "w8a8-static",
        "vllm",
        ("turing", "ampere", "ada", "hopper"),
        "unmeasured",
        "its INT8 kernels take static scales; measured on an H100 is the dynamic form: 5.0 ms a token, FP16 7.1",
    ),
    Line("w8a8-static", "vllm", ("blackwell",), "refused", "it has no INT8 product for compute capability 10.0 and up"),
    Line(
        "w8a8-static",
        "sglang",
        ("turing", "ampere", "ada", "hopper"),
        "unmeasured",
        "lists W8A8Int8 in compressed-tensors format",
    ),
    Line("w8a8-static", "transformers", DEVICES, "slow", UNPACKED),
    Line(
        "w8a16",
        "onnxruntime",
        ("cpu",),
        "slow",
        BLOCKS + "its activations stay in floats, and then one Linear (2048 x 6144, 2 cores) took twice FP32's time",
    ),
    Line(
        "w8a16",
        "onnxruntime",
        ("hopper",),
        "fast",
        BLOCKS + "9.8 ms a token on an H100, FP16 11.2; prefill is no faster",
    ),
    Line(
        "w8a16",
        "onnxruntime",
        ("turing", "ampere", "ada", "blackwell"),
        "unmeasured",
        BLOCKS + "faster than FP16 on an H100, not timed here",
    ),
    Line("w8a16", "tensorrt-rtx", ("ampere", "ada", "blackwell"), "unmeasured", RTX_BLOCKS),
    Line("w8a16", "tensorrt-rtx", ("turing", "hopper"), "refused", RTX_HOPPER),
    Line(
        "w8a16",
        "vllm",
        ("turing", "ampere", "ada", "hopper", "blackwell"),
        "unmeasured",
        "takes pack-quantized weights; measured on an H100 is the form in groups of 128: 5.8 ms a token, FP16 7.1",
    ),
    Line("w8a16", "sglang", GPUS, "unmeasured", "lists WNA16 in compressed-tensors format"),
    Line("w8a16", "transformers", DEVICES, "slow", UNPACKED),
    Line(
        "w4a16",
        "onnxruntime",
        ("cpu",),
        "unmeasured",
        BLOCKS + "its activations stay in floats; decode reads an eighth of FP32's bytes",
    ),
    Line(
        "w4a16",
        "onnxruntime",
        ("hopper",),
        "fast",
        BLOCKS + "8.4 ms a token on an H100, FP16 in transformers 41, as graphs 9.7, of which it cannot be told apart; "
        "the first token takes longer: 34 ms, FP16 graphs 26",
    ),
    Line(
        "w4a16",
        "onnxruntime",
        ("turing", "ampere", "ada", "blackwell"),
        "unmeasured",
        BLOCKS + "not timed; on an H100 faster than FP16 in transformers, not shown to be so of FP16 graphs",
    ),
    Line("w4a16", "tensorrt-rtx", ("ampere", "ada", "blackwell"), "unmeasured", RTX_BLOCKS),
    Line("w4a16", "tensorrt-rtx", ("turing", "hopper"), "refused", RTX_HOPPER),
    Line(
        "w4a16",
        "vllm",
        ("hopper",),
        "fast",
        "on an H100 4.9 ms a token, FP16 7.1; reading a picture takes longer: 120 ms to the first token, FP16 104",
    ),
    Line("w4a16", "vllm", ("turing", "ampere", "ada", "blackwell"), "unmeasured", "takes pack-quantized weights"),
    Line("w4a16", "sglang", GPUS, "unmeasured", "lists WNA16 in compressed-tensors format"),
    Line("w4a16", "transformers", DEVICES, "slow", UNPACKED),
)


def lookup(scheme: Scheme, runtime: Runtime, device: Device) -> Line:
    """The line of the table; a refusal where it has none."""
    for line in TABLE:
        if (line.scheme, line.runtime) == (scheme, runtime) and device in line.devices:
            return line
    return Line(scheme, runtime, (device,), "refused", NOT_COVERED)


def nearest(scheme: Scheme, runtime: Runtime, device: Device) -> Line | None:
    """What to take instead of a line that is slow or refused: another scheme there, else another runtime on the device.

    A fast line comes before an unmeasured one. None when nothing serves on this device.
    """
    there = [lookup(other, runtime, device) for other in SCHEMES]
    elsewhere = [lookup(other, place, device) for other in (scheme, *SCHEMES) for place in RUNTIMES]
    for lines in (there, elsewhere):
        for verdict in ("fast", "unmeasured"):
            if found := next((line for line in lines if line.verdict == verdict), None):
                return found
    return None
