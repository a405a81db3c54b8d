"""Downloads many files at the same time: what is there and right stays, what comes wrong is set aside and asked again.

A source that trickles is left for the next one, and asked again when that has nothing.

One file that cannot be had does not keep the others from coming.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic

from fetch.access import AccessError
from fetch.hashing import file_difference
from fetch.landing import final_path, part_path, set_aside, set_part_aside
from fetch.pace import Pace, Slow
from fetch.parallel import in_parallel
from fetch.request import Refused
from fetch.retry import Again
from fetch.source import Listing, RemoteFile, Source
from fetch.space import check_space
from fetch.transfer import Mismatch, TransferError, fetch_file
from shipvlm.errors import GateError, SetupError, ShipvlmError
from shipvlm.lock import LOCK, NAMED, QUARANTINE, LockedFile, some
from shipvlm.stages import BytesProgress, Say

Sources = Sequence[tuple[Source, Listing]]
TRIES = 2  # of a file on one source
REPORT_EVERY = 0.1  # seconds, for each file
# The source refuses the person, not the request: when it is the one that decides, no other is asked in its place.
PERSONAL = {"gated-no-token", "gated-token-withheld", "gated-not-approved", "token-rejected", "disabled"}


class _Stopped(Exception):
    """The download ends for another file's sake."""


@dataclass
class _Failure:
    """Why no source gave a file: what each did, and the errors that say so to people."""

    problems: list[str] = field(default_factory=list)  # as they are said while it goes on
    errors: list[ShipvlmError] = field(default_factory=list)
    wrong: dict[str, list[str]] = field(default_factory=dict)  # what is wrong with bytes, and who gave them
    others: list[str] = field(default_factory=list)  # problems other than wrong bytes
    kept: bool = False  # wrong bytes are in the quarantine

    def __str__(self) -> str:
        return "; ".join(dict.fromkeys(self.problems))

    def briefly(self) -> str:
        """Who gave wrong bytes, without their sha256."""
        parts = [f"{what} from {' and from '.join(dict.fromkeys(labels))}" for what, labels in self.wrong.items()]
        kept = f" (kept in {QUARANTINE})" if self.kept else ""
        return "; ".join([", ".join(parts) + kept, *dict.fromkeys(self.others)])


