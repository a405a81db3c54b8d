"""Run a checkpoint with transformers' own model: the reference that everything else is held to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import BatchFeature, DynamicCache, Qwen3VLForConditionalGeneration

from shipvlm.errors import InputError, SetupError
from shipvlm.families.qwen3_vl.processor import PictureProcessor, load_processor
from shipvlm.folder import check_folder
from shipvlm.runtime.clock import CudaClock
from shipvlm.runtime.compressed import unpack, without_bars
from shipvlm.runtime.engines import after_loading, on_loading
from shipvlm.runtime.inputs import Batch, Request, encode, generation_settings
from shipvlm.runtime.model import Engine, Features


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the transformers model in eval mode, its processor, and the folder both came from."""

    model: Qwen3VLForConditionalGeneration
    processor: PictureProcessor
    folder: Path

    @property
    def end_ids(self) -> list[int]:
        return self.model.generation_config.eos_token_id

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def max_length(self) -> int:
        return self.model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def vision(self, batch: Batch) -> Features:
        """See `shipvlm.runtime.model.Model`; the tower runs once over all pictures."""
        if not len(batch.pixel_values):
            return Features(self.model.lm_head.weight.new_zeros(0, self.model.lm_head.in_features), ())
        device = self.model.device
        pixels, grids = torch.from_numpy(batch.pixel_values).to(device), _grids(batch).to(device)
        found = self.model.model.get_image_features(pixels, grids, return_dict=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return Features(torch.cat(found.pooler_output), tuple(found.deepstack_features))

    @torch.inference_mode()
    def prefill(
        self, batch: Batch, features: Features, new_tokens: int, wanted: Sequence[Sequence[int]] | None = None
    ) -> tuple[np.ndarray, "_Decoding"]:
        """See `shipvlm.runtime.model.Model`; rows are padded on the left, as `transformers.generate` has them."""
        core, text, device = self.model.model, self.model.model.language_model, self.model.device
        ids, mask = _left_padded(batch, self.model.generation_config.pad_token_id, new_tokens)
        longest = ids.shape[1]
        # Positions are made on the CPU: the method reads them number by number.
        images = ids == self.model.config.image_token_id
        positions, _ = core.get_rope_index(
            input_ids=ids,
            mm_token_type_ids=images.int(),
            image_grid_thw=_grids(batch),
            attention_mask=mask[:, :longest],
        )
        pads = longest - torch.tensor([len(row) for row in batch.input_ids])
        visible = mask.to(device) if pads.any() else None  # without a mask attention is faster
        embeds, images = text.embed_tokens(ids.to(device)), images.to(device)
        cache = DynamicCache(config=text.config)
        hidden = text(
            inputs_embeds=embeds.masked_scatter(images[..., None], features.image.to(embeds.dtype)),
            position_ids=positions.to(device),
            attention_mask=None if visible is None else visible[:, :longest],
            past_key_values=cache,
            use_cache=True,
            visual_pos_masks=images,
            deepstack_visual_embeds=list(features.deepstack) or None,
        ).last_hidden_state
        for layer in cache.layers:  # compiled code leaves them transposed, and would be compiled anew for decoding so
            layer.keys, layer.values = layer.keys.contiguous(), layer.values.contiguous()
        places = [[len(row) - 1] for row in batch.input_ids] if wanted is None else wanted
        rows = [row for row, chosen in enumerate(places) for _ in chosen]
        columns = [int(pads[row]) + place for row, chosen in enumerate(places) for place in chosen]
        logits = _logits(self.model, hidden[rows, columns])
        following = (positions.amax((0, 2)) + 1)[:, None].to(device)
        return logits, _Decoding(self.model, cache, following, visible, pads)

    @property
    def weight_bytes(self) -> int:
        """See `shipvlm.runtime.model.Model`: all parameters and buffers, with the scales of bitsandbytes."""
        return sum(_held(tensor) for tensor in [*self.model.parameters(), *self.model.buffers()])

    def device_clock(self) -> CudaClock | None:
        """See `shipvlm.runtime.model.Model`."""
        return CudaClock(self.model.device) if self.model.device.type == "cuda" else None

    def read(self, array: torch.Tensor) -> np.ndarray:
        """See `shipvlm.runtime.model.Model`."""
        return array.float().cpu().numpy()

    def write(self, array: np.ndarray) -> torch.Tensor:
        """See `shipvlm.runtime.model.Model`."""
        return torch.from_numpy(array).to(self.model.device, self.model.dtype)


class _Decoding:
    """See `shipvlm.runtime.model.Decoding`. The cache grows by concatenation, with the left padding in it."""

    def __init__(
        self,
        model: Qwen3VLForConditionalGeneration,
        cache: DynamicCache,
        positions: torch.Tensor,
        visible: torch.Tensor | None,
        pads: torch.Tensor,
    ) -> None:
        self._model, self._cache, self._pads = model, cache, pads
        self._positions = positions  # int64 [rows, 1]: of the next token, the same on all three axes
        self._visible = visible  # int64 [rows, longest prompt + room for new tokens]: 0 where padding is; None: nowhere
        self._length = cache.get_seq_length()

    @torch.inference_mode()
    def step(self, tokens: np.ndarray) -> np.ndarray:
        self._length += 1
        hidden = self._model.model.language_model(
            input_ids=torch.from_numpy(tokens)[:, None].to(self._model.device),
            position_ids=self._positions.expand(3, -1, -1),
            attention_mask=None if self._visible is None else self._visible[:, : self._length],
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._positions = self._positions + 1
        return _logits(self._model, hidden[:, -1])

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows)
        self._pads = self._pads[index]
        index = index.to(self._model.device)
        self._cache.batch_select_indices(index)
        self._positions = self._positions[index]
        self._visible = None if self._visible is None else self._visible[index]

    def cache(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(self._unpadded(layer.keys), self._unpadded(layer.values)) for layer in self._cache.layers]

    def _unpadded(self, states: torch.Tensor) -> np.ndarray:
        length = self._length - int(self._pads.min())
        found = np.zeros((*states.shape[:2], length, states.shape[3]), np.float32)
        for row, pad in enumerate(self._pads.tolist()):
            found[row, :, : self._length - pad] = states[row, :, pad:].float().cpu().numpy()
        return found


def load(
    folder: Path,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: str | torch.device = "cpu",
    engine: Engine = "transformers",
) -> Checkpoint:
    """Load the Qwen3-VL checkpoint in `folder` with its weights in `dtype` (`"auto"`: as stored) on `device`.

    Plain transformers, safetensors only, no code from the checkpoint; `engine` says what is done to it then
    (shipvlm.runtime.engines). Raises `InputError` for a folder that is not such a checkpoint or whose tensors are not
    exactly the model's, and `SetupError` where a package or the device is missing.
    """
    config = check_folder(folder)
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise SetupError("no CUDA device can be used here; choose device cpu, or install a CUDA build of torch")
    computed = _stored_type(config) if dtype == "auto" else dtype
    changes = on_loading(engine, folder, config, computed, str(device))
    try:
        with without_bars():
            model, report = Qwen3VLForConditionalGeneration.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                ignore_mismatched_sizes=True,  # so that a wrong shape arrives in the report, with the others
                output_loading_info=True,
                **{"dtype": dtype} | changes,
            )
        processor = load_processor(folder)
    except ImportError as error:
        raise SetupError(f"{folder}: loading it needs a package that is not installed: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: transformers cannot load it: {error}") from error
    _refuse_other_tensors(folder, report)
    if "quantization_config" in config:
        unpack(model)
    model.generation_config = generation_settings(folder, processor)
    model = model.eval() if changes else model.eval().to(device)
    after_loading(engine, model)
    return Checkpoint(model, processor, folder)


