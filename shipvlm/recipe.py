"""What to build, as data: one strict model of a recipe. `shipvlm.recipe_file` reads it.

A path in a recipe is relative to the working directory, as a path on the command line is.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]

Scheme = Literal["w8a8-static", "w8a16", "w4a16"]
Observer = Literal["minmax", "percentile", "mse", "entropy"]
Precision = Literal["fp32", "fp16"]
Runtime = Literal["onnxruntime", "tensorrt-rtx", "vllm", "sglang", "transformers"]
Device = Literal["cpu", "turing", "ampere", "ada", "hopper", "blackwell"]
Source = Literal["auto", "hf", "modelscope"]
RunsOn = Literal["cpu", "cuda"]  # of this machine


class Section(BaseModel):
    """Part of a recipe: an unknown key is an error, and a value must have its type as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """The checkpoint to start from: a folder, which is fetched first where `repo` says from where."""

    path: Path  # folder in Hugging Face layout, 16- or 32-bit weights
    repo: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")] | None = None  # owner/name on a hub
    revision: Text | None = None  # branch, tag or commit; null is the default branch
    source: Source = "auto"
    endpoint: Text | None = None  # of a mirror; null is HF_ENDPOINT or MODELSCOPE_ENDPOINT, else the hub itself
    include: tuple[Text, ...] = ()  # further files to fetch: patterns such as docs/*
    lock: Path | None = None  # a checkpoint.lock.json: exactly these bytes, or none
    adapters: tuple[Path, ...] = ()  # folders with LoRA adapters (PEFT), merged in this order


class TargetSection(Section):
    """Where the artifact will serve: a scheme that is slow or refused there is refused before any work is done."""

    runtime: Runtime = "onnxruntime"
    device: Device = "cpu"  # the processor, or a generation of NVIDIA GPUs


class CalibrationSection(Section):
    """The pictures and questions from which the activations' scales are taken; only schemes with `a8` need them."""

    data: Text = "calibration"  # a split's name, a file, a folder or a data set id
    samples: Positive | None = 128  # records, evenly spaced over the set; null takes all
    batch_size: Positive = 4
    device: RunsOn = "cpu"


class QuantizeSection(Section):
    """Which numbers become integers, and how their scales are found."""

    scheme: Scheme = "w8a8-static"
    observer: Observer = "percentile"  # how an activation's range becomes a scale; weight-only schemes need none
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99  # of |activation|, for observer percentile
    ignore: tuple[Text, ...] = ()  # layers left as they are, beyond those of the family: names, or re:PATTERN


class ParitySection(Section):
    """How closely a graph set must follow the checkpoint that it was made from, rung by rung."""

    data: Text = "evaluation"
    items: Positive = 8  # records of which every step is compared, evenly spaced over the tasks
    decode_steps: Positive = 16
    cosine_min: Share = 0.99999  # FP32 rungs; their greedy tokens must be equal too
    answers: Positive = 64  # quantized or FP16 graphs: records whose answers may be compared until top-1 is decided
    top1_min: Share = 0.995  # and the share of their tokens that must be the same
    noise_max: Annotated[float, Field(ge=1)] = 1.5  # quantized graphs: see convert.parity


class ConvertSection(Section):
    """The ONNX graphs."""

    precision: Precision = "fp32"
    parity: ParitySection = ParitySection()


class BenchSection(Section):
    """What is measured, on which data: answers for the scores, and answers of a fixed length for the times."""

    data: Text = "evaluation"
    limit: Positive | None = 40  # records of each task; null takes all
    device: RunsOn = "cpu"
    batch_size: Positive = 16  # answers that are scored
    max_new_tokens: Positive = 64
    latency_items: Positive = 16  # requests that are timed, one at a time
    latency_tokens: Positive = 32  # length of a timed answer
    warmup: Annotated[int, Field(ge=0)] = 4  # requests before the clock starts
    repeats: Positive = 3  # timed answers of each item in each process
    blocks: Positive = 2  # fresh processes of each variant, taken in turns
    threads: Positive | None = None  # null: one for each core


class Recipe(Section):
    """One artifact: from which checkpoint, for which target, quantized, converted and measured how."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    model: ModelSection
    target: TargetSection = TargetSection()
    calibration: CalibrationSection = CalibrationSection()
    quantize: QuantizeSection = QuantizeSection()
    convert: ConvertSection | None = ConvertSection()  # null: the artifact is the quantized checkpoint
    bench: BenchSection = BenchSection()
