"""The variants of a run: forms of one model, each on an engine. The first that is given is the baseline."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shipvlm.errors import InputError
from shipvlm.folder import GRAPHS, check_folder
from shipvlm.recipe import BenchSection
from shipvlm.runtime.model import Device, Dtype, Engine

NULL = "null"
EXTRAS: dict[str, dict[str, Any]] = {  # further forms of the baseline, by their name in a recipe
    "compile": {"engine": "compile"},
    "bnb-int8": {"engine": "bnb-int8"},
    "bnb-nf4": {"engine": "bnb-nf4"},
    "fp16": {"dtype": "float16"},
    "fp32": {"dtype": "float32"},
}


@dataclass(frozen=True)
class Variant:
    """One form of a model, and whether it is timed: nobody serves simulated integers."""

    name: str  # letters, digits, points, dashes and underscores: it names a file too
    folder: Path
    engine: Engine
    device: Device = "cpu"
    dtype: Dtype | None = None  # None: FP32 on a CPU and the stored type on CUDA; graphs have their own
    timed: bool = True

    @property
    def loaded_dtype(self) -> str | None:
        """What a checkpoint's weights are loaded in; None: as stored."""
        return self.dtype or ("float32" if self.device == "cpu" else None)

    @property
    def opening(self) -> dict[str, Any]:
        """What the job of a fresh process says of the model that it opens."""
        return {"folder": self.folder.resolve(), "engine": self.engine, "device": self.device, "dtype": self.dtype}

    @classmethod
    def of(cls, name: str, folder: Path, device: Device = "cpu") -> "Variant":
        """What is in `folder`. Raises InputError where that is neither a checkpoint nor a graph set."""
        if (folder / GRAPHS).is_file():
            return cls(name, folder, "onnxruntime", device)
        simulated = "quantization_config" in check_folder(folder)
        return cls(name, folder, "transformers", device, timed=not simulated)


def variants_of(given: Sequence[Variant], section: BenchSection) -> list[Variant]:
    """All variants of a run: those that are given, the first of them the baseline, its A/A null, and the further forms
    of it that the recipe asks for. Raises InputError for names that cannot be used and forms that the baseline has not.
    """
    if not given:
        raise InputError("give at least one variant: the baseline")
    baseline = given[0]
    if not baseline.timed and "timing" in section.measure:
        raise InputError(
            f"{baseline.folder}: the baseline is a quantized checkpoint, whose integers transformers only simulates; "
            "give the original first, or --set bench.measure=[accuracy]"
        )
    for variant in given:
        if variant.name in (NULL, *EXTRAS):
            raise InputError(
                f"{variant.folder}: {variant.name!r} is the name of a form of the baseline; rename the folder"
            )
    found = [*given, *(_extra(baseline, name) for name in section.variants), replace(baseline, name=NULL)]
    names = [variant.name for variant in found]
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise InputError(f"a variant cannot be named {name!r}: use letters, digits, points, dashes, underscores")
        if names.count(name) > 1:
            raise InputError(f"two variants are named {name!r}: results are kept by name, rename one")
    return found


def _extra(baseline: Variant, name: str) -> Variant:
    if baseline.engine != "transformers":
        raise InputError(f"bench.variants: {name} is a form of a checkpoint; the baseline {baseline.folder} is graphs")
    if name == "fp32" and baseline.device == "cpu":
        raise InputError("bench.variants: fp32 is what the baseline computes in on a CPU already; leave it out")
    # A CPU computes FP16 to be right, not to be fast.
    timed = not (name == "fp16" and baseline.device == "cpu")
    return replace(baseline, name=name, timed=timed, **EXTRAS[name])
