"""What a checkpoint holds and what a scheme makes of it, in bytes: from the headers of the files, no tensor is read."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from shipvlm.errors import InputError
from shipvlm.families.qwen3_vl.parameters import HEAD, parameter_shapes
from shipvlm.families.qwen3_vl.shape import Shape
from shipvlm.folder import SIDE_FILES, weight_files
from shipvlm.schemes import Scale

FLOAT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Header:
    """Shape and stored type (safetensors' name of it) of one tensor."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def values(self) -> int:
        return math.prod(self.shape)


def read_headers(folder: Path) -> dict[str, Header]:
    """The tensors of a checkpoint by name. Raises `InputError` for a file that is no safetensors."""
    headers = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, "numpy") as file:
                for name in file.keys():  # noqa: SIM118  (not a dict)
                    part = file.get_slice(name)
                    headers[name] = Header(tuple(part.get_shape()), part.get_dtype())
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not readable as safetensors ({error}); fetch it again") from error
    return headers


def check_tensors(folder: Path, shape: Shape) -> dict[str, Header]:
    """The tensors of a checkpoint by name. A head that is tied may be stored all the same.

    Raises `InputError` when they are not exactly those of the model that config.json describes, or not 16- or 32-bit
    floats.
    """
    found, wanted = read_headers(folder), parameter_shapes(shape)
    optional = {HEAD} if shape.text.tied else set()
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys() - optional),
        "mismatched": sorted(name for name in wanted.keys() & found.keys() if found[name].shape != wanted[name]),
        "integer": sorted(name for name in found if found[name].dtype not in FLOAT_BYTES),
    }
    for kind, names in problems.items():
        if names:
            raise InputError(
                f"{folder}: {len(names)} {kind} tensors, first {', '.join(names[:3])}; "
                "the weights do not belong to this config.json"
            )
    return found


def quantized_bytes(headers: Mapping[str, Header], layers: Iterable[str], scale: Scale) -> int:
    """Bytes of the weights when `layers` are stored as `scale` says, the others as they are."""
    chosen = {f"{layer}.weight" for layer in layers}
    return sum(
        _integer_bytes(header, scale) if name in chosen else header.values * FLOAT_BYTES[header.dtype]
        for name, header in headers.items()
    )


def side_bytes(folder: Path) -> int:
    """Bytes of the files that are copied along with every checkpoint and graph set."""
    return sum((folder / name).stat().st_size for name in SIDE_FILES if (folder / name).is_file())


def _integer_bytes(header: Header, scale: Scale) -> int:
    """The integers of a Linear [rows, columns], packed into whole int32 words, and its scales in the weights' type."""
    rows, columns = header.shape
    scales = rows * (math.ceil(columns / scale.group) if scale.group else 1)
    return rows * math.ceil(columns * scale.bits / 32) * 4 + scales * FLOAT_BYTES[header.dtype]
