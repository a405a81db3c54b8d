"""A checkpoint becomes a graph set: `vision.onnx`, `decoder.onnx` and what says what they are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from convert.builder import FLOATS, OPSET, Precision
from convert.decoder import build_decoder
from convert.quantized import Scheme, check_tensors, scheme_of, unpacked
from convert.tensors import checkpoint_tensors
from convert.vision import build_vision
from shipvlm.errors import ExecutionError, InputError
from shipvlm.families.qwen3_vl.shape import Shape, read_shape
from shipvlm.folder import GRAPHS, MODEL_TYPE, check_folder, copy_side_files, make_folder
from shipvlm.stages import Progress

BUILDERS = {"vision": build_vision, "decoder": build_decoder}


def export_graphs(source: Path, out: Path, precision: Precision, progress: Progress | None = None) -> dict[str, Any]:
    """Write the checkpoint in `source` as a graph set to the empty folder `out`, made where it is missing.

    `precision` is the type of the graphs' float inputs and outputs and of their arithmetic; weights stay as small as
    the checkpoint has them. All scales are the checkpoint's. Tensors are read, written and forgotten one by one.
    Returns what `graphs.json` holds and, of each graph, its nodes by operator and the bytes of its files.
    Raises `InputError` for a checkpoint that is none, is not of the covered architecture, or is quantized in a way that
    is not covered, and for an `out` that is not empty; `ExecutionError` when the checker of onnx refuses a graph.
    """
    config = check_folder(source)
    shape, scheme = read_shape(config), scheme_of(config)
    tensors = checkpoint_tensors(source)
    check_tensors(shape, tensors, scheme)
    report = write_graphs(shape, unpacked(shape, tensors, scheme), out, precision, scheme, tuple(BUILDERS), progress)
    copy_side_files(source, out)
    return report


def write_graphs(
    shape: Shape,
    tensors: Mapping[str, ir.TensorProtocol],
    out: Path,
    precision: Precision,
    scheme: Scheme | None,
    names: tuple[str, ...],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the graphs `names` (keys of `BUILDERS`) with the weights `tensors`, and `graphs.json`, to the folder `out`.

    Returns and raises what `export_graphs` does.
    """
    if precision not in FLOATS:
        raise InputError(f"precision is {precision!r}; choose one of {', '.join(FLOATS)}")
    make_folder(out)
    if any(out.iterdir()):
        raise InputError(f"{out} is not empty: give the name of a folder that is, or that does not exist")
    contract = {
        "schema_version": 1,
        "family": MODEL_TYPE,
        "precision": precision,
        "deepstack_levels": len(shape.vision.deepstack),
        "scheme": scheme and scheme.name,
        "opset": OPSET,
    }
    models = {name: BUILDERS[name](shape, tensors, precision) for name in names}
    (out / GRAPHS).write_text(json.dumps(contract, indent=2) + "\n", encoding="utf-8")
    return contract | {"graphs": {name: _write(model, name, out, progress) for name, model in models.items()}}


def _write(model: ir.Model, name: str, out: Path, progress: Progress | None) -> dict[str, Any]:
    path, data = out / f"{name}.onnx", f"{name}.onnx.data"
    done = 0

    def count(_: object, info: Any) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(f"export {name}", done, info.total)

    try:
        ir.save(model, path, external_data=data, callback=count)
    except ir.serde.SerdeError as error:  # around what was raised when a small tensor was read
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from error
    try:
        onnx.checker.check_model(path, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExecutionError(f"{path.name}: the checker of onnx refuses the exported graph: {error}") from error
    kinds: dict[str, int] = {}
    for node in model.graph:
        kinds[node.op_type] = kinds.get(node.op_type, 0) + 1
    files = [path, *([out / data] if (out / data).exists() else [])]
    return {"nodes": dict(sorted(kinds.items())), "bytes": sum(file.stat().st_size for file in files)}
