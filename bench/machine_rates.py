"""What this machine reaches at best: bytes a second from memory, operations a second in a matrix product; measured.

`python -m bench.machine_rates JOB.json` measures in a fresh process, under three seconds on a CPU; `measure_rates`
starts it. Every rate is the best of what was tried: other work on the machine makes rates too low, nothing makes them
too high. Bandwidth is measured for several sizes, as small models are read from a cache.

CPU: numpy copy, add and dot product on all threads; ONNX Runtime's MatMul in FP32 and FP16 (which it computes in
FP32 where the processor has nothing for it) and MatMulInteger in INT8. CUDA: the same in torch, TF32 off.
"""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Literal

from bench import conditions, process
from bench.observations import Frozen
from bench.serve import serve
from shipvlm.errors import InputError

Kind = Literal["fp32", "fp16", "bf16", "int8"]
MIB = 2**20
CPU_SIZES = (MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB)
CUDA_SIZES = (16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB)
CPU_SIDE, CUDA_SIDE = 1024, 8192  # of the square matrices


class RatesJob(Frozen):
    """What to measure: `kinds` are the types of matrix products, `threads` those of the CPU (None: one a core)."""

    device: Literal["cpu", "cuda"]
    kinds: tuple[Kind, ...]
    threads: int | None = None


class Rate(Frozen):
    """The best of what was tried, a second, and what it was."""

    value: float
    by: str


class Bandwidth(Rate):
    """Bytes a second where `size` bytes are read and written again and again."""

    size: int


class Rates(Frozen):
    """`name` is the processor's or the GPU's; `bandwidth` from the smallest size to the largest; `operations` by type.
    `reasons` say what disturbed the measurement (bench.conditions): then the rates are too low."""

    device: Literal["cpu", "cuda"]
    name: str
    threads: int | None = None
    bandwidth: tuple[Bandwidth, ...]
    operations: dict[Kind, Rate]
    seconds: float
    reasons: tuple[str, ...] = ()

    def bandwidth_of(self, size: int) -> Rate:
        """The rate for `size` bytes: of the largest size measured that is no larger, or the best of larger ones.

        So it is never too low, and what is smaller than all of them gets that of the smallest.
        """
        fitting = [each for each in self.bandwidth if each.size <= size] or [self.bandwidth[0]]
        return max(self.bandwidth[len(fitting) - 1 :], key=lambda each: each.value)

    def operations_of(self, kind: str) -> Rate:
        """The rate of `kind`, or that of FP32 where it is higher: a narrow type can always be computed as a wide one.

        Raises `InputError` where it was not measured.
        """
        if kind not in self.operations:
            raise InputError(f"the rate of {kind} products was not measured: measured are {', '.join(self.operations)}")
        found = [rate for name, rate in self.operations.items() if name in (kind, "fp32")]
        return max(found, key=lambda rate: rate.value)


def measure_rates(device: Literal["cpu", "cuda"], kinds: Sequence[Kind], threads: int | None = None) -> Rates:
    """Measures in a process of its own, so that nothing of it stays in this one. Raises as `bench.process.lines`."""
    from bench.environment import machine  # here: it imports torch

    job = RatesJob(device=device, kinds=tuple(dict.fromkeys(kinds)), threads=threads)
    [line] = process.lines("bench.machine_rates", job, "rates of this machine")
    found = Rates.model_validate_json(line)
    return found if device == "cuda" else found.model_copy(update={"name": machine()["cpu"]})


def measure(job: RatesJob) -> Rates:
    """In this process. `name` is empty for a CPU.

    Raises `InputError` for a type that is not measured on the device, `SetupError` where the device cannot be used.
    """
    start, watch = perf_counter(), conditions.Watch(job.device)
    sizes: tuple[int, ...] = CUDA_SIZES if job.device == "cuda" else CPU_SIZES
    watch.go()
    if job.device == "cuda":
        from bench import cuda_rates

        name = cuda_rates.name()
        found = [cuda_rates.bandwidth(size) for size in sizes]
        products = {kind: cuda_rates.product(kind, CUDA_SIDE) for kind in job.kinds}
    else:
        from bench import cpu_rates

        if other := [kind for kind in job.kinds if kind not in cpu_rates.TYPES]:
            raise InputError(f"{other[0]} products are not measured on a CPU; take one of {', '.join(cpu_rates.TYPES)}")
        name = ""
        found = cpu_rates.bandwidth(sizes, job.threads or len(conditions.own_cores()))
        products = {kind: cpu_rates.product(kind, CPU_SIDE, job.threads) for kind in job.kinds}
    watch.look()
    watch.pause()
    seen = watch.conditions().model_copy(update={"waited": None})  # its own threads wait for each other here
    return Rates(
        device=job.device,
        name=name,
        threads=job.threads,
        bandwidth=tuple(
            Bandwidth(size=size, value=value, by=by) for size, (value, by) in zip(sizes, found, strict=True)
        ),
        operations={kind: Rate(value=value, by=by) for kind, (value, by) in products.items()},
        seconds=perf_counter() - start,
        reasons=conditions.disturbed(seen),
    )


def _serve(job: bytes) -> Iterator[Rates]:
    yield measure(RatesJob.model_validate_json(job))


if __name__ == "__main__":
    serve(_serve)
