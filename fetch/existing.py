"""What is in the folder already: nothing, a fetch that was broken off, or a checkpoint with its lock.

It decides whether a fetch begins, goes on, mends or keeps, and whether it may write there at all.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from fetch.choose import Answer, Wanted, ask, briefly, in_background, result
from fetch.source import Source
from shipvlm.data_files import is_document
from shipvlm.errors import GateError, InputError
from shipvlm.lock import (
    LOCK,
    QUARANTINE,
    UNFINISHED,
    Lock,
    LockedFile,
    differences,
    is_commit,
    is_ours,
    read_lock,
    some,
)
from shipvlm.stages import BytesProgress


@dataclass(frozen=True)
class There:
    """What an output folder holds. `lock` of an unfinished one has the files that are known so far.

    `asked`, of a finished one in which a later fetch was broken off: the patterns of what that was to bring.
    """

    lock: Lock | None
    finished: bool = False
    asked: tuple[str, ...] | None = None

    @property
    def files(self) -> dict[str, LockedFile]:
        return {**self.lock.files, **self.lock.documents} if self.lock else {}


def look(out: Path) -> There:
    """What is in `out`. Raises `InputError` for a folder with other things, and for a lock that cannot be read."""
    if (out / UNFINISHED).is_symlink():
        raise InputError(f"{out / UNFINISHED}: is a link, and a fetch would write to where it points; remove it")
    paths = (out / LOCK, out / UNFINISHED / LOCK)
    try:
        finished, unfinished = (read_lock(path) if path.is_file() else None for path in paths)
    except InputError as error:
        raise InputError(f"{out}: its lock cannot be used; give another folder with -o ({error})") from error
    if finished:
        return There(finished, True, unfinished.include if unfinished else None)
    if unfinished:
        return There(unfinished)
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
    """Files of a finished folder that are as locked, and {path: what is wrong} of the others: all are hashed.

    What an extension that was broken off brought is neither.
    """
    if not (there.lock and there.finished):
        return {}, {}
    found, brought = differences(out, there.lock, progress), leftovers(out, there, there.files)
    wrong = {path: problem for path, problem in found.items() if path not in brought}
    return {path: file for path, file in there.files.items() if path not in wrong}, wrong


def leftovers(out: Path, there: There, listed: Collection[str]) -> list[str]:
    """Files that fetches which were broken off have left in `out` and that are not `listed`.

    In an unfinished folder that is every other file. In a finished one, which a person may have put own files into,
    it is what such a fetch could bring: what its patterns fit, and documents.
    """
    if there.finished and there.asked is None:
        return []
    paths = sorted(path for path in out.rglob("*") if path.is_symlink() or path.is_file())
    names = [path.relative_to(out).as_posix() for path in paths]
    others = [name for name in names if name not in listed and not is_ours(name)]
    if not there.finished:
        return others
    patterns = there.asked or ()
    return [name for name in others if is_document(name) or any(fnmatchcase(name, pattern) for pattern in patterns)]


def part_of_another(out: Path, source: str, given: Path | None) -> bool:
    """Whether `out` holds a part that `source` cannot complete: without a lock that is `given`, only its own can."""
    there = look(out)
    return bool(there.lock and not there.finished and not given and there.lock.source != source)


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
