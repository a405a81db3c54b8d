"""One fetch, whatever it is from: list, pin, check, bring, compare, lock. A second run keeps what is right.

First comes all that is small, from the source that decides: so a gate, a model of another kind and a config that
chooses code are seen before the weights.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from fetch.access import HUBS, AccessError
from fetch.card import LONGEST, licence
from fetch.choose import Answer, Choice, Wanted, agreeing, faster_first, with_second
from fetch.compare import as_remote, list_differences
from fetch.existing import There, check_same, freshness, lacking, leftovers, look, right
from fetch.hub import HubSource
from fetch.landing import below, set_aside
from fetch.meter import Meter
from fetch.needed import Needed, chosen_weights, likely, locked, needed
from fetch.source import Listing, RemoteFile, Source
from fetch.space import check_space
from shipvlm.errors import GateError
from shipvlm.folder import WEIGHTS_INDEX, check_folder, check_side_files, make_folder
from shipvlm.lock import ADAPTER_CONFIG, LOCK, UNFINISHED, Lock, LockedFile, some, strangers, write_lock
from shipvlm.stages import BytesProgress, Say
from shipvlm.words import plain

Files = Sequence[RemoteFile]
Hashed = dict[str, LockedFile]


@dataclass(frozen=True)
class Job:
    """What is asked for, where it goes, and how its list and its bytes are got."""

    repo: str
    revision: str | None
    lock: Lock | None  # whose files are wanted, and no others
    origin: Lock | None  # of the folder that is copied
    include: tuple[str, ...]
    out: Path
    sources: Sequence[Source]  # none for a folder
    ask: Callable[[Wanted], Choice]
    bring: Callable[[Files, Sequence[Answer], BytesProgress], Hashed]
    progress: BytesProgress
    say: Say


@dataclass(frozen=True)
class Fetched:
    """A folder that holds a checkpoint or an adapter, every byte of it as `lock` says."""

    folder: Path
    lock: Lock
    kept: bool  # all was there
    state: str | None  # of what was kept: its commit, and whether its branch moved on
    label: str | None  # where the weights came from
    terms: str | None  # page of the terms of a gated repository
    bytes: int  # that came now
    seconds: float

    @property
    def adapter(self) -> bool:
        """Whether it is a LoRA adapter, which belongs to a checkpoint."""
        return ADAPTER_CONFIG in self.lock.files


def run(job: Job) -> Fetched:
    """Do it. The caller holds the sole right to write `job.out`; what is raised is told by `fetch.stage.fetch`."""
    start = perf_counter()
    there = look(job.out)
    if there.lock:
        check_same(there.lock, job.repo, job.revision, job.lock, job.out)
    if there.finished:
        job.say(f"{job.out}: verifying the files that are there")
    elif there.lock:
        job.say(f"{job.out}: going on at commit {there.lock.commit}, where an earlier fetch ended")
    extended = there.lock is None or not set(job.include) <= set(there.lock.include)
    if there.finished and not extended:
        _set_others_aside(job, there, there.files)
    kept, wrong = right(job.out, there, job.progress)
    if there.lock and there.finished and not wrong and not extended:
        shutil.rmtree(job.out / UNFINISHED, ignore_errors=True)
        state = freshness(there.lock, job.sources)
        return _checked(Fetched(job.out, there.lock, True, state, None, None, 0, perf_counter() - start))
    choice = _ask(job, there, wrong)
    for path, problem in wrong.items():
        if os.path.lexists(job.out / path):
            problem += f"; set aside as {set_aside(job.out, path).relative_to(job.out)}"
        job.say(f"{path}: {problem}")
    return _checked(_fetch(job, there, choice, kept, start))


def _fetch(job: Job, there: There, choice: Choice, kept: Hashed, start: float) -> Fetched:
    """Bring what is not `kept` and write the lock."""
    listing = choice.first.listing
    earlier = [lock for lock in (job.lock, job.origin, there.lock if there.finished else None) if lock]
    include = sorted({*job.include, *(pattern for lock in earlier for pattern in lock.include)})
    exact = next((lock for lock in earlier if set(include) == set(lock.include)), None)
    part = locked(listing, exact) if exact else needed(listing, include)
    header = _header(job, there, listing, include)
    meter = Meter(job.out, job.progress)
    try:
        if listing.gated and isinstance(choice.first.source, HubSource):
            choice.first.source.check_access(listing)
        hashed, last = _bring(job, there, choice, part, kept, header, meter)
    except AccessError as error:
        raise with_second(error, choice.second, [*part.side, *likely(part)]) from error
    documents = {file.path for file in part.documents}
    lock = header.model_copy(
        update={
            "licence": plain(licence(job.out) or listing.licence or header.licence or "", LONGEST) or None,
            "files": {path: file for path, file in hashed.items() if path not in documents},
            "documents": {path: file for path, file in hashed.items() if path in documents},
        }
    )
    _set_others_aside(job, there, hashed)
    write_lock(lock, job.out / LOCK)
    shutil.rmtree(job.out / UNFINISHED)
    terms = HUBS[listing.source]["page"].format(repo=listing.repo) if listing.gated else None
    return Fetched(job.out, lock, False, None, last.label, terms, meter.came, perf_counter() - start)


def _ask(job: Job, there: There, wrong: dict[str, str]) -> Choice:
    """The listing, at the commit that is pinned already. Raises `GateError` when its files are not the locked ones."""
    if there.lock and (there.finished or job.lock is None):
        wanted = Wanted(job.repo, job.revision, there.lock, whole=there.finished, going_on=True)
    else:
        wanted = Wanted(job.repo, job.revision, job.lock)
    try:
        choice = job.ask(wanted)
    except AccessError as error:
        raise error.also(files=lacking(job.out, there, wrong)) from error
    locks = {"the lock that was given": job.lock, "its own lock": job.origin, f"what {job.out} has of it": there.lock}
    for name, lock in locks.items():
        if lock and (other := list_differences(as_remote(lock.files), choice.first.listing)):
            raise GateError(_other_bytes(job, there, choice, lock, name, other))
    return choice


def _other_bytes(job: Job, there: There, choice: Choice, lock: Lock, name: str, other: dict[str, str]) -> str:
    listing, label = choice.first.listing, choice.first.label
    said = f"{label}: other files than {name}: {some(other)}"
    if listing.source == "folder":
        return f"{said}. Take another copy of it"
    again = f"shipvlm fetch {job.repo} -o {job.out}" + (" --lock FILE" if job.lock else "")
    whole = job.lock or there.finished or there.lock is None  # else only its own source goes on
    if (
        whole
        and isinstance(choice.second, Answer)
        and not list_differences(as_remote(lock.files), choice.second.listing)
    ):
        return f"{said}. {choice.second.label} has the locked files: {again} --source modelscope"
    if lock.source == "folder":
        return f"{said}. The lock is that of a folder: shipvlm fetch path/to/folder -o {job.out}"
    if lock.source != listing.source:
        return f"{said}. The lock is not from there: {again} --source {lock.source}"
    if lock.commit is None:
        elsewhere = "hf" if listing.source == "modelscope" else "modelscope"
        return f"{said}. The lock has no commit, and what is there changed since: {again} --source {elsewhere}"
    if listing.commit != lock.commit:
        said += f". {listing.revision} is commit {listing.commit} there, the lock says {lock.commit}"
        return f"{said}: it moved on. Without --revision the locked commit is asked for: {again} --source {lock.source}"
    home = HUBS[listing.source]["home"]
    said += f". It is no copy of commit {lock.commit}, though it says so"
    return f"{said}: {again} --source {lock.source} --endpoint {home}"


def _bring(
    job: Job, there: There, choice: Choice, part: Needed, kept: Hashed, header: Lock, meter: Meter
) -> tuple[Hashed, Answer]:
    """All files of `part`, hashed, and where the weights came from."""
    out, say = job.out, job.say
    pins = [lock for lock in (job.lock, there.lock) if lock]
    small = [file for file in (*part.side, *part.documents) if file.path not in kept]
    check_space([*small, *(file for file in likely(part) if file.path not in kept)], out)
    make_folder(out)
    below(out, f"{UNFINISHED}/{LOCK}")
    _write_unfinished(job, there, header, _known(part.side))
    answers = agreeing(choice, part.side, say)
    hashed = kept | job.bring(meter.announced(small), answers, meter)
    _check_pins(hashed, pins, choice.first)

    weights = chosen_weights(choice.first.listing, part, out / WEIGHTS_INDEX)
    loaded = [file.path for file in (*part.side, *weights)]
    for name in strangers(out, loaded):
        say(f"{name}: is not of this checkpoint; set aside as {set_aside(out, name).relative_to(out)}")
    if not part.adapter:
        check_side_files(out)
    side = {file.path: hashed[file.path] for file in part.side}
    _write_unfinished(job, there, header, side | _known(weights))
    left = [file for file in weights if file.path not in kept]
    check_space(left, out)
    if len(answers) > 1:
        answers = agreeing(choice, [*as_remote(side), *weights], say)
    answers = faster_first(answers, left, say)
    hashed |= job.bring(meter.announced(left), answers, meter)
    _check_pins(hashed, pins, choice.first)
    return {path: hashed[path] for path in [*loaded, *(file.path for file in part.documents)]}, answers[0]


def _header(job: Job, there: There, listing: Listing, include: Sequence[str]) -> Lock:
    """The lock but for its files: of what is mended or copied as it was, of what is fetched by its listing."""
    if made := there.lock if there.finished else job.origin:
        return made.model_copy(update={"include": tuple(include)})
    pinned = there.lock is not None and there.lock.source == listing.source
    return Lock(
        repo=listing.repo,
        revision=there.lock.revision if there.lock and pinned else listing.revision or None,
        commit=listing.commit,
        source=listing.source,
        endpoint=listing.endpoint,
        licence=None,
        include=tuple(include),
        files={},
        documents={},
    )


def _write_unfinished(job: Job, there: There, header: Lock, files: Hashed) -> None:
    """Say that the folder is not complete, and what is known of it.

    One that is mended or extended keeps what it has; what was ever asked for besides is remembered until all agrees.
    """
    if there.finished and there.lock:
        lock = there.lock.model_copy(update={"include": tuple(sorted({*header.include, *(there.asked or ())}))})
    else:
        lock = header.model_copy(update={"files": files, "documents": {}})
    write_lock(lock, job.out / UNFINISHED / LOCK)


def _set_others_aside(job: Job, there: There, listed: Hashed) -> None:
    """What an earlier attempt brought and this one does not want, as for another --include, does not stay."""
    for name in leftovers(job.out, there, listed):
        job.say(f"{name}: is not asked for any more; set aside as {set_aside(job.out, name).relative_to(job.out)}")


def _known(files: Files) -> Hashed:
    return {file.path: LockedFile(bytes=file.bytes, sha256=file.sha256) for file in files if file.sha256}


def _check_pins(hashed: Hashed, pins: Sequence[Lock], first: Answer) -> None:
    """Raise `GateError` when what came is not what a lock says: of small files the Hub lists no sha256."""
    for lock in pins:
        wrong = {path: "other bytes" for path, file in hashed.items() if lock.files.get(path, file) != file}
        if wrong:
            raise GateError(f"{first.label}: other bytes than the lock says: {some(wrong)}; try another --source")


def _checked(fetched: Fetched) -> Fetched:
    if not fetched.adapter:
        check_folder(fetched.folder)
    return fetched
