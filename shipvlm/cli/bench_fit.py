"""shipvlm bench fit: how long a request and how many at once fit into a memory, by trying."""

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from shipvlm.cli.bench import Data, group, shown
from shipvlm.cli.common import AsJson, check_model, print_json, quiet_libraries
from shipvlm.errors import InputError

UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


@group.command()
def fit(
    folder: Annotated[Path, typer.Argument(help="A checkpoint or an artifact.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    memory: Annotated[
        str | None, typer.Option(help="Into how much: 24GB, 16GiB, or a card such as l4; else all of the GPU.")
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
    """Try how long a request fits into a memory, and how many at once: seen to fit, within an eighth.

    Sizes double until one does not fit; each try is a picture, a prompt and a decode step in a fresh process.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: cpu or cuda")
    check_model(folder)
    quiet_libraries()
    from bench.fit import markdown, measure_fit
    from bench.variants import Variant
    from calib_data.load import load_records
    from shipvlm.cli import progress as screen

    size = _bytes(memory, device)
    asked = {"device": device, "memory": memory, "case": case, "tokens": tokens, "data": shown(Path(data))}
    options = [part for name, value in asked.items() if value for part in (f"--{name}", str(value))]
    with screen.shown() as (_, say):
        found = measure_fit(
            Variant.of(folder.resolve().name, folder, device),  # type: ignore[arg-type]
            load_records(data)[0],
            memory=size,
            case=case,
            most_tokens=tokens,
            command=shlex.join(["shipvlm", "bench", "fit", shown(folder), *options]),
            say=say,
        )
    if as_json:
        print_json(found)
    else:
        print(markdown(found), end="")


def _bytes(memory: str | None, device: str) -> int:
    """How much memory is meant. Raises `InputError` where that is not said, or more than there is."""
    from bench.capacity import CARDS
    from bench.environment import machine
    from bench.nvml import device as gpu

    there = gpu().total() if device == "cuda" else machine()["memory"]
    if memory is None:
        if device == "cpu":
            raise InputError("--memory: say into how much it is to fit, such as 4GB: a CPU shares it with all else")
        if there is None:
            raise InputError("--memory: the driver does not say how much this GPU has; say it, such as 24GB")
        return there
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB|MiB|GiB)", memory)
    if not found and memory not in CARDS:
        raise InputError(f"--memory {memory}: give a size such as 24GB or 16GiB, or one of {', '.join(CARDS)}")
    asked = int(float(found[1]) * UNITS[found[2]]) if found else CARDS[memory]
    if there is not None and asked > there:
        raise InputError(f"--memory {memory}: more than the {there / 1e9:.1f} GB that are here can be tried")
    return asked
