"""The shape of a Qwen3-VL: every number that its graphs depend on, read from a checkpoint's `config.json`.

What the graphs cover is what `transformers` 5.17 computes for this family (`modeling_qwen3_vl.py`). A configuration
that asks for anything else is refused here, before any tensor is read.
"""

import math
from dataclasses import dataclass
from typing import Any

from shipvlm.errors import InputError


@dataclass(frozen=True)
class VisionShape:
    """The vision tower. `positions_side` is the side of the square table of learned positions, `deepstack` the
    layers after which features go to the first decoder layers, `merge` how many patches a side become one token."""

    depth: int
    hidden: int
    heads: int
    intermediate: int
    out_hidden: int
    patch: int
    temporal: int
    merge: int
    positions_side: int
    deepstack: tuple[int, ...]
    in_channels: int
    rope_theta: float

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def patch_width(self) -> int:
        """Values of one patch: one row of `pixel_values`."""
        return self.in_channels * self.temporal * self.patch**2


@dataclass(frozen=True)
class TextShape:
    """The text decoder. `mrope_section` says how many rotary frequencies follow time, height and width; `tied` that
    the head is the embedding."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    rms_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    tied: bool


@dataclass(frozen=True)
class Shape:
    """A whole model."""

    vision: VisionShape
    text: TextShape
    image_token_id: int


def read_shape(config: dict[str, Any]) -> Shape:
    """Read the parsed `config.json` of a Qwen3-VL, as written by transformers 4.57 or later.

    Raises `InputError` that names the setting for one that is missing, impossible, or not covered by the graphs
    (another rope type or activation, biases in the decoder's attention, another family).
    """
    _require(config.get("model_type") == "qwen3_vl", f"model_type is {config.get('model_type')!r}, not 'qwen3_vl'")
    tied = config.get("tie_word_embeddings", False)
    _require(isinstance(tied, bool), f"tie_word_embeddings is {tied!r}, neither true nor false")
    text = _read_text(_section(config, "text_config"), tied)
    vision = _read_vision(_section(config, "vision_config"))
    _require(
        vision.out_hidden == text.hidden,
        f"vision_config.out_hidden_size {vision.out_hidden} is not text_config.hidden_size {text.hidden}",
    )
    _require(
        len(vision.deepstack) <= text.layers,
        f"{len(vision.deepstack)} DeepStack levels need as many decoder layers, there are {text.layers}",
    )
    return Shape(vision, text, _integer(config, "image_token_id", "", least=0))


def _read_text(section: dict[str, Any], tied: bool) -> TextShape:
    where = "text_config."
    # transformers 4 wrote rope_theta beside rope_scaling; transformers 5 has both in rope_parameters.
    rope = _section(section, "rope_parameters" if "rope_parameters" in section else "rope_scaling")
    theta: Any = rope.get("rope_theta", section.get("rope_theta"))
    mrope: Any = rope.get("mrope_section")
    _require_setting(section, "hidden_act", where, "silu", None)
    _require_setting(section, "attention_bias", where, False, False)
    _require_setting(rope, "rope_type", where, "default", "default")
    _require_setting(rope, "mrope_interleaved", where, True, True)
    _require_setting(rope, "partial_rotary_factor", where, 1.0, 1.0)
    _require(_positive(theta), f"{where}rope_theta is {theta!r}, not a positive number")
    _require(
        isinstance(mrope, list | tuple) and len(mrope) == 3 and all(_whole(part, 0) for part in mrope),
        f"{where}mrope_section is {mrope!r}, not three whole numbers",
    )
    shape = TextShape(
        hidden=_integer(section, "hidden_size", where),
        intermediate=_integer(section, "intermediate_size", where),
        layers=_integer(section, "num_hidden_layers", where),
        heads=_integer(section, "num_attention_heads", where),
        kv_heads=_integer(section, "num_key_value_heads", where),
        head_dim=_integer(section, "head_dim", where),
        vocab=_integer(section, "vocab_size", where),
        rms_eps=_float(section, "rms_norm_eps", where),
        rope_theta=float(theta),
        mrope_section=tuple(mrope),
        tied=tied,
    )
    _require(shape.heads % shape.kv_heads == 0, f"{where}num_key_value_heads does not divide num_attention_heads")
    _require(shape.head_dim % 2 == 0, f"{where}head_dim {shape.head_dim} is odd, so its halves cannot be rotated")
    _require(
        sum(mrope) == shape.head_dim // 2,
        f"{where}mrope_section {list(mrope)} does not add up to half of head_dim {shape.head_dim}",
    )
    return shape


def _read_vision(section: dict[str, Any]) -> VisionShape:
    where = "vision_config."
    rope = _section(section, "rope_parameters") if "rope_parameters" in section else {}
    levels: Any = section.get("deepstack_visual_indexes")
    theta: Any = rope.get("rope_theta", 10000.0)
    _require_setting(section, "hidden_act", where, "gelu_pytorch_tanh", None)
    _require_setting(rope, "rope_type", where, "axial", "axial")
    _require(_positive(theta), f"{where}rope_theta is {theta!r}, not a positive number")
    positions = _integer(section, "num_position_embeddings", where)
    shape = VisionShape(
        depth=_integer(section, "depth", where),
        hidden=_integer(section, "hidden_size", where),
        heads=_integer(section, "num_heads", where),
        intermediate=_integer(section, "intermediate_size", where),
        out_hidden=_integer(section, "out_hidden_size", where),
        patch=_integer(section, "patch_size", where),
        temporal=_integer(section, "temporal_patch_size", where),
        merge=_integer(section, "spatial_merge_size", where),
        positions_side=math.isqrt(positions),
        deepstack=tuple(levels) if isinstance(levels, list | tuple) else (),
        in_channels=_integer(section, "in_channels", where),
        rope_theta=float(theta),
    )
    _require(shape.positions_side**2 == positions, f"{where}num_position_embeddings {positions} is no square")
    _require(
        isinstance(levels, list | tuple)
        and all(_whole(level, 0) and level < shape.depth for level in levels)
        and list(levels) == sorted(set(levels)),
        f"{where}deepstack_visual_indexes is {levels!r}, not rising numbers of layers below {shape.depth}",
    )
    _require(
        shape.hidden % shape.heads == 0 and shape.head_dim % 4 == 0,
        f"{where}hidden_size {shape.hidden} over {shape.heads} heads is no multiple of 4, which 2-D rotation needs",
    )
    return shape


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    _require(isinstance(section, dict), f"{name} is missing or no object")
    assert isinstance(section, dict)
    return section


def _integer(section: dict[str, Any], key: str, where: str, least: int = 1) -> int:
    value = section.get(key)
    _require(_whole(value, least), f"{where}{key} is {value!r}, not a whole number of at least {least}")
    assert isinstance(value, int)
    return value


def _float(section: dict[str, Any], key: str, where: str) -> float:
    value = section.get(key)
    _require(_positive(value), f"{where}{key} is {value!r}, not a positive number")
    assert isinstance(value, int | float)
    return float(value)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _require_setting(section: dict[str, Any], key: str, where: str, covered: object, absent: object) -> None:
    found = section.get(key, absent)
    _require(found == covered, f"{where}{key} is {found!r}, not {covered!r}")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise InputError(f"config.json: {problem}; only the architecture of the published Qwen3-VL models is covered")
