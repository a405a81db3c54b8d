"""What a processor reaches at best, by numpy and ONNX Runtime: `bench.machine_rates` on a CPU."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter

import numpy as np

MIB = 2**20
# By kind: ONNX's operator, and the types of its factors and of its result.
TYPES: dict[str, tuple[str, type, type, type]] = {
    "fp32": ("MatMul", np.float32, np.float32, np.float32),
    "fp16": ("MatMul", np.float16, np.float16, np.float16),
    "int8": ("MatMulInteger", np.uint8, np.int8, np.int32),
}
BANDWIDTH_SECONDS = 0.04  # for each size and way
PRODUCT_SECONDS = 0.25  # for each type
LEAST = 8 * MIB  # bytes between two looks at the clock


def bandwidth(sizes: Sequence[int], threads: int) -> list[tuple[float, str]]:
    """For each of `sizes` bytes, the bytes a second of the best of three ways to go through them, and its name."""
    memory = np.ones(max(sizes) // 4, np.float32)
    with ThreadPoolExecutor(threads) as pool:
        return [_ways(memory[: size // 4], pool, threads) for size in sizes]


def product(kind: str, side: int, threads: int | None) -> tuple[float, str]:
    """Operations a second of ONNX Runtime's product of two square matrices."""
    import onnxruntime
    from onnx import helper, numpy_helper

    operator, left, right, result = TYPES[kind]
    draw = np.random.default_rng(0)
    matrix: np.ndarray = draw.integers(0, 100, (side, side)).astype(left)
    weight = numpy_helper.from_array(draw.integers(-100, 100, (side, side)).astype(right), "weight")
    shape = (side, side)
    given, made = (helper.np_dtype_to_tensor_dtype(np.dtype(each)) for each in (left, result))
    graph = helper.make_graph(
        [helper.make_node(operator, ["matrix", "weight"], ["product"])],
        "product",
        [helper.make_tensor_value_info("matrix", given, shape)],
        [helper.make_tensor_value_info("product", made, shape)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    seconds = _best(lambda: session.run(None, {"matrix": matrix}), PRODUCT_SECONDS)
    return 2 * side**3 / seconds, f"ONNX Runtime {operator} {side} x {side}"


def _ways(memory: np.ndarray, pool: ThreadPoolExecutor, threads: int) -> tuple[float, str]:
    """The best of three ways to go through `memory`, each thread through its own part."""
    ways: dict[str, tuple[int, Callable[..., object]]] = {
        "copy": (2, np.copyto),
        "add": (3, lambda left, right, out: np.add(left, right, out=out)),
        "dot": (2, np.dot),
    }
    found = []
    for name, (arrays, way) in ways.items():
        part = len(memory) // arrays // threads
        parts = [
            [memory[(thread * arrays + place) * part :][:part] for place in range(arrays)] for thread in range(threads)
        ]
        passes = max(1, LEAST // memory.nbytes)

        def go(part: Sequence[np.ndarray], way: Callable[..., object] = way, passes: int = passes) -> None:
            for _ in range(passes):
                way(*part)

        used = passes * part * arrays * threads * memory.itemsize
        found.append((used / _best(partial(_all, pool, go, parts), BANDWIDTH_SECONDS), name))
    return max(found)


def _all(pool: ThreadPoolExecutor, go: Callable[..., object], parts: Sequence[list[np.ndarray]]) -> None:
    for _ in pool.map(go, parts):
        pass


def _best(run: Callable[[], object], seconds: float) -> float:
    """The shortest of the runs that begin within `seconds`, at least two after an unmeasured one."""
    run()
    end, times = perf_counter() + seconds, list[float]()
    while len(times) < 2 or perf_counter() < end:
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return min(times)
