"""What is being done, how far it is and how long it will take: bars on a terminal, lines in a log. All on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from time import monotonic

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from shipvlm.stages import BytesProgress, Progress, Say

QUIET_SECONDS = 20  # between two lines of a log about the same work
ALL = "all files"
LARGE = 10_000_000  # bytes from which on the end of a file is worth a line


@contextmanager
def shown() -> Iterator[tuple[Progress, Say]]:
    """Yield the two callables that a stage's work is shown with."""
    console = _console()
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


@contextmanager
def bytes_shown() -> Iterator[tuple[BytesProgress, Say]]:
    """The same for files that are transferred: rate and time left, for each file and for all of them.

    What the first call about a file says was there before, and counts for no rate.
    """
    console = _console()
    if not console.is_terminal:
        yield _byte_lines(console), lambda text: console.print(text)
        return
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bars(*columns, console=console) as bars:
        yield _byte_bars(bars), lambda text: bars.console.print(text)


@contextmanager
def bars_shown(wanted: bool) -> Iterator[BytesProgress]:
    """The bars of `bytes_shown` when they are `wanted` and there is a terminal to draw them on, and no lines."""
    if wanted and _console().is_terminal:
        with bytes_shown() as (progress, _):
            yield progress
    else:
        yield lambda *_: None


def _console() -> Console:
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def _byte_bars(bars: Bars) -> BytesProgress:
    """A bar for each file while it is on its way, and one for all that are known of."""
    tasks: dict[str, TaskID] = {}
    files: dict[str, tuple[int, int]] = {}
    mutex = Lock()
    whole = bars.add_task(ALL, total=None)

    def progress(path: str, done: int, size: int) -> None:
        with mutex:
            new = path not in files
            files[path] = (done, size)
            together, total = (sum(column) for column in zip(*files.values(), strict=True))
            if new:  # what was there before must not look like speed
                bars.reset(whole, total=total, completed=together)
                return
            bars.update(whole, completed=together, total=total)
            if path not in tasks:
                tasks[path] = bars.add_task(path, total=size)
                bars.reset(tasks[path], completed=done)
            bars.update(tasks[path], completed=done, visible=done < size)

    return progress


def _byte_lines(console: Console) -> BytesProgress:
    """A line for all files every `QUIET_SECONDS`, and one at the end of each."""
    files: dict[str, tuple[int, int]] = {}
    started: dict[str, tuple[float, int]] = {}  # when a file was first told of, and how much of it was there
    mutex = Lock()
    said = monotonic()

    def progress(path: str, done: int, size: int) -> None:
        nonlocal said
        with mutex:
            now = monotonic()
            before = files.get(path)
            files[path] = (done, size)
            if before is None:
                started[path] = (now, done)
                return
            if done == size >= LARGE and before[0] < size:
                console.print(f"{path}: {decimal(size)}")
            if now - said >= QUIET_SECONDS:
                said = now
                console.print(_state(files, started, now))

    return progress


def _state(files: dict[str, tuple[int, int]], started: dict[str, tuple[float, int]], now: float) -> str:
    """How much of all files is there, how fast it comes, and when it ends at that rate."""
    done, size = (sum(column) for column in zip(*files.values(), strict=True))
    first, before = min(start for start, _ in started.values()), sum(there for _, there in started.values())
    rate = (done - before) / max(now - first, 1e-9)
    left = f", {decimal(int(rate))}/s, about {(size - done) / rate:.0f} s left" if rate > 0 else ""
    return f"{ALL}: {decimal(done)} of {decimal(size)}{left}"


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
