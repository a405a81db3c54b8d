"""What an engine must be able to do, and how the right one is found for a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from shipvlm.errors import InputError
from shipvlm.folder import GRAPHS
from shipvlm.runtime.clock import Clock

if TYPE_CHECKING:
    from shipvlm.families.qwen3_vl.processor import PictureProcessor
    from shipvlm.runtime.inputs import Batch

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "float16", "bfloat16"]
Engine = Literal["onnxruntime", "transformers", "compile", "bnb-int8", "bnb-nf4"]  # all but the first on torch


@dataclass(frozen=True)
class Features:
    """What the decoder sees of a batch's pictures: `image` and each of `deepstack` are [image tokens, hidden].

    In the engine's own kind of array, on its device; `Model.read` gives them as numpy.
    """

    image: Any
    deepstack: tuple[Any, ...]


class Decoding(Protocol):
    """A batch after its prefill: the KV cache and the place of each row in it. Rows do not influence each other."""

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Append one token a row (int64 [rows]); logits float32 [rows, vocabulary] of what comes next.

        The array returned may be overwritten by the next step.
        """

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""

    def cache(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Keys and values of each layer, float32 [rows, kv_heads, length, head_dim], length that of the longest row.

        A row's tokens begin at 0; what lies after its own length is 0.
        """


class Model(Protocol):
    """An engine with its weights: a transformers checkpoint, or a graph set on ONNX Runtime."""

    @property
    def folder(self) -> Path: ...

    @property
    def processor(self) -> PictureProcessor: ...

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end an answer."""

    @property
    def dtype(self) -> str:
        """What it computes in: "float32", "float16" or "bfloat16"."""

    @property
    def max_length(self) -> int:
        """The most tokens of a row, prompt and answer together: the checkpoint's max_position_embeddings."""

    @property
    def weight_bytes(self) -> int | None:
        """What the weights take in memory as this engine holds them; None where it does not say."""

    def device_clock(self) -> Clock | None:
        """A new clock of the device that the engine runs on; None where there is none."""

    def vision(self, batch: Batch) -> Features:
        """Features of all pictures of the batch, computed when this returns."""

    def prefill(
        self, batch: Batch, features: Features, new_tokens: int, wanted: Sequence[Sequence[int]] | None = None
    ) -> tuple[np.ndarray, Decoding]:
        """Read the prompts; room is made for `new_tokens` more tokens a row.

        `wanted` are the places in each prompt whose logits are returned, all rows one after the other: float32
        [places, vocabulary]. None means the last place of each row.
        """

    def read(self, array: Any) -> np.ndarray:
        """An array of `Features` as numpy float32."""

    def write(self, array: np.ndarray) -> Any:
        """A numpy array as one for `Features`: the inverse of `read`."""


def open_model(
    folder: Path,
    *,
    device: Device = "cpu",
    dtype: Dtype | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
) -> Model:
    """Open the graph set or the checkpoint in `folder` to run on `device`.

    `dtype` is what a checkpoint computes in; None means float32 on the CPU and its stored type on CUDA. A graph set
    has its own. `threads` is the number of CPU threads of one operation (None: one a core; for a checkpoint it is set
    for the whole process). `engine` None means onnxruntime for a graph set and transformers for a checkpoint; the
    others are ways to run a checkpoint (shipvlm.runtime.engines).
    Raises `InputError` for a folder that is neither, is damaged, or does not run on `engine` or in `dtype`, and
    `SetupError` where a package or the device is missing: nothing runs elsewhere than asked for.
    """
    is_graphs = (folder / GRAPHS).is_file()
    if engine is not None and is_graphs != (engine == "onnxruntime"):
        raise InputError(f"{folder}: holds {'graphs' if is_graphs else 'a checkpoint'}, which {engine} does not run")
    if is_graphs:
        from shipvlm.runtime.graphs import load_graphs

        graphs = load_graphs(folder, device, threads)
        if dtype not in (None, graphs.dtype):
            raise InputError(f"{folder}: these graphs compute in {graphs.dtype}, not in {dtype}; convert again")
        return graphs

    import torch

    from shipvlm.runtime.checkpoint import load

    if threads is not None:
        torch.set_num_threads(threads)
    if dtype is None:
        return load(folder, torch.float32 if device == "cpu" else "auto", device, engine or "transformers")
    return load(folder, getattr(torch, dtype), device, engine or "transformers")
