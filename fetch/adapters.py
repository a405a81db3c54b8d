"""LoRA adapters as PEFT saves them: which are understood, and what one holds.

Only configurations and headers are read, and nothing that a configuration names is imported, run or looked up.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from shipvlm.errors import InputError
from shipvlm.lock import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_finished, check_table, origin
from shipvlm.sizes import FLOAT_BYTES, Header

CONFIG, WEIGHTS = ADAPTER_CONFIG, ADAPTER_WEIGHTS
PREFIX = "base_model.model."  # how PEFT's names of all tensors begin; the rest is the name in the checkpoint
LORA_NAME = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector)")

# Fields of PEFT's LoraConfig that do not change what is merged. auto_mapping names a class, which is not imported.
WITHOUT_EFFECT = {
    "auto_mapping",
    "eva_config",  # how the first values were found, as the next
    "inference_mode",
    "lora_dropout",
    "megatron_core",  # of megatron_config, which is refused
    "peft_version",
    "qalora_group_size",  # of use_qalora, which is refused
    "revision",
    "runtime_config",
    "task_type",
}
UNSET: tuple[Any, ...] = (None, False, "", [], {})
# First values that leave the weights of the base as they are: what was trained is all in the adapter's own tensors.
INITS = (True, False, "gaussian", "eva", "orthogonal")
OTHERWISE = "merge it with PEFT (merge_and_unload, then save_pretrained) and give that checkpoint as model.path"

Rank = Annotated[int, Field(ge=1)]
Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Names = tuple[str, ...]


class AdapterConfig(BaseModel):
    """The fields of adapter_config.json that decide what is merged, with PEFT's names and meaning."""

    model_config = ConfigDict(frozen=True, strict=True)

    r: Rank
    lora_alpha: Alpha
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    init_lora_weights: bool | str = True
    target_modules: Names | str | None = None
    exclude_modules: Names | str | None = None
    layers_to_transform: tuple[int, ...] | int | None = None
    layers_pattern: Names | str | None = None
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    modules_to_save: Names | None = None
    base_model_name_or_path: str | None = None

    @property
    def kind(self) -> str:
        return ("rs" if self.use_rslora else "") + ("DoRA" if self.use_dora else "LoRA")


@dataclass(frozen=True)
class Adapter:
    """One adapter: the headers of its tensors.

    `modules`: name in the checkpoint (without `.weight`) -> part, such as `lora_A.weight` -> header.
    `whole`: whole parameters, by their names behind `PREFIX`.
    """

    folder: Path
    config: AdapterConfig
    modules: Mapping[str, Mapping[str, Header]]
    whole: Mapping[str, Header]

    @property
    def replaced(self) -> set[str]:
        """Parameters of the checkpoint that the adapter trained whole: they are in its `modules_to_save`."""
        return {name for name in self.whole if self.saves(name)}

    @property
    def copies(self) -> dict[str, str]:
        """Parameters that PEFT saved beside the adapter as the base had them: name in the checkpoint -> in `whole`."""
        return {name.replace(".base_layer.", "."): name for name in self.whole.keys() - self.replaced}

    def saves(self, parameter: str) -> bool:
        """Whether `modules_to_save` names a module that the parameter is in: by how its name ends, as PEFT does."""
        ends = tuple(self.config.modules_to_save or ())
        parts = parameter.split(".")
        return bool(ends) and any(".".join(parts[:count]).endswith(ends) for count in range(1, len(parts)))

    def rank(self, module: str) -> int:
        pattern = self.config.rank_pattern or {}
        return pattern.get(pattern_key(pattern, module) or "", self.config.r)

    def alpha(self, module: str) -> float:
        pattern = self.config.alpha_pattern or {}
        return pattern.get(pattern_key(pattern, module) or "", self.config.lora_alpha)

    @property
    def trained_on(self) -> str | None:
        """The base that the adapter names: owner/name, or the last part where it is a path."""
        name = self.config.base_model_name_or_path
        return name if not name or re.fullmatch(r"[\w.-]+/[\w.-]+", name) else PureWindowsPath(name).name


