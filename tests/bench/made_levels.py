"""Levels of a sweep as an engine's process would say them, with times that are planted."""

from typing import Any

from bench.observations import Conditions
from bench.sweep_levels import Level


def level(clients: int, seconds: list[float] | float, process: int = 0, **changes: Any) -> Level:
    """One attempt at a level; one number stands for 130 batches that took as long."""
    times = [seconds] * 130 if isinstance(seconds, float) else seconds
    attempt = changes.get("attempt", 0)
    fields: dict[str, Any] = {
        "process": process,
        "clients": clients,
        "attempt": attempt,
        "dtype": "float32",
        "warm": True,
        "seconds": tuple(times),
        "first": tuple(each / 2 for each in times),
        "image_sha256": tuple(
            f"{process}/{attempt}/{clients}/{number}/{row}" for number in range(len(times)) for row in range(clients)
        ),
        "clean": not changes.get("reasons"),
        "conditions": Conditions(seconds=sum(times)),
    }
    return Level(**(fields | changes))


def levels(clients: int, *seconds: list[float] | float, **changes: Any) -> list[Level]:
    """The same level in one process after the other."""
    return [level(clients, each, process, **changes) for process, each in enumerate(seconds)]
