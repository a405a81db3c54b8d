"""A checkpoint of a published size with random weights, and its graphs, to time a size without its weights.

    python -m benchmarks.published_size qwen3-vl-8b build/qwen3-vl-8b --graphs fp16 --scheme w4a16

writes `original/`, `onnx-fp16/`, and with a scheme `w4a16/` and `onnx-w4a16/`. Answers are noise, so only times and
memory mean something. The graphs are not held against the checkpoint: their code is, on the default model, by every
`make`.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from safetensors.torch import save_file

from convert.builder import Precision
from convert.export import export_graphs
from quantize.stage import run as quantize
from shipvlm.cli.progress import shown
from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.parameters import parameter_shapes
from shipvlm.families.qwen3_vl.published import PUBLISHED
from shipvlm.families.qwen3_vl.shape import Shape, read_shape
from shipvlm.folder import PICTURE_SETTINGS, WEIGHTS_INDEX, copy_side_files, make_folder
from shipvlm.recipe import QuantizeSection

WORDS = Path("examples/tiny_qwen3_vl")  # whose tokenizer, template and picture settings are taken
SHARD_BYTES = 4e9
PIXELS = {"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096}  # fewest and most, as the published sizes have them
POSITIONS = 262_144


def write_checkpoint(name: str, out: Path, device: str) -> None:
    """Write a Qwen3-VL of the published size `name` with FP16 random weights to the new folder `out`.

    Raises `InputError` for an unknown name and a folder that exists.
    """
    if name not in PUBLISHED:
        raise InputError(f"{name}: choose one of {', '.join(PUBLISHED)}")
    if out.exists():
        raise InputError(f"{out}: exists; move it away or give another folder")
    make_folder(out)
    copy_side_files(WORDS, out)
    words = json.loads((WORDS / "config.json").read_text())
    config = _merged(words, PUBLISHED[name]) | {key: words[key] for key in words if key.endswith("_token_id")}
    config["text_config"]["max_position_embeddings"] = POSITIONS
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    pictures = json.loads((WORDS / PICTURE_SETTINGS).read_text()) | {"size": PIXELS}
    (out / PICTURE_SETTINGS).write_text(json.dumps(pictures, indent=2) + "\n")
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(_shards(read_shape(config), device), start=1):
        file = f"model-{number:05}.safetensors"
        save_file({key: tensor.cpu() for key, tensor in tensors.items()}, out / file, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    (out / WEIGHTS_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2) + "\n")


def _shards(shape: Shape, device: str) -> Iterator[dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    for name, size in parameter_shapes(shape).items():
        tensor = torch.empty(size, dtype=torch.float16, device=device)
        if len(size) == 1:
            tensor.fill_(0.0 if name.endswith(".bias") else 1.0)
        else:
            tensor.normal_(std=1 / math.sqrt(math.prod(size[1:])))  # a Linear keeps the size of what it reads
        shard[name] = tensor
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD_BYTES:
            yield shard
            shard = {}
    yield shard


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    return under | {
        key: _merged(under[key], value) if isinstance(value, dict) and isinstance(under.get(key), dict) else value
        for key, value in over.items()
    }


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(PUBLISHED)}.")],
    out: Annotated[Path, typer.Argument(help="Folder for the checkpoint and the graphs.")],
    graphs: Annotated[Precision, typer.Option(help="What the graphs compute in.")] = "fp16",
    scheme: Annotated[
        Literal["w8a16", "w4a16"] | None, typer.Option(help="Also weights rounded to this, and their graphs.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the weights are drawn.")] = "cpu",
) -> None:
    """Write a checkpoint of a published size with random weights, and its graphs."""
    write_checkpoint(name, out / "original", device)
    with shown() as (progress, _):
        make_folder(out / f"onnx-{graphs}")
        export_graphs(out / "original", out / f"onnx-{graphs}", graphs, progress)
        if scheme:
            make_folder(out / scheme)
            quantize(out / "original", QuantizeSection(scheme=scheme), None, out / scheme, progress)
            make_folder(out / f"onnx-{scheme}")
            export_graphs(out / scheme, out / f"onnx-{scheme}", graphs, progress)


if __name__ == "__main__":
    typer.run(main)
