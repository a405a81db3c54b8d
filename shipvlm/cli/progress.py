"""What is being done, how far it is and how long it will take: bars on a terminal, lines in a log. All on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from shipvlm.stages import Progress, Say

QUIET_SECONDS = 20  # between two lines of a log about the same work


@contextmanager
def shown() -> Iterator[tuple[Progress, Say]]:
    """Yield the two callables that a stage's work is shown with."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        yield _lines(console), lambda text: console.print(text)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks or (bars.tasks[tasks[what]].finished and done < total):
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield progress, lambda text: bars.console.print(text)


def _lines(console: Console) -> Progress:
    started: dict[str, float] = {}
    said: dict[str, float] = {}

    def progress(what: str, done: int, total: int) -> None:
        now = monotonic()
        start = started.setdefault(what, now)
        if done < total and now - said.get(what, start) < QUIET_SECONDS:
            return
        said[what] = now
        left = (now - start) / done * (total - done) if done else 0
        console.print(f"{what}: {done} of {total}" + (f", about {left:.0f} s left" if 0 < done < total else ""))

    return progress
