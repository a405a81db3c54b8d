"""Run a graph set on ONNX Runtime: its CPU provider, or its CUDA provider by the same code."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession, OrtValue

from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.grid import Grid, image_tokens, vision_tables
from shipvlm.families.qwen3_vl.processor import PictureProcessor, load_processor
from shipvlm.families.qwen3_vl.shape import Shape, read_shape
from shipvlm.folder import GRAPHS, MODEL_TYPE, check_side_files
from shipvlm.memory import available_memory
from shipvlm.runtime.decoder import GraphDecoder, GraphDecoding, deepstack_names, input_names
from shipvlm.runtime.inputs import Batch, generation_settings
from shipvlm.runtime.model import Device, Features
from shipvlm.runtime.session import open_session, to_device

SCHEMA_VERSION = 1
DTYPES = {"fp32": "float32", "fp16": "float16"}  # by the precision that graphs.json names


@dataclass(frozen=True)
class GraphSet:
    """A graph set that is ready to run."""

    folder: Path
    processor: PictureProcessor
    end_ids: list[int]
    max_length: int
    tower: InferenceSession
    decoder: GraphDecoder

    @property
    def dtype(self) -> str:
        return self.decoder.dtype

    @property
    def weight_bytes(self) -> None:
        """See `shipvlm.runtime.model.Model`: ONNX Runtime does not say."""

    def device_clock(self) -> None:
        """See `shipvlm.runtime.model.Model`: a session runs on a stream of its own, and is given none of ours."""

    def vision(self, batch: Batch) -> Features:
        """See `shipvlm.runtime.model.Model`; one picture is one run, each writes its own rows of the features.

        Raises `InputError` on the CPU for a picture whose attention scores do not fit into memory.
        """
        grids = [grid for row in batch.grids for grid in row]
        if not grids:
            return self.decoder.no_features()
        shape, device, dtype = self.decoder.shape, self.decoder.device, np.dtype(self.dtype)
        if device == "cpu":
            _refuse_too_large(max(grids, key=lambda grid: grid[1] * grid[2]), shape.vision.heads)
        counts = [image_tokens(grid, shape.vision.merge) for grid in grids]
        names = ["image_features", *deepstack_names(shape)]
        size = (sum(counts), shape.text.hidden)
        buffers = [OrtValue.ortvalue_from_shape_and_type(size, dtype, device) for _ in names]
        pixels = batch.pixel_values.astype(dtype, copy=False)
        patch = token = 0
        for grid, count in zip(grids, counts, strict=True):
            tables = vision_tables(grid, shape.vision)
            end = patch + grid[1] * grid[2]
            binding = self.tower.io_binding()
            for name, array in {"pixel_values": pixels[patch:end], **vars(tables)}.items():
                kind = array.dtype if array.dtype == np.int64 else dtype
                binding.bind_ortvalue_input(name, to_device(array.astype(kind, copy=False), device))
            for name, buffer in zip(names, buffers, strict=True):
                place = buffer.data_ptr() + token * size[1] * dtype.itemsize
                binding.bind_output(name, device, 0, dtype, (count, size[1]), place)
            self.tower.run_with_iobinding(binding)
            binding.synchronize_outputs()
            patch, token = end, token + count
        return Features(buffers[0], tuple(buffers[1:]))

    def prefill(
        self, batch: Batch, features: Features, new_tokens: int, wanted: Sequence[Sequence[int]] | None = None
    ) -> tuple[np.ndarray, GraphDecoding]:
        """See `shipvlm.runtime.model.Model`."""
        return self.decoder.prefill(batch, features, new_tokens, wanted)

    def read(self, array: OrtValue) -> np.ndarray:
        """See `shipvlm.runtime.model.Model`."""
        return array.numpy().astype(np.float32)

    def write(self, array: np.ndarray) -> OrtValue:
        """See `shipvlm.runtime.model.Model`."""
        return to_device(array.astype(self.dtype, copy=False), self.decoder.device)


def load_graphs(folder: Path, device: Device = "cpu", threads: int | None = None) -> GraphSet:
    """Load the graph set in `folder`; ONNX Runtime maps the weights from their files.

    Raises `InputError` for a folder that is no graph set of this version or is damaged, and `SetupError` where ONNX
    Runtime cannot use `device`: it does not run elsewhere in place of it.
    """
    config = check_side_files(folder)
    shape = read_shape(config)
    max_length = config["text_config"].get("max_position_embeddings")
    if not isinstance(max_length, int) or max_length < 1:
        raise InputError(
            f"{folder / 'config.json'}: text_config.max_position_embeddings is {max_length!r}, not a whole number of "
            "at least 1; copy config.json from the checkpoint's source"
        )
    decoder = load_decoder(folder, shape, device, threads)
    processor = load_processor(folder)
    return GraphSet(
        folder=folder,
        processor=processor,
        end_ids=generation_settings(folder, processor).eos_token_id,
        max_length=max_length,
        tower=open_session(folder / "vision.onnx", device, threads),
        decoder=decoder,
    )


def load_decoder(folder: Path, shape: Shape, device: Device = "cpu", threads: int | None = None) -> GraphDecoder:
    """Load only the decoder graph in `folder`, which needs no tokenizer then. Raises as `load_graphs`."""
    described = _read_description(folder / GRAPHS)
    wanted = {"schema_version": SCHEMA_VERSION, "family": MODEL_TYPE, "deepstack_levels": len(shape.vision.deepstack)}
    for key, value in wanted.items():
        if described.get(key) != value:
            raise InputError(f"{folder / GRAPHS}: {key} is {described.get(key)!r}, not {value!r}; convert again")
    if described.get("precision") not in DTYPES:
        raise InputError(f"{folder / GRAPHS}: precision is {described.get('precision')!r}; convert again")
    session = open_session(folder / "decoder.onnx", device, threads)
    other = input_names(shape) ^ {each.name for each in session.get_inputs()}
    if other:
        names = ", ".join(sorted(other)[:3])
        raise InputError(f"{folder / 'decoder.onnx'}: its inputs do not fit config.json ({names}); convert again")
    return GraphDecoder(shape, session, DTYPES[described["precision"]], device)


def score_bytes(grid: Grid, heads: int) -> int:
    """Bytes that ONNX Runtime's Attention takes on the CPU for one picture: it holds the float32 scores of all patches
    against all patches, of every head of a layer at once."""
    return heads * (grid[1] * grid[2]) ** 2 * 4


def _refuse_too_large(grid: Grid, heads: int) -> None:
    needed, available = score_bytes(grid, heads), available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"a picture of {grid[1]} x {grid[2]} = {grid[1] * grid[2]} patches takes {needed / 1e9:.1f} GB for the "
            f"attention scores of the vision tower, and {available / 1e9:.1f} GB of memory are available: give a "
            "smaller picture, or lower size.longest_edge in preprocessor_config.json (pixels of a picture at most)"
        )


def _read_description(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); convert again") from error
    if not isinstance(described, dict):
        raise InputError(f"{path}: must hold one JSON object; convert again")
    return described