def prepare(checkpoint: Checkpoint, requests: Sequence[Request]) -> BatchFeature:
    """Turn `requests` into the arguments of the transformers model on its device, left-padded to one length S.

    Returns `input_ids`, `attention_mask`, `mm_token_type_ids` [B, S] int64, and where there are pictures
    `pixel_values` [patches, 1536] float32 and `image_grid_thw` [pictures, 3] int64.
    Raises `InputError` as `shipvlm.runtime.inputs.encode` does.
    """
    batch = encode(checkpoint.processor, requests)
    ids, mask = _left_padded(batch, checkpoint.model.generation_config.pad_token_id)
    types = (ids == checkpoint.model.config.image_token_id).long()
    inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}
    if len(batch.pixel_values):
        inputs |= {"pixel_values": torch.from_numpy(batch.pixel_values), "image_grid_thw": _grids(batch)}
    return BatchFeature(inputs).to(checkpoint.model.device)


def _left_padded(batch: Batch, pad: int, room: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids int64 [B, S], and int64 [B, S + room] with 0 at padding, 1 elsewhere."""
    longest = max(len(ids) for ids in batch.input_ids)
    ids = torch.full((len(batch.input_ids), longest), pad)
    mask = torch.ones(len(batch.input_ids), longest + room, dtype=torch.long)
    for row, each in enumerate(batch.input_ids):
        ids[row, longest - len(each) :] = torch.from_numpy(each)
        mask[row, : longest - len(each)] = 0
    return ids, mask


def _grids(batch: Batch) -> torch.Tensor:
    """The grids of all pictures, int64 [pictures, 3]."""
    return torch.tensor([grid for grids in batch.grids for grid in grids], dtype=torch.long).reshape(-1, 3)


def _logits(model: Qwen3VLForConditionalGeneration, hidden: torch.Tensor) -> np.ndarray:
    return model.lm_head(hidden).float().cpu().numpy()


def _held(tensor: torch.Tensor) -> int:
    """Bytes of a parameter, and of the scales that bitsandbytes keeps beside it."""
    scales = (getattr(tensor, "SCB", None), getattr(getattr(tensor, "quant_state", None), "absmax", None))
    return tensor.nbytes + sum(each.nbytes for each in scales if each is not None)


def _stored_type(config: dict[str, Any]) -> torch.dtype:
    """The type that config.json names for the weights; FP32 where it names none."""
    sections = (config, config.get("text_config", {}))
    names = [section.get(key) for section in sections for key in ("dtype", "torch_dtype")]
    return getattr(torch, next((str(name) for name in names if name), "float32"))


def _refuse_other_tensors(folder: Path, report: dict[str, Any]) -> None:
    for kind in ("missing", "unexpected", "mismatched"):
        keys = sorted(str(key) for key in report[f"{kind}_keys"])
        if keys:
            raise InputError(
                f"{folder}: {len(keys)} {kind} tensors, first {', '.join(keys[:3])}; "
                "the weights do not belong to this config.json"
            )
