"""Tells when a file comes so slowly that another source should be asked for the rest of it."""

from time import monotonic

SLOW = 10_000  # bytes a second
LONG = 60.0  # seconds over which a rate is taken


class Slow(Exception):
    """A source gives a file, and so slowly that one that has the same bytes is better asked."""


class Pace:
    """How fast one file comes from one source."""

    def __init__(self) -> None:
        self._since, self._count = monotonic(), 0

    def slow(self, count: int) -> float | None:
        """Bytes a second over the last `LONG` seconds when that is less than `SLOW`, else None.

        `count`: bytes that are there. It falls when a server begins anew; the time starts again then.
        """
        now = monotonic()
        seconds, came = now - self._since, count - self._count
        if came >= 0 and seconds < LONG:
            return None
        self._since, self._count = now, count
        return came / seconds if 0 <= came < SLOW * seconds else None
