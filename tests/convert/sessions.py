"""A graph set run with plain ONNX Runtime sessions, and the same inputs through transformers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from shipvlm.families.qwen3_vl.grid import image_index, mrope_positions, mrope_tables, vision_tables


def session(path: Path, **entries: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_vision(vision: ort.InferenceSession, pixels: np.ndarray, grid, shape) -> list[np.ndarray]:
    """image_features, then the DeepStack features, of one picture."""
    tables = vision_tables(grid, shape.vision)
    names = ["image_features", *(f"deepstack_features_{level}" for level in range(len(shape.vision.deepstack)))]
    feeds = {"pixel_values": pixels, **vars(tables)}
    types = {value.name: np.float16 if "16" in value.type else np.float32 for value in vision.get_inputs()}
    feeds = {name: value if value.dtype == np.int64 else value.astype(types[name]) for name, value in feeds.items()}
    return vision.run(names, feeds)


@dataclass
class Prompt:
    ids: list[int]
    grids: list[tuple[int, int, int]]
    pixels: list[np.ndarray]


class Decoder:
    """A batch on its way: right-padded prefill, then steps, with caches updated in place by IO binding."""

    def __init__(self, path: Path, shape, max_length: int, **entries: str):
        self.session, self.shape, self.max_length = session(path, **entries), shape, max_length
        kinds = {value.name: value.type for value in self.session.get_inputs()}
        self.dtype = np.float16 if "16" in kinds["cos"] else np.float32

    def prefill(self, vision, prompts: list[Prompt], scale_deepstack: float = 1.0, wanted=None) -> np.ndarray:
        """Logits [tokens, vocab]: of all tokens without padding, or of the `wanted` of the padded batch."""
        text, levels = self.shape.text, len(self.shape.vision.deepstack)
        features = [
            run_vision(vision, pixels, grid, self.shape)
            for prompt in prompts
            for pixels, grid in zip(prompt.pixels, prompt.grids, strict=True)
        ]
        nothing = [np.zeros((1, text.hidden), self.dtype)] * (1 + levels)
        self.features = [np.concatenate(parts) for parts in zip(*features, strict=True)] if features else nothing
        self.features[1:] = [part * self.dtype(scale_deepstack) for part in self.features[1:]]
        cache = (len(prompts), text.kv_heads, self.max_length, text.head_dim)
        self.caches = {
            f"{kind}_cache_{layer}": ort.OrtValue.ortvalue_from_numpy(np.full(cache, 3.0, self.dtype))
            for layer in range(text.layers)
            for kind in ("key", "value")
        }
        self.lengths = np.array([len(prompt.ids) for prompt in prompts])
        longest = self.lengths.max()
        ids = np.zeros((len(prompts), longest), np.int64)
        index = np.full_like(ids, -1)
        cos, sin = np.zeros((2, len(prompts), longest, text.head_dim // 2), self.dtype)
        self.positions, before = [], 0
        for row, prompt in enumerate(prompts):
            length = len(prompt.ids)
            ids[row, :length] = prompt.ids
            own = image_index(ids[row, :length], self.shape)
            index[row, :length] = np.where(own < 0, -1, own + before)
            before += (own >= 0).sum()
            positions, after = mrope_positions(ids[row, :length], prompt.grids, self.shape)
            cos[row, :length], sin[row, :length] = mrope_tables(positions, text)
            self.positions.append(after)
        every = np.concatenate([row * longest + np.arange(length) for row, length in enumerate(self.lengths)])
        return self._run(ids, index, cos, sin, np.zeros(len(prompts), np.int64), every if wanted is None else wanted)

    def step(self, tokens: list[int]) -> np.ndarray:
        """Logits [batch, vocab] after one more token a row."""
        ids = np.array(tokens)[:, None]
        positions = np.repeat(np.array(self.positions)[None], 3, axis=0)
        cos, sin = (table[:, None].astype(self.dtype) for table in mrope_tables(positions, self.shape.text))
        logits = self._run(ids, np.full_like(ids, -1), cos, sin, self.lengths, np.arange(len(tokens)))
        self.positions = [position + 1 for position in self.positions]
        self.lengths = self.lengths + 1
        return logits

    def _run(self, ids, index, cos, sin, past_lengths, wanted) -> np.ndarray:
        binding = self.session.io_binding()
        names = ["image_features", *(f"deepstack_features_{i}" for i in range(len(self.features) - 1))]
        feeds = dict(zip(names, self.features, strict=True)) | {"input_ids": ids, "image_index": index}
        feeds |= {"cos": cos, "sin": sin, "past_lengths": past_lengths, "logit_index": wanted}
        for name, value in feeds.items():
            binding.bind_cpu_input(
                name, np.ascontiguousarray(value, dtype=self.dtype if np.asarray(value).dtype.kind == "f" else np.int64)
            )
        for name, value in self.caches.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(f"{name}_out", value)
        binding.bind_output("logits")
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()