def download(
    files: Sequence[RemoteFile],
    sources: Sources,
    folder: Path,
    progress: BytesProgress,
    say: Say,
    workers: int = 8,
) -> dict[str, LockedFile]:
    """Bring `files` into `folder`, each from the first of `sources`, or the next when that fails twice or trickles.

    Returns {path: bytes and sha256}, all verified. `progress` and `say` are called from several threads.
    What is on its way lies in `.fetch`, and the next call goes on from there; bytes that are not the listed ones are
    kept in `.quarantine`. Raises at once `SetupError` when the disk is too small or cannot be written, `InputError`
    for a path that leaves `folder` and a link on its way, and `AccessError` where a source refuses; when all other
    files are there, `GateError` for wrong bytes and `TransferError` where the network gave up.
    """
    stop = Event()
    files = sorted(files, key=lambda file: -file.bytes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = in_parallel(lambda file: _kept(file, folder, progress, say), files, workers, stop)
        missing = [file for file, sha256 in zip(files, kept, strict=True) if sha256 is None]
        check_space(missing, folder)
        came = in_parallel(_Bringing(sources, folder, progress, say, stop), missing, workers, stop)
    except SetupError:
        check_space(files, folder)  # a disk that filled up meanwhile: says how much is missing in all
        raise
    except OSError as error:
        raise SetupError(f"{error.filename or folder}: cannot be written ({error.strerror}); use another -o") from error
    results = {file.path: sha256 for file, sha256 in zip(files, kept, strict=True) if sha256 is not None}
    failures: dict[str, _Failure] = {}
    for file, result in zip(missing, came, strict=True):
        if isinstance(result, _Failure):
            failures[file.path] = result
        else:
            results[file.path] = result
    if failures:
        raise _error(failures, sources, folder)
    return {file.path: LockedFile(bytes=file.bytes, sha256=results[file.path]) for file in files}


def _kept(file: RemoteFile, folder: Path, progress: BytesProgress, say: Say) -> str | None:
    """sha256 of a file that is there and right. One that is wrong is set aside."""
    target = final_path(folder, file.path)
    if not target.exists():
        return None
    problem, sha256 = file_difference(target, file)
    if problem:
        say(f"{file.path}: {problem}; set aside as {set_aside(folder, file.path).relative_to(folder)}")
        return None
    progress(file.path, file.bytes, file.bytes)
    return sha256


@dataclass(frozen=True)
class _Bringing:
    """Fetches one file into the folder: its sha256, or why no source gave it."""

    sources: Sources
    folder: Path
    progress: BytesProgress
    say: Say
    stop: Event
    slow: set[str] = field(default_factory=set)  # sources that were said to be slow

    def __call__(self, file: RemoteFile) -> str | _Failure:
        failure = _Failure()
        order = list(self.sources)
        for number, (source, listing) in enumerate(order):  # which grows meanwhile
            patient = number + 1 >= len(self.sources)
            if failure.problems:
                self.say(f"{file.path}: {failure.problems[-1]}; asking {source.label}")
            for tries_left in reversed(range(TRIES)):
                try:
                    return self._fetch(file, source, listing, patient)
                except Slow as error:
                    failure.problems.append(f"{source.label}: {error}")
                    order.append((source, listing))  # slow is better than nothing
                    break
                except Mismatch as error:
                    aside = self._set_aside(file)
                    failure.kept |= bool(aside)
                    failure.wrong.setdefault(str(error).partition(" (")[0], []).append(source.label)
                    failure.problems.append(f"{source.label}: {error}{aside}")
                except (Again, Refused) as error:
                    failure.problems.append(f"{source.label}: {error}")
                    failure.others.append(failure.problems[-1])
                    failure.errors.append(source.explain(listing, error))
                    if isinstance(error, Again):
                        break  # it was asked often enough
                    self._end_when_final(source, error, failure.errors[-1], tries_left)
                if tries_left:
                    self.say(f"{file.path}: {failure.problems[-1]}; asking again")
        return failure

    def _end_when_final(self, source: Source, refused: Refused, error: ShipvlmError, tries_left: int) -> None:
        """Raise a refusal that all files would meet. A bare 403 is one when it is said twice: ModelScope errs.

        One of ModelScope beside the Hub is none: the Hub, which decides what the bytes are, gives them too.
        """
        if isinstance(error, AccessError) and error.situation in PERSONAL:
            if source.name != "hf" and len(self.sources) > 1:
                return
            final = not tries_left or refused.status != 403 or bool(refused.code or refused.said)
        else:
            final = not tries_left and refused.page and len(self.sources) == 1
        if final:
            raise error

    def _fetch(self, file: RemoteFile, source: Source, listing: Listing, patient: bool) -> str:
        part = part_path(self.folder, file.path)
        sha256 = fetch_file(
            lambda: source.place(listing, file.path), file, part, self._report(file, source.label, patient)
        )
        part.rename(final_path(self.folder, file.path))
        return sha256

    def _report(self, file: RemoteFile, label: str, patient: bool) -> Callable[[int], None]:
        """For `fetch_file`: tells how far it is, and stops it. A slow source is left, but by the `patient`."""
        last, pace = 0.0, Pace()

        def report(count: int) -> None:
            nonlocal last
            if self.stop.is_set():
                raise _Stopped
            if count < file.bytes and (rate := pace.slow(count)) is not None:
                self._tell_slow(file, label, f"slow ({rate / 1e3:,.1f} kB/s)", patient)
            if count == file.bytes or monotonic() - last > REPORT_EVERY:
                last = monotonic()
                self.progress(file.path, count, file.bytes)

        return report

    def _tell_slow(self, file: RemoteFile, label: str, how: str, patient: bool) -> None:
        if not patient:
            raise Slow(how)
        if label not in self.slow:
            self.slow.add(label)
            self.say(f"{label} is {how}: {file.path}. Stop it to try elsewhere. {_kept_for(self.sources)}")

    def _set_aside(self, file: RemoteFile) -> str:
        """A part that is whole and wrong would never become right. Says where it is now."""
        part = part_path(self.folder, file.path)
        if not part.is_file() or part.stat().st_size != file.bytes or file.bytes == 0:
            return ""
        return f", set aside as {set_part_aside(self.folder, file.path).relative_to(self.folder)}"


def _error(failures: Mapping[str, _Failure], sources: Sources, folder: Path) -> ShipvlmError:
    """One error for all files that did not come: wrong bytes before a network that gave up."""
    next_step = _kept_for(sources)
    if wrong := [f"{path}: {failure.briefly()}" for path, failure in failures.items() if failure.wrong]:
        more = [f"and {len(wrong) - NAMED} more"] if len(wrong) > NAMED else []
        lines = [f"{folder}: bytes that came are not the listed ones:", *wrong[:NAMED], *more, next_step]
        if any(failure.kept for failure in failures.values()):
            lines.append(f"Nothing needs the wrong bytes: rm -r {shlex.quote(str(folder / QUARANTINE))}")
        return GateError("\n".join(lines))
    first = next(iter(failures.values())).errors[-1]
    if len(sources) == 1 and isinstance(first, AccessError):
        return first.also(kept="yes" if _something_came(folder) else None)
    problems = {path: str(failure) for path, failure in failures.items()}
    return TransferError(f"{folder}: not all files came. {some(problems)}. {next_step}")


def _kept_for(sources: Sources) -> str:
    """What goes on in the same folder: another source alone does not, when the folder holds only a part."""
    other = "another --endpoint" if len(sources) > 1 else "another --endpoint or --source auto"
    return f"What came is kept: run the same shipvlm fetch again, or with {other}"


def _something_came(folder: Path) -> bool:
    """Whether bytes of the checkpoint are in `folder`, in place or on their way."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return any(path.stat().st_size and QUARANTINE not in path.relative_to(folder).parts for path in files)
