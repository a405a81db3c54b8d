"""When a request to a server is tried again, after how long, and when it ends: one rule for lists and for files."""

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from huggingface_hub.utils import parse_ratelimit_headers
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds; a server that asks for more than the longest is not waited for
STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})  # what may be right the next time


class Again(Exception):
    """This attempt failed in a way that may pass. `after`: seconds for which the server asked to be left alone."""

    def __init__(
        self, reason: str, status: int | None = None, after: float | None = None, reached: bool = True
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.after = after
        self.reached = reached  # a connection stood


def retrying() -> Retrying:
    """`retrying()(function, *arguments)` calls it until it raises something else than `Again`, or returns.

    The last `Again` passes through when the attempts are used up, or the server asks for too long a wait.
    The wait grows with each attempt and is random (full jitter), so that many files do not come back at once.
    """
    ended = stop_after_attempt(ATTEMPTS)
    return Retrying(
        retry=retry_if_exception_type(Again),
        stop=lambda state: ended(state) or (_after(state) or 0) > LONGEST_WAIT,
        wait=_wait,
        sleep=lambda seconds: time.sleep(seconds),
        reraise=True,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by a response's Retry-After (a number or a date), else by the Hub's RateLimit; None without."""
    value = headers.get("Retry-After", "").strip()
    if not value and (limit := parse_ratelimit_headers(headers)) is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _after(state: RetryCallState) -> float | None:
    failure = state.outcome.exception() if state.outcome is not None else None
    return failure.after if isinstance(failure, Again) else None


def _wait(state: RetryCallState) -> float:
    backoff = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT / 4)(state)
    return max(_after(state) or 0.0, backoff)
