"""Run the decoder graph of a graph set: prefill, then decode steps.

The KV cache lies in buffers that are input and output of the graph at once. A decode step copies its tokens and their
rotation into buffers that stay bound; nothing else happens on the host.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnxruntime import InferenceSession, IOBinding, OrtValue

from shipvlm.families.qwen3_vl.grid import image_index, image_tokens, mrope_positions, mrope_tables
from shipvlm.families.qwen3_vl.shape import Shape
from shipvlm.runtime.inputs import Batch
from shipvlm.runtime.model import Device, Features
from shipvlm.runtime.session import to_device

# On the CPU, Attention takes time for every place of the cache, used or not, so room for new tokens comes in pieces.
CPU_ROOM = 64
AHEAD = 64  # decode steps whose rotations are made at once


@dataclass(frozen=True)
class GraphDecoder:
    """A decoder graph that is ready to run. `dtype` is the type of its float inputs and outputs."""

    shape: Shape
    session: InferenceSession
    dtype: str
    device: Device

    def prefill(
        self, batch: Batch, features: Features, new_tokens: int, wanted: Sequence[Sequence[int]] | None = None
    ) -> tuple[np.ndarray, "GraphDecoding"]:
        """See `shipvlm.runtime.model.Model`; rows are padded on the right, where decode steps overwrite the padding."""
        text, merge = self.shape.text, self.shape.vision.merge
        lengths = np.array([len(ids) for ids in batch.input_ids], np.int64)
        rows, longest = len(lengths), int(lengths.max())
        ids, index = np.zeros((rows, longest), np.int64), np.full((rows, longest), -1, np.int64)
        cos, sin = np.zeros((2, rows, longest, text.head_dim // 2), np.float32)
        following, first_feature = np.empty(rows, np.int64), 0
        for row, (prompt, grids) in enumerate(zip(batch.input_ids, batch.grids, strict=True)):
            own = slice(len(prompt))
            positions, following[row] = mrope_positions(prompt, grids, self.shape)
            cos[row, own], sin[row, own] = mrope_tables(positions, text)
            found = image_index(prompt, self.shape)
            ids[row, own], index[row, own] = prompt, np.where(found < 0, -1, found + first_feature)
            first_feature += sum(image_tokens(grid, merge) for grid in grids)
        places = lengths[:, None] - 1 if wanted is None else wanted
        picked = np.concatenate([row * longest + np.asarray(each, np.int64) for row, each in enumerate(places)])
        room = min(new_tokens, CPU_ROOM) if self.device == "cpu" else new_tokens
        size = (rows, text.kv_heads, longest + room, text.head_dim)
        caches = [self.zeros(size) for _ in _cache_names(self.shape)]
        inputs = {
            "input_ids": ids,
            "image_index": index,
            "past_lengths": np.zeros(rows, np.int64),
            "logit_index": picked,
            "cos": cos.astype(self.dtype, copy=False),
            "sin": sin.astype(self.dtype, copy=False),
        }
        values = {name: to_device(array, self.device) for name, array in inputs.items()}
        binding, logits = self.bind(values, features, caches)
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        decoding = GraphDecoding(self, caches, lengths, following)
        return logits.astype(np.float32, copy=False), decoding

    def bind(
        self, inputs: Mapping[str, OrtValue], features: Features, caches: Sequence[OrtValue]
    ) -> tuple[IOBinding, np.ndarray]:
        """Bind a run; its logits go to the array [length of logit_index, vocabulary] returned, on the host."""
        binding = self.session.io_binding()
        names = deepstack_names(self.shape)
        for name, value in {**inputs, **dict(zip(names, features.deepstack, strict=True))}.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_input("image_features", features.image)
        for name, cache in zip(_cache_names(self.shape), caches, strict=True):
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(f"{name}_out", cache)
        logits = np.empty((inputs["logit_index"].shape()[0], self.shape.text.vocab), self.dtype)
        binding.bind_ortvalue_output("logits", OrtValue.ortvalue_from_numpy(logits))
        return binding, logits

    def no_features(self) -> Features:
        """Where there is no picture, and at decode steps: one row of zeros, which no token takes."""
        nothing = self.zeros((1, self.shape.text.hidden))
        return Features(nothing, (nothing,) * len(self.shape.vision.deepstack))

    def zeros(self, size: Sequence[int]) -> OrtValue:
        """Zeros of the graph's float type on its device."""
        return to_device(np.zeros(size, self.dtype), self.device)

    def rotations(self, positions: np.ndarray, steps: int) -> np.ndarray:
        """cos and sin of `steps` decode steps from `positions` int64 [rows] on: [2, rows, steps, head_dim / 2]."""
        each = (positions[:, None] + np.arange(steps)).ravel()
        tables = mrope_tables(np.broadcast_to(each, (3, len(each))), self.shape.text)
        return np.stack(tables).reshape(2, len(positions), steps, -1).astype(self.dtype, copy=False)


