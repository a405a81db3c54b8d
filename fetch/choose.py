"""Which source is asked: the Hub's list decides what the bytes are, and the faster of two that have them gives them."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Thread
from time import monotonic

from fetch.access import AccessError
from fetch.compare import as_remote, list_differences
from fetch.request import Refused, opened
from fetch.retry import Again
from fetch.source import Listing, RemoteFile, Source
from fetch.transfer import TransferError
from shipvlm.errors import GateError, ShipvlmError
from shipvlm.lock import Lock, is_commit, some
from shipvlm.stages import Say

# The Hub did not say no: it said nothing, so another source may be asked. Every other answer of it counts.
SILENT = ("unreachable", "rate-limited")
MISSING = {"not-found": "not there", "revision-not-found": "no revision"}  # a source that just does not have it
PATIENCE = 10.0  # seconds that a second source has to answer once the first has
PROBE_BYTES, PROBE_SECONDS = 8_000_000, 2.0
WORTH_PROBING = 4 * PROBE_BYTES  # of what is left to fetch: less is there before two probes are


@dataclass(frozen=True)
class Wanted:
    """What is asked for: a repository at a revision, or the files of a lock, wherever they are."""

    repo: str
    revision: str | None
    lock: Lock | None
    whole: bool = True  # the lock has all files, it is not that of a fetch on its way
    going_on: bool = False  # the lock is that of what is there already: its commit counts, not what its branch is now

    def at(self, source: Source) -> str | None:
        """The revision to ask `source` for; what a lock says of one hub means nothing on another."""
        if self.lock is None or not (self.revision is None or self.going_on):
            return self.revision
        if (self.lock.repo, self.lock.source) == (self.repo, source.name):
            return self.lock.commit or self.lock.revision
        return _named_anywhere(self.revision or self.lock.revision) if self.going_on else None

    @property
    def files(self) -> list[RemoteFile] | None:
        """All files that are wanted, None where only the list of a source says which."""
        return as_remote(self.lock.files) if self.lock and self.whole else None


@dataclass(frozen=True)
class Answer:
    """One source that has what is wanted, and its list."""

    label: str  # of the source, for people
    listing: Listing
    source: Source | None  # None for a folder


@dataclass(frozen=True)
class Choice:
    """The answer that says what the bytes are, and what a second source said, if there is one."""

    first: Answer
    second: Answer | ShipvlmError | None


def choose(wanted: Wanted, sources: Sequence[Source], say: Say) -> Choice:
    """Ask all `sources`, one or two, at the same time. The first decides.

    Raises `AccessError` when it refuses, with what is known of the second: a gate is not walked around. One that does
    not answer at all is left out, which is said. Raises `GateError` when a source gives another commit than was asked.
    """
    first, *others = sources
    waiting = in_background(lambda: ask(_elsewhere(wanted), others[0])) if others else None
    try:
        answer = ask(wanted, first)
    except (AccessError, TransferError) as error:
        if waiting is None:
            raise
        second = result(waiting)
        silent = isinstance(error, TransferError) or error.situation in SILENT
        settled = wanted.files is not None if wanted.lock else not is_commit(wanted.revision or "")
        if silent and settled and isinstance(second, Answer):
            say(f"{first.label} does not answer ({briefly(error)}): taken from {second.label} alone")
            return Choice(second, None)
        raise with_second(error, second, wanted.files) from error
    other = result(waiting) if waiting else None
    if isinstance(other, ShipvlmError) and not _is_missing(other):
        say(f"{others[0].label}: {briefly(other)}; taken from {first.label} alone")
    return Choice(answer, other)


def ask(wanted: Wanted, source: Source) -> Answer:
    """The list of `source`. Raises `GateError` when it has another commit than the one that was asked for."""
    revision = wanted.at(source)
    try:
        listing = source.list(wanted.repo, revision)
    except AccessError as error:
        if error.situation == "revision-not-found" and revision and is_commit(revision):
            raise _lagging(error, wanted.repo, source) from error
        raise
    if revision and is_commit(revision) and listing.commit != revision:
        raise GateError(
            f"{source.label} answers with commit {listing.commit} where {revision} was asked for: it lags, or is no "
            "copy of the hub. Fetch from another --endpoint or --source"
        )
    return Answer(source.label, listing, source)


def _lagging(error: AccessError, repo: str, source: Source) -> AccessError:
    """The error with what the source has instead of the commit."""
    try:
        default = source.list(repo, None)
    except ShipvlmError:
        return error
    return error.also(default_revision=default.revision, default_commit=default.commit)


def _elsewhere(wanted: Wanted) -> Wanted:
    """The same of a second source: neither a commit nor the default branch of the first is one there."""
    return replace(wanted, revision=_named_anywhere(wanted.revision))


def _named_anywhere(revision: str | None) -> str | None:
    """A branch or a tag that may be on another hub too; None for a default branch and for a commit."""
    return None if revision in (None, "", "main", "master") or is_commit(revision) else revision


def with_second(
    error: ShipvlmError, second: Answer | ShipvlmError | None, files: Sequence[RemoteFile] | None
) -> ShipvlmError:
    """A refusal with whether ModelScope, the second source, has the same `files` (None: they are not known)."""
    if second is None or not isinstance(error, AccessError):
        return error
    if isinstance(second, Answer):
        seen = "there" if files is None else "different" if list_differences(files, second.listing) else "same"
    elif isinstance(second, AccessError):
        seen = MISSING.get(second.situation, "not known")
    else:
        seen = "not known"
    return error.also(modelscope=seen)


def _is_missing(error: ShipvlmError) -> bool:
    return isinstance(error, AccessError) and error.situation in MISSING


def briefly(error: ShipvlmError) -> str:
    """What is wrong with a source, without what to do about it."""
    if isinstance(error, AccessError):
        return error.fields.get("detail") or error.situation
    return str(error).partition(", and after")[0]


def agreeing(choice: Choice, files: Sequence[RemoteFile], say: Say) -> list[Answer]:
    """Who may give the bytes of `files`: the first, and the second where its list has the same; else that is said."""
    first, second = choice.first, choice.second
    if not isinstance(second, Answer) or first.listing.gated:
        return [first]
    if wrong := list_differences(files, second.listing):
        at = f" at commit {first.listing.commit}" if first.listing.commit else ""
        say(f"{second.label} has other files than {first.label}{at} ({some(wrong)}): taken from {first.label} alone")
        return [first]
    return [first, second]


def faster_first(answers: Sequence[Answer], files: Sequence[RemoteFile], say: Say) -> list[Answer]:
    """`answers`, which have the same bytes, by the rate at which a part of the largest file comes from each."""
    if len(answers) < 2 or sum(file.bytes for file in files) < WORTH_PROBING:
        return list(answers)
    largest = max(files, key=lambda file: file.bytes)
    rates = [(rate(answer, largest), answer) for answer in answers]
    rates.sort(key=lambda pair: -pair[0])
    said = ", ".join(f"{answer.label} {speed / 1e6:,.1f} MB/s" for speed, answer in rates)
    say(f"same files on both; probed: {said}. Taken from {rates[0][1].label}")
    return [answer for _, answer in rates]


def rate(answer: Answer, file: RemoteFile) -> float:
    """Bytes a second of a part of `file`, 0 when none came. At most `PROBE_BYTES`, for about `PROBE_SECONDS`."""
    assert answer.source is not None, "a folder is copied, there is nothing to probe"
    count, start = 0, monotonic()
    try:
        with opened(answer.source.place(answer.listing, file.path), stop=PROBE_BYTES) as response:
            for chunk in response.iter_content(64 * 1024):
                count += len(chunk)
                if count >= PROBE_BYTES or monotonic() - start > PROBE_SECONDS:
                    break
    except (Again, Refused, ShipvlmError):
        return 0.0
    return count / max(monotonic() - start, 1e-6)


def in_background(work: Callable[[], Answer]) -> "Future[Answer]":
    """Start `work` in a thread that does not hold up the end of the process."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def result(waiting: "Future[Answer]") -> Answer | ShipvlmError:
    """What the work gave, or the error that it ended with; it has `PATIENCE` from now on."""
    try:
        return waiting.result(PATIENCE)
    except TimeoutError:
        return TransferError(f"no answer within {PATIENCE:.0f} s")
    except ShipvlmError as error:
        return error
