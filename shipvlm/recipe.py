"""What to build, as data: one strict model of a recipe. `shipvlm.recipe_file` reads it.

A path in a recipe is relative to the working directory, as a path on the command line is.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from shipvlm.errors import InputError
from shipvlm.repo import is_repo

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Margin = Annotated[float, Field(gt=0, le=1)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]

Scheme = Literal["w8a8-static", "w8a16", "w4a16"]
Observer = Literal["minmax", "percentile", "mse", "entropy"]
Precision = Literal["fp32", "fp16"]
Runtime = Literal["onnxruntime", "tensorrt-rtx", "vllm", "sglang", "transformers"]
Device = Literal["cpu", "turing", "ampere", "ada", "hopper", "blackwell"]
Source = Literal["auto", "hf", "modelscope"]
RunsOn = Literal["cpu", "cuda"]  # of this machine
Measured = Literal["timing", "accuracy"]
Form = Literal["compile", "bnb-int8", "bnb-nf4", "fp16", "fp32"]
Workload = Literal["vqa-small", "caption", "document", "batch8"]


class Section(BaseModel):
    """Part of a recipe: an unknown key is an error, and a value must have its type as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """The checkpoint to start from: a folder, which is fetched first where `repo` says from where, and its adapters."""

    path: Path  # folder in Hugging Face layout, 16- or 32-bit weights
    repo: str | None = None  # owner/name on a hub
    revision: Text | None = None  # branch, tag or commit; null is the default branch
    source: Source = "auto"
    endpoint: Text | None = None  # of a mirror; null is HF_ENDPOINT or MODELSCOPE_ENDPOINT, else the hub itself
    include: tuple[Text, ...] = ()  # further files to fetch: patterns such as docs/*
    lock: Path | None = None  # a checkpoint.lock.json: exactly these bytes, or none
    adapters: tuple[Path, ...] = ()  # folders with LoRA adapters (PEFT), merged in this order

    @field_validator("repo")
    @classmethod
    def _owner_and_name(cls, value: str | None) -> str | None:
        if value is not None and not is_repo(value):
            raise PydanticCustomError("no_repo", "OWNER/NAME, such as Qwen/Qwen3-VL-8B-Instruct")
        return value

    @field_validator("endpoint")
    @classmethod
    def _without_password(cls, value: str | None) -> str | None:
        if value is not None and "@" in value:  # not a ValueError, whose message would show the value
            raise InputError(
                "model.endpoint has a user name or a password in it, which would be written down: leave it out"
            )
        return value

    @field_validator("revision", "source", "endpoint", "include", "lock")
    @classmethod
    def _only_of_a_repo(cls, value: object, info: ValidationInfo) -> object:
        """What says how to fetch is of no use without what to fetch."""
        default = cls.model_fields[str(info.field_name)].default
        if value != default and info.data.get("repo", "wrong, and said so") is None:
            raise PydanticCustomError("without_repo", "left out: without model.repo nothing is fetched")
        return value

    @field_validator("adapters")
    @classmethod
    def _once(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if len(set(value)) < len(value):
            raise PydanticCustomError("twice", "a list in which each adapter stands once")
        return value


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
    measure: Annotated[tuple[Measured, ...], Field(min_length=1)] = ("timing", "accuracy")
    variants: tuple[Form, ...] = ()  # further forms of the baseline, in transformers
    device: RunsOn = "cpu"
    threads: Positive | None = None  # null: one for each core
    batch_size: Positive = 16  # answers that are scored
    max_new_tokens: Positive = 64
    workloads: Annotated[tuple[Workload, ...], Field(min_length=1)] = ("vqa-small",)  # see bench/workloads.py
    latency_items: Positive = 16  # requests of each workload in a block
    repeats: Positive = 2  # rounds of them in a block
    blocks: Positive = 10  # fresh processes of each variant, taken in turns
    warmup: Positive = 6  # requests before the clock starts, and more until the times are stable


class GateSection(Section):
    """What the artifact must hold against the baseline; null is not asked for. Shares and ratios, not percent."""

    score: Margin | None = 0.03  # the score over all tasks may be lower by this: 0.03 is 3 points
    score_by_task: dict[Text, Margin] = {}  # the same for a task by its name
    empty: Margin | None = None  # the share of empty answers may be higher by this
    unparsable: Margin | None = None  # so may that of answers that cannot be read
    length: Margin | None = None  # tokens of the answers, over the baseline's, may be off 1 by this
    top1_agreement: Share | None = None  # with the baseline's answers, at least
    kl: Above0 | None = None  # nats a token, at most
    ttft: Above0 | None = None  # baseline / artifact, at least: 1.5 is half as fast again, 0.95 may be 5 % slower
    tpot: Above0 | None = None
    e2e: Above0 | None = None
    cold_start: Above0 | None = None
    memory: Above0 | None = None  # peak, artifact / baseline, at most
    size: Above0 | None = None  # weights on disk, artifact / baseline, at most


class Recipe(Section):
    """One artifact: from which checkpoint, for which target, quantized, converted and measured how."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    model: ModelSection
    target: TargetSection = TargetSection()
    calibration: CalibrationSection = CalibrationSection()
    quantize: QuantizeSection = QuantizeSection()
    convert: ConvertSection | None = ConvertSection()  # null: the artifact is the quantized checkpoint
    bench: BenchSection = BenchSection()
    gates: GateSection = GateSection()