class GraphDecoding:
    """See `shipvlm.runtime.model.Decoding`. What a step needs is bound once, and again when the cache moves."""

    def __init__(
        self, decoder: GraphDecoder, caches: list[OrtValue], lengths: np.ndarray, following: np.ndarray
    ) -> None:
        self._decoder, self._caches, self._lengths = decoder, caches, lengths
        self._following = following  # int64 [rows]: the position of the next token, the same on all three axes
        self._ahead = 0  # steps that rotations are there for
        self._bind()

    def step(self, tokens: np.ndarray) -> np.ndarray:
        if self._lengths.max() == self._caches[0].shape()[2]:
            self._move(range(len(tokens)), room=CPU_ROOM)
        if self._ahead == 0:
            self._rotations, self._ahead = self._decoder.rotations(self._following, AHEAD), AHEAD
        cos, sin = self._rotations[:, :, -self._ahead]
        changed = {"input_ids": tokens, "past_lengths": self._lengths, "cos": cos, "sin": sin}
        for name, array in changed.items():
            own = self._arrays[name]
            own[...] = array.reshape(own.shape)
            if self._decoder.device != "cpu":  # on the CPU the array itself is what is bound
                self._inputs[name].update_inplace(own)
                # Again: what a graph reads on the host, such as lengths, is copied there when it is bound.
                self._binding.bind_ortvalue_input(name, self._inputs[name])
        self._decoder.session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        self._lengths, self._following = self._lengths + 1, self._following + 1
        self._ahead -= 1
        return self._logits.astype(np.float32, copy=False)

    def keep(self, rows: Sequence[int]) -> None:
        self._move(rows, room=0)

    def cache(self) -> list[tuple[np.ndarray, np.ndarray]]:
        own = np.arange(self._lengths.max()) < self._lengths[:, None]
        found = [
            np.where(own[:, None, :, None], cache.numpy()[:, :, : own.shape[1]], 0).astype(np.float32)
            for cache in self._caches
        ]
        return list(zip(found[::2], found[1::2], strict=True))

    def _move(self, rows: Sequence[int], room: int) -> None:
        """Copy the cache of `rows` to new buffers with `room` more places."""
        index = list(rows)
        del self._binding  # it keeps the old buffers
        for place, cache in enumerate(self._caches):
            kept = cache.numpy()[index]
            self._caches[place] = to_device(np.pad(kept, ((0, 0), (0, 0), (0, room), (0, 0))), self._decoder.device)
        self._lengths, self._following, self._ahead = self._lengths[index], self._following[index], 0
        self._bind()

    def _bind(self) -> None:
        rows, half = len(self._lengths), self._decoder.shape.text.head_dim // 2
        self._arrays = {
            "input_ids": np.zeros((rows, 1), np.int64),
            "image_index": np.full((rows, 1), -1, np.int64),
            "past_lengths": np.zeros(rows, np.int64),
            "logit_index": np.arange(rows, dtype=np.int64),
            "cos": np.zeros((rows, 1, half), self._decoder.dtype),
            "sin": np.zeros((rows, 1, half), self._decoder.dtype),
        }
        self._inputs = {name: to_device(array, self._decoder.device) for name, array in self._arrays.items()}
        self._binding, self._logits = self._decoder.bind(self._inputs, self._decoder.no_features(), self._caches)


def deepstack_names(shape: Shape) -> list[str]:
    """How the DeepStack outputs of the vision graph are called, and the decoder graph's inputs that take them."""
    return [f"deepstack_features_{level}" for level in range(len(shape.vision.deepstack))]


def input_names(shape: Shape) -> set[str]:
    """What the decoder graph of `shape` must read."""
    fixed = {"input_ids", "image_index", "past_lengths", "logit_index", "cos", "sin", "image_features"}
    return {*fixed, *deepstack_names(shape), *_cache_names(shape)}


def _cache_names(shape: Shape) -> list[str]:
    return [f"{part}_cache_{layer}" for layer in range(shape.text.layers) for part in ("key", "value")]
