"""Bytes and operations of a model by stage: what the least possible time follows from (bench.roofline).

Counted is what no implementation can do without. Bytes: each weight once a run, in the type in which it lies in
memory; of an embedding the rows that are looked up; each entry of the KV cache once, those that are there read, the
new ones written. What passes between operators is taken to stay on the chip. Operations: two for each multiply-add of
a matrix product or of attention, and of attention only what the mask lets through; nothing for any other operator.
So a count is a least amount, and what follows from it a bound.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import reduce
from operator import add
from pathlib import Path

from bench.graph_counts import count_graph, read_graph
from bench.work import Count, Work
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.layers import DECODER_LAYERS, decoder_groups
from shipvlm.families.qwen3_vl.parameters import EMBEDDING, HEAD, VISION, parameter_shapes
from shipvlm.families.qwen3_vl.shape import Shape, read_shape
from shipvlm.folder import GRAPHS, check_folder, check_side_files
from shipvlm.runtime.model import Engine
from shipvlm.sizes import Header, read_headers

STAGES = ("vision", "prefill", "decode")
FLOATS = {"float32": ("fp32", 4), "float16": ("fp16", 2), "bfloat16": ("bf16", 2)}  # kind of operation, bytes a value
STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names
ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1}
POSITIONS = f"{VISION}pos_embed.weight"
# Bytes of a Linear [rows, columns] as bitsandbytes holds it: a scale in FP32 for each row, or for each 64 values.
BITSANDBYTES: dict[Engine, Callable[[int, int], int]] = {
    "bnb-int8": lambda rows, columns: rows * columns + 4 * rows,
    "bnb-nf4": lambda rows, columns: rows * columns // 2 + 4 * (rows * columns // 64),
}
PARTS = ("weight", "weight_packed", "weight_scale", "weight_zero_point", "input_scale", "weight_shape")


def count(folder: Path, work: Work, dtype: str | None = None, engine: Engine = "transformers") -> dict[str, Count]:
    """By stage, without a stage that `work` does not have. decode: one step with the cache of an average step.

    A graph set is counted from its graphs, a checkpoint from the headers of its files. `dtype` is what a checkpoint
    computes in (None: its stored type). Its quantized Linears count as they are stored, as for a server that has
    kernels for them: transformers itself unpacks them. With bitsandbytes as `engine` they count as it holds them.
    Raises `InputError` for a folder that is neither, or graphs with operators that nobody counts here.
    """
    if (folder / GRAPHS).is_file():
        check_side_files(folder)
        return count_graphs(folder, work)
    shape = read_shape(check_folder(folder))
    headers = read_headers(folder)
    stored, integer = parameter_bytes(shape, headers, dtype), int8_products(headers)
    if engine in BITSANDBYTES:
        linears = {name: size for name, size in parameter_shapes(shape).items() if name in linear_weights(shape)}
        stored |= {name: BITSANDBYTES[engine](rows, columns) for name, (rows, columns) in linears.items()}
        integer = set(linears) if engine == "bnb-int8" else set()
    return count_parameters(shape, stored, work, dtype or stored_type(headers), integer)


def count_graphs(folder: Path, work: Work) -> dict[str, Count]:
    """As `count`, of the graph set in `folder`; the vision graph runs once for each picture."""
    found = {}
    if work.patches:
        one = count_graph(read_graph(folder / "vision.onnx"), {"patches": work.patches})
        found["vision"] = reduce(add, [one] * work.batch)
    decoder = read_graph(folder / "decoder.onnx")
    sizes = {"batch": work.batch, "rows": work.batch, "image_tokens": max(1, work.patches)}
    prompt = {"sequence": work.prompt_tokens, "max_length": work.prompt_tokens}
    found["prefill"] = count_graph(decoder, sizes | prompt)
    if work.answer_tokens > 1:
        found["decode"] = count_graph(decoder, sizes | {"sequence": 1, "max_length": work.past + 1}, work.past)
    return found


def count_parameters(
    shape: Shape, stored: Mapping[str, int], work: Work, dtype: str, integer: Collection[str] = ()
) -> dict[str, Count]:
    """As `count`, of a model of `shape` that computes in `dtype`, but the products of the weights `integer` in INT8;
    each parameter has `stored` bytes.

    The tower runs once over all pictures of a batch, as in transformers.
    """
    text, tower, sizes = shape.text, shape.vision, parameter_shapes(shape)
    kind, item = FLOATS[dtype]
    tokens, pairs = work.batch * work.prompt_tokens, work.batch * work.prompt_tokens * (work.prompt_tokens + 1) // 2
    width, entry = text.heads * text.head_dim, 2 * text.layers * text.kv_heads * text.head_dim * item
    head = EMBEDDING if text.tied else HEAD
    layers = {name for name in sizes if name.startswith(DECODER_LAYERS)}
    decoder = [name for name in sizes if not name.startswith(VISION) and name not in (EMBEDDING, HEAD)]

    def rows(name: str, looked_up: int) -> int:
        """Bytes of that many rows of a table, or of all of it."""
        return min(looked_up, sizes[name][0]) * stored[name] // sizes[name][0]

    def products(names: Iterable[str], rows: int) -> int:
        return sum(2 * _values(sizes[name]) * rows for name in names if len(sizes[name]) > 1)

    def decode(tokens: int, pairs: int, past: int) -> Count:
        floats = (
            products(layers - set(integer), tokens) + products({head}, work.batch) + 4 * text.layers * width * pairs
        )
        operations = {kind: floats} | ({"int8": products(integer, tokens)} if integer else {})
        return Count(
            weights=sum(stored[name] for name in decoder) + stored[head] + rows(EMBEDDING, tokens),
            cache=entry * (work.batch * past + tokens),
            operations=operations,
            resident=sum(stored[name] for name in {*decoder, head, EMBEDDING}),
        )

    found = {}
    if work.patches:
        pictures = {name for name in sizes if name.startswith(VISION)}
        mergers = {name for name in pictures if "merger" in name}
        patches = work.batch * work.patches
        operations = products(pictures - mergers - {POSITIONS}, patches) + products(mergers, patches // tower.merge**2)
        operations += 4 * tower.depth * tower.hidden * work.batch * work.patches**2
        read = sum(stored[name] for name in pictures - {POSITIONS}) + rows(POSITIONS, 4 * patches)
        found["vision"] = Count(read, 0, {kind: operations}, sum(stored[name] for name in pictures))
    found["prefill"] = decode(tokens, pairs, 0)
    if work.answer_tokens > 1:
        found["decode"] = decode(work.batch, work.batch * (work.past + 1), work.past)
    return found


def parameter_bytes(shape: Shape, headers: Mapping[str, Header], dtype: str | None = None) -> dict[str, int]:
    """Bytes of each parameter of a checkpoint of `shape`: of a quantized Linear what is stored for it, integers and
    scales; of any other its values in `dtype` (None: as stored). A tied head that is stored all the same counts not.

    Raises `InputError` where the headers are not those of this shape.
    """
    linears, found = linear_weights(shape), {}
    for name, size in parameter_shapes(shape).items():
        linear = name.removesuffix(".weight")
        parts = {part: headers[part] for kind in PARTS if (part := f"{linear}.{kind}") in headers}
        if name in linears and len(parts) > 1:
            found[name] = sum(part.values * ITEM_BYTES[part.dtype] for part in parts.values())
        elif name in headers:
            item = FLOATS[dtype][1] if dtype else ITEM_BYTES[headers[name].dtype]
            found[name] = _values(size) * item
        else:
            raise InputError(f"the checkpoint has no tensor {name}; its weights do not belong to its config.json")
    return found


def linear_weights(shape: Shape) -> set[str]:
    """The weights of the text decoder's Linears, which all schemes here are about."""
    return {f"{name}.weight" for group in decoder_groups(shape.text.layers) for name in group}


def int8_products(headers: Mapping[str, Header]) -> set[str]:
    """The weights of a checkpoint that are INT8 and multiplied by activations that are INT8 too."""
    inputs = {name.removesuffix(".input_scale") for name in headers if name.endswith(".input_scale")}
    return {f"{linear}.weight" for linear in inputs}


def stored_type(headers: Mapping[str, Header]) -> str:
    """The float type of most values of a checkpoint. Raises `InputError` where it has none."""
    types: Counter[str] = Counter()
    for header in headers.values():
        if header.dtype in STORED:
            types[STORED[header.dtype]] += header.values
    if not types:
        raise InputError(f"the checkpoint stores no floats of a type known here ({', '.join(STORED)})")
    return types.most_common(1)[0][0]


def _values(size: tuple[int, ...]) -> int:
    return Header(size, "F32").values
