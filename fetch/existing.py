"""What is in the folder already: nothing, a fetch that was broken off, or a checkpoint with its lock.

It decides whether a fetch begins, goes on, mends or keeps, and whether it may write there at all.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from fetch.choose import Answer, Wanted, ask, briefly, in_background, result
from fetch.source import Source
from shipvlm.errors import GateError, InputError
from shipvlm.lock import LOCK, QUARANTINE, UNFINISHED, Lock, LockedFile, differences, is_commit, read_lock, some
from shipvlm.stages import BytesProgress


@dataclass(frozen=True)
class There:
    """What an output folder holds. `lock` of an unfinished one has the files that are known so far."""

    lock: Lock | None
    finished: bool = False

    @property
    def files(self) -> dict[str, LockedFile]:
        return {**self.lock.files, **self.lock.documents} if self.lock else {}


def look(out: Path) -> There:
    """What is in `out`. Raises `InputError` for a folder with other things, and for a lock that cannot be read."""
    if (out / UNFINISHED).is_symlink():
        raise InputError(f"{out / UNFINISHED}: is a link, and a fetch would write to where it points; remove it")
    for path in (out / LOCK, out / UNFINISHED / LOCK):
        if path.is_file():
            try:
                return There(read_lock(path), finished=path.parent == out)
            except InputError as error:
                raise InputError(f"{out}: its lock cannot be used; give another folder with -o ({error})") from error
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= {UNFINISHED, QUARANTINE}):
        raise InputError(
            f"{out}: exists and has no {LOCK}; give another folder with -o. shipvlm fetch {out} -o OTHER makes a "
            "verified copy of it"
        )
    return There(None)


def check_same(there: Lock, repo: str, revision: str | None, given: Lock | None, out: Path) -> None:
    """Raise `InputError` when `out` holds something else than is asked for, `GateError` when it is not `given`."""
    at = f"{there.repo} at {there.revision} (commit {there.commit})" if there.commit else there.repo
    if repo != there.repo or revision not in (None, there.revision, there.commit):
        raise InputError(f"{out}: holds {at}; give another folder with -o, or remove this one")
    if given:
        names = sorted({*given.files, *there.files}) if (out / LOCK).is_file() else sorted(there.files)
        wrong = {name: "differs" for name in names if given.files.get(name) != there.files.get(name)}
        if wrong:
            raise GateError(
                f"{out}: holds {at}, which is not what the lock says ({some(wrong)}); give another folder with -o"
            )


def lacking(out: Path, there: There, wrong: Collection[str]) -> str | None:
    """The files that a fetch would bring, in words; None where they are not known."""
    names = [path for path in there.files if path in wrong or not (out / path).is_file()]
    return some(names) or None


def right(out: Path, there: There, progress: BytesProgress) -> tuple[dict[str, LockedFile], dict[str, str]]:
    """Files of a finished folder that are as locked, and {path: what is wrong} of the others: all are hashed."""
    if not (there.lock and there.finished):
        return {}, {}
    wrong = differences(out, there.lock, progress)
    return {path: file for path, file in there.files.items() if path not in wrong}, wrong


def freshness(lock: Lock, sources: Sequence[Source]) -> str:
    """Which commit a kept folder has, and whether its branch is still there, in words."""
    if lock.commit is None:
        return "its source names no commit"
    at = f"commit {lock.commit}"
    source = next((source for source in sources if source.name == lock.source), None)
    if source is None or lock.revision is None or is_commit(lock.revision):
        return at
    wanted = Wanted(lock.repo, lock.revision, None)
    found = result(in_background(lambda: ask(wanted, source)))
    if not isinstance(found, Answer):
        return f"{at}, not refreshed ({briefly(found)})"
    now = found.listing.commit
    if now == lock.commit:
        return f"{at}, which {lock.revision} still is"
    return f"{at}; {lock.revision} is {now} now: give another folder to have that"
