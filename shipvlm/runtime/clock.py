"""What marks the borders of stages: the host's clock, and beside it the device's own where torch drives it."""

from time import perf_counter
from typing import Any, Protocol


class Clock(Protocol):
    def mark(self) -> None:
        """A border is here."""

    def laps(self) -> list[float]:
        """Seconds between each border and the next."""


class HostClock:
    """Wall time. Where work runs on a device, the engine synchronises before a border."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        self._marks.append(perf_counter())

    def laps(self) -> list[float]:
        return [after - before for before, after in zip(self._marks, self._marks[1:], strict=False)]


class CudaClock:
    """CUDA events on the current stream of `device`: the GPU stamps each when it has done all work before it."""

    def __init__(self, device: Any) -> None:
        import torch

        self._torch, self._device = torch, device
        self._events: list[Any] = []

    def mark(self) -> None:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(self._torch.cuda.current_stream(self._device))
        self._events.append(event)

    def laps(self) -> list[float]:
        self._torch.cuda.synchronize(self._device)
        pairs = zip(self._events, self._events[1:], strict=False)
        return [before.elapsed_time(after) / 1e3 for before, after in pairs]
