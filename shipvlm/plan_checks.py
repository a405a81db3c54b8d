"""What can be wrong with a recipe before its checkpoint is read: target, data, and where the checkpoint comes from."""

from collections.abc import Mapping
from dataclasses import dataclass

from shipvlm.errors import InputError
from shipvlm.lock import check_finished, read_lock
from shipvlm.recipe import ModelSection, Recipe
from shipvlm.schemes import SCALES, Line, nearest

GRAPH_RUNTIMES = ("onnxruntime", "tensorrt-rtx")


@dataclass(frozen=True)
class Problem:
    """What is wrong, where in the recipe, and whether it stops the run."""

    where: str
    message: str
    stops: bool = True


@dataclass(frozen=True)
class Merging:
    """What the adapters of a recipe are, as far as it can be seen: values of the largest layer that they change."""

    largest: int
    notes: tuple[str, ...] = ()


def awaited(model: ModelSection) -> bool:
    """Whether the checkpoint is still to be fetched: all of it, or the rest."""
    if model.repo is None:
        return False
    try:
        check_finished(model.path)
    except InputError:
        return True
    return not (model.path / "config.json").is_file()


def target_problems(recipe: Recipe, line: Line) -> list[Problem]:
    scheme, runtime, device = recipe.quantize.scheme, recipe.target.runtime, recipe.target.device
    problems = []
    if line.verdict in ("slow", "refused"):
        better = nearest(scheme, runtime, device)
        advice = f"take {better.scheme} on {better.runtime}" if better else "choose another device"
        problems.append(
            Problem("quantize.scheme", f"{scheme} is {line.verdict} on {runtime}, {device}: {line.reason}; {advice}")
        )
    if line.verdict == "unmeasured":
        problems.append(Problem("target", f"{scheme} on {runtime}, {device}: {line.reason}", stops=False))
    if device != "cpu" and recipe.bench.device == "cpu":
        note = (
            f"the report is measured on this machine's processor; on a machine with {device}: --set bench.device=cuda"
        )
        problems.append(Problem("target.device", note, stops=False))
    if recipe.convert is None and runtime in GRAPH_RUNTIMES:
        problems.append(Problem("convert", f"{runtime} loads ONNX graphs; leave out convert: null"))
    if recipe.convert and runtime not in GRAPH_RUNTIMES:
        problems.append(Problem("convert", f"{runtime} loads checkpoints, no ONNX graphs; write convert: null"))
    if not SCALES[scheme].activations:
        unused = f"{scheme} quantizes weights only: calibration and observer are not used"
        problems.append(Problem("calibration", unused, stops=False))
    return problems


def data_problems(recipe: Recipe, records: Mapping[str, int | str | None]) -> list[Problem]:
    needs = {"bench.data": (recipe.bench.data, 1)}
    if recipe.convert:
        parity = recipe.convert.parity
        needs["convert.parity.data"] = (parity.data, max(parity.items, parity.answers))
    if SCALES[recipe.quantize.scheme].activations:
        needs["calibration.data"] = (recipe.calibration.data, recipe.calibration.samples or 1)
    problems = []
    for where, (data, count) in needs.items():
        found = records[data]
        if isinstance(found, str):
            problems.append(Problem(where, found))
        elif found is None:
            problems.append(Problem(where, f"{data}: its records are counted when it is read", stops=False))
        elif found < count:
            problems.append(Problem(where, f"{data}: it has {found} records, {count} are asked for"))
    return problems


def fetch_problems(model: ModelSection, until: str) -> list[Problem]:
    """What is to be fetched is said; it cannot be known here whether its source gives it."""
    problems = []
    if model.repo is None and until == "fetch":
        problems.append(Problem("model.repo", "nothing is to be fetched; give OWNER/NAME, or leave out --until fetch"))
    if model.lock and model.include:
        problems.append(Problem("model.include", "model.lock says which files are fetched: leave out one of them"))
    size = ""
    if model.lock:
        try:
            lock = read_lock(model.lock)
        except InputError as error:
            problems.append(Problem("model.lock", str(error)))
        else:
            size = f", {sum(file.bytes for file in (*lock.files.values(), *lock.documents.values())) / 1e9:.1f} GB"
    if awaited(model):
        revision = f" at {model.revision}" if model.revision else ""
        place = {"auto": "the Hub or ModelScope", "hf": "the Hub", "modelscope": "ModelScope"}[model.source]
        note = (
            f"{model.path}: not there yet; shipvlm run fetches {model.repo}{revision} from {model.endpoint or place}"
            f"{size}. What it holds, and what it takes, is seen then"
        )
        problems.append(Problem("model.path", note, stops=False))
    return problems


def merge_problems(merging: Merging | str | None) -> list[Problem]:
    if isinstance(merging, str):
        return [Problem("model.adapters", merging)]
    return [Problem("model.adapters", note, stops=False) for note in (merging.notes if merging else ())]
