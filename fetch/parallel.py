"""Does the same with many things in threads that never hold up the end of the process."""

from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import TypeVar

PATIENCE = 1.0  # seconds for which stopped threads are waited for
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item], workers: int, stop: Event) -> list[Result]:
    """`[work(item) for item in items]`, by `workers` threads that begin with the first items.

    The first exception of any of them, or Ctrl-C, sets `stop` and comes out. `work` that looks at `stop` ends soon
    after; one that waits for a server is left alone, and must not write when it wakes up.
    """
    waiting: SimpleQueue[int] = SimpleQueue()
    finished: SimpleQueue[tuple[int, Result] | BaseException] = SimpleQueue()

    def run() -> None:
        while not stop.is_set():
            try:
                index = waiting.get_nowait()
            except Empty:
                return
            try:
                finished.put((index, work(items[index])))
            except BaseException as error:
                finished.put(error)
                stop.set()

    for index in range(len(items)):
        waiting.put(index)
    threads = [Thread(target=run, daemon=True) for _ in range(min(workers, len(items)))]
    results: dict[int, Result] = {}
    try:
        for thread in threads:
            thread.start()
        for _ in items:
            one = finished.get()
            if isinstance(one, BaseException):
                raise one
            results[one[0]] = one[1]
    except BaseException:
        stop.set()
        end = monotonic() + PATIENCE
        for thread in threads:
            if thread.is_alive():
                thread.join(max(0.0, end - monotonic()))
        raise
    return [results[index] for index in range(len(items))]
