"""The command line: the only room that knows all stages. Heavy imports stand inside the commands, so help is fast."""

import sys
import traceback
from collections.abc import Sequence
from typing import Any

from shipvlm.cli import (
    ask,
    bench,
    bench_check,
    bench_fit,
    bench_results,
    bench_shape,
    convert,
    data,
    fetch,
    plan,
    quantize,
    run,
    verify,
)
from shipvlm.cli.common import app
from shipvlm.errors import ExecutionError, SetupError, ShipvlmError

__all__ = [
    "ask",
    "bench",
    "bench_check",
    "bench_fit",
    "bench_results",
    "bench_shape",
    "convert",
    "data",
    "fetch",
    "main",
    "plan",
    "quantize",
    "run",
    "verify",
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `shipvlm` command. An error prints its message to stderr and sets the exit code."""
    options: dict[str, Any] = {}
    try:
        app(args=arguments, obj=options)
    except Exception as error:
        if options.get("debug"):
            traceback.print_exc()
        reported = _reported(error)
        print(f"error: {_message(reported, options.get('lang'))}", file=sys.stderr)
        sys.exit(reported.exit_code)


def _message(error: ShipvlmError, lang: Any) -> str:
    """What an error says; the refusal of a source in the language asked for, else that of the locale."""
    from fetch.access import AccessError, language, text

    return text(error, language(lang)) if isinstance(error, AccessError) else str(error)


def _reported(error: Exception) -> ShipvlmError:
    """What to say about an exception. One that nobody foresaw must not leave with 1, which stands for a gate."""
    if isinstance(error, ShipvlmError):
        return error
    own = ("shipvlm", "calib_data", "fetch", "quantize", "convert", "bench")
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in own:
        return SetupError(
            f"the package {error.name} is not installed: in the checkout, run make setup or pip install -e '.[cpu]'"
        )
    message = " ".join(str(error).split())
    return ExecutionError(f"{type(error).__name__}: {message} (shipvlm --debug COMMAND ... says where)")
