"""What a GPU reaches at best, by torch: `bench.machine_rates` on CUDA. Times are of CUDA events."""

from collections.abc import Callable

import torch

from shipvlm.errors import SetupError

ROUNDS = 5
AT_LEAST = 2**30  # bytes between two events, so that what starting a kernel takes does not count
PRODUCTS = 4  # between two events
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def name() -> str:
    """The GPU's. Raises `SetupError` where torch can use none."""
    if not torch.cuda.is_available():
        raise SetupError("no CUDA device can be used here; choose device cpu, or install a CUDA build of torch")
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.cuda.get_device_name()


def bandwidth(size: int) -> tuple[float, str]:
    """Bytes a second of the best of three ways to go through `size` bytes, and its name."""
    times = max(1, AT_LEAST // size)
    found = []
    for way, arrays in (("copy", 2), ("add", 3), ("dot", 2)):
        parts = [torch.ones(size // arrays // 4, device="cuda") for _ in range(arrays)]
        seconds = _best(_way(way, parts), times)
        found.append((sum(part.nbytes for part in parts) / seconds, way))
    return max(found)


def product(kind: str, side: int) -> tuple[float, str]:
    """Operations a second of the product of two square matrices, and what it was."""
    if kind == "int8":
        left, right = (torch.randint(-100, 100, (side, side), dtype=torch.int8, device="cuda") for _ in range(2))
        transposed = right.t()  # the layout that cuBLAS has INT8 kernels for
        seconds = _best(lambda: torch._int_mm(left, transposed), PRODUCTS)
    else:
        first, second = (torch.randn(side, side, dtype=TYPES[kind], device="cuda") for _ in range(2))
        out = torch.empty_like(first)
        seconds = _best(lambda: torch.mm(first, second, out=out), PRODUCTS)
    return 2 * side**3 / seconds, f"torch {kind} {side} x {side}"


def _way(name: str, parts: list[torch.Tensor]) -> Callable[[], object]:
    if name == "copy":
        return lambda: parts[0].copy_(parts[1])
    if name == "add":
        return lambda: torch.add(parts[0], parts[1], out=parts[2])
    return lambda: torch.dot(parts[0], parts[1])


def _best(run: Callable[[], object], times: int) -> float:
    """Seconds of one `run`, the best of ROUNDS rounds of `times` of them, after an unmeasured round."""
    found = []
    for number in range(ROUNDS + 1):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        for _ in range(times):
            run()
        after.record()
        after.synchronize()
        if number:
            found.append(before.elapsed_time(after) / 1000 / times)
    return min(found)
