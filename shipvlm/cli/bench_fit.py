"""shipvlm bench fit: how long a request and how many at once fit into a memory, by trying."""

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from shipvlm.cli.bench import Data, group, shown
from shipvlm.cli.common import AsJson, check_model, print_json, quiet_libraries
from shipvlm.errors import InputError, SetupError
from shipvlm.recipe import RunsOn

UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


@group.command()
def fit(
    folder: Annotated[Path, typer.Argument(help="A checkpoint or an artifact.")],
    device: Annotated[RunsOn, typer.Option(help="Where it is tried.")] = "cpu",
    memory: Annotated[
        str | None, typer.Option(help="Into how much: 24GB, 16GiB, or a card such as l4; else what is free on the GPU.")
    ] = None,
    case: Annotated[
        str, typer.Option(help="What is asked: vqa-small, caption, document. Its picture, words and answer.")
    ] = "vqa-small",
    tokens: Annotated[
        int | None, typer.Option(min=1, help="How long a request is tried; as long as the model reads when left out.")
    ] = None,
    data: Data = "evaluation",
    as_json: AsJson = False,
) -> None:
    """Try how long a request fits into a memory, and how many at once: whole requests, and no size that was not seen.

    Sizes double until one does not fit, then the middle is tried; what is reported was tried in a process of its own.
    """
    check_model(folder)
    quiet_libraries()
    from bench.fit import markdown, measure_fit
    from bench.variants import Variant
    from calib_data.load import load_records
    from shipvlm.cli import progress as screen

    size = _bytes(memory, device)
    asked = {"device": device, "memory": memory, "case": case, "tokens": tokens, "data": shown(Path(data))}
    options = [part for name, value in asked.items() if value for part in (f"--{name}", str(value))]
    found = None
    try:
        with screen.shown() as (_, say):
            for part in measure_fit(
                Variant.of(folder.resolve().name, folder, device),
                load_records(data)[0],
                memory=size,
                case=case,
                most_tokens=tokens,
                command=shlex.join(["shipvlm", "bench", "fit", shown(folder), *options]),
                say=say,
            ):
                found = part
    finally:  # whatever ended it
        if found and as_json:
            print_json(found)
        elif found:
            print(markdown(found), end="")


def _bytes(memory: str | None, device: RunsOn) -> int:
    """How much memory is meant. Raises `InputError` where that is not said, or more than is free here."""
    from bench.capacity import CARDS

    free = _free(device)
    if memory is None:
        if device == "cpu":
            raise InputError("--memory: say into how much it is to fit, such as 4GB: a CPU shares it with all else")
        return free
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB|MiB|GiB)", memory)
    asked = int(float(found[1]) * UNITS[found[2]]) if found else CARDS.get(memory, 0)
    if not asked:
        raise InputError(f"--memory {memory}: give a size such as 24GB or 16GiB, or one of {', '.join(CARDS)}")
    if asked > free:
        raise InputError(f"--memory {memory}: more than the {free / 1e9:.1f} GB that are free here cannot be tried")
    return asked


def _free(device: RunsOn) -> int:
    """Bytes that nobody uses. Raises `SetupError` where that is not known."""
    from bench.nvml import device as gpu
    from shipvlm.memory import available_memory

    free = gpu().free() if device == "cuda" else available_memory()
    if free is None:
        raise SetupError(f"how much memory is free is not said here ({device}), so nothing can be tried")
    return free