def read_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`. Raises `InputError` for what is no LoRA, or one that cannot be merged exactly."""
    check_finished(folder)
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: has no {CONFIG}; give a folder that PEFT's save_pretrained wrote")
    config = _read_config(folder / CONFIG)
    modules: dict[str, dict[str, Header]] = {}
    whole: dict[str, Header] = {}
    for key, header in _read_headers(folder).items():
        name = key.removeprefix(PREFIX)
        if name == key:
            raise InputError(f"{folder}: {key} does not begin with {PREFIX}: PEFT did not save it; save it with PEFT")
        if header.dtype not in FLOAT_BYTES:
            raise InputError(f"{folder}: {key} holds {header.dtype}, not 16- or 32-bit floats; {OTHERWISE}")
        if found := LORA_NAME.fullmatch(name):
            modules.setdefault(found[1], {})[found[2]] = header
        elif ".lora_" in name:
            raise InputError(f"{folder}: {key} is no tensor of a LoRA on a Linear; {OTHERWISE}")
        else:
            whole[name] = header
    if not modules:
        raise InputError(f"{folder}: {WEIGHTS} holds no LoRA; give a folder that PEFT's save_pretrained wrote")
    return Adapter(folder, config, modules, whole)


def adapter_digest(folder: Path) -> str:
    """sha256 of an adapter: its two files, and where they are from when it was fetched.

    Raises `GateError` when they are not as its lock says.
    """
    table = {}
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as file:
            table[name] = {"bytes": (folder / name).stat().st_size, "sha256": file_digest(file, "sha256").hexdigest()}
    check_table(folder, table)
    return sha256(json.dumps([table, origin(folder)], sort_keys=True).encode()).hexdigest()


def pattern_key(pattern: Mapping[str, Any] | None, module: str) -> str | None:
    """The first key of PEFT's rank_pattern or alpha_pattern that fits a module: regular expressions of a name's end."""
    return next((key for key in pattern or {} if re.match(rf"(.*\.)?({key})$", module)), None)


def _read_config(path: Path) -> AdapterConfig:
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); get the adapter again") from error
    if not isinstance(raw, dict) or raw.get("peft_type") != "LORA":
        found = raw.get("peft_type") if isinstance(raw, dict) else None
        raise InputError(f"{path}: peft_type is {found!r}, only 'LORA' can be merged here; {OTHERWISE}")
    try:
        config = AdapterConfig.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {place}: {first['msg']}; save the adapter again with PEFT") from error
    known = AdapterConfig.model_fields.keys() | WITHOUT_EFFECT | {"peft_type"}
    if strange := sorted(name for name, value in raw.items() if name not in known and value not in UNSET):
        raise InputError(f"{path}: sets {', '.join(strange)}, which cannot be merged exactly here; {OTHERWISE}")
    if config.bias != "none":
        raise InputError(f"{path}: bias is {config.bias}, biases of the base were trained too; {OTHERWISE}")
    if config.init_lora_weights not in INITS:
        raise InputError(
            f"{path}: init_lora_weights is {config.init_lora_weights}, which changes the base before it is trained: "
            "save it again with path_initial_model_for_weight_conversion, which makes it an ordinary LoRA"
        )
    if config.use_dora and config.lora_bias:
        raise InputError(f"{path}: sets use_dora and lora_bias, which PEFT does not know together")
    for name in (*(config.rank_pattern or {}), *(config.alpha_pattern or {})):
        try:
            re.compile(name)
        except re.error as error:
            raise InputError(f"{path}: {name!r} is no regular expression ({error})") from error
    return config


def _read_headers(folder: Path) -> dict[str, Header]:
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = sorted(found.name for found in folder.glob("adapter_model.*"))
        there = f"only {', '.join(pickles)}, which can run code when it is loaded" if pickles else "no weights"
        raise InputError(f"{folder}: has {there}; save it again with PEFT: it then writes {WEIGHTS}")
    try:
        with safe_open(path, "numpy") as file:
            parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
            return {key: Header(tuple(part.get_shape()), part.get_dtype()) for key, part in parts.items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not readable as safetensors ({error}); fetch it again") from error
