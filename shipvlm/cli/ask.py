"""shipvlm ask: one question about pictures."""

from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

import typer

from shipvlm.cli.common import AsJson, app, check_model, open_picture, print_json, quiet_libraries
from shipvlm.errors import InputError


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask about the pictures.")],
    model: Annotated[Path, typer.Option(help="Checkpoint, or artifact with ONNX graphs.")],
    image: Annotated[
        list[Path] | None, typer.Option(help="Picture file; give it again for several, leave it out for none.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the best token; more draws among them.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw among the best tokens of this probability together.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw among this many best tokens; 0 for all.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 disfavours words that were said.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="Text before which the answer ends; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the model runs.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Ask a checkpoint or an artifact a question about pictures, or without one. Greedy unless told otherwise."""
    if not question.strip():
        raise InputError("the question is empty")
    check_model(model)
    pictures = tuple(open_picture(path) for path in image or ())
    quiet_libraries()

    from shipvlm.runtime.generate import generate
    from shipvlm.runtime.inputs import Request
    from shipvlm.runtime.model import open_model
    from shipvlm.runtime.sampling import Sampling

    settings = Sampling(max_new_tokens, temperature, top_p, top_k, repetition_penalty, tuple(stop or ()), seed)
    start = perf_counter()
    opened = open_model(model, device=device)
    loaded = perf_counter()
    shown = None if as_json else lambda _, piece: print(piece, end="", flush=True)
    [answer] = generate(opened, [Request(question, pictures)], settings, on_text=shown)
    if not as_json:
        print()
        return
    took = answer.seconds
    seconds = {
        "load": loaded - start,
        "preprocess": took.preprocess,
        "vision": took.vision,
        "prefill": took.prefill,
        "decode": sum(took.decode),
    }
    print_json(
        {
            "answer": answer.text,
            "finish": answer.finish,
            "tokens": len(answer.token_ids),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
        }
    )
