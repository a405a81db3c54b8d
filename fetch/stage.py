"""The two ways into `fetch.job`: from a hub, and from a local folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fetch.choose import Answer, Choice, Wanted, choose
from fetch.compare import as_remote, list_differences
from fetch.download import download
from fetch.existing import look
from fetch.folder import copy_file, folder_listing
from fetch.hub import hub_source
from fetch.job import Fetched, Files, Hashed, Job, run
from fetch.landing import final_path, part_path
from fetch.modelscope import modelscope_source
from fetch.needed import needed
from fetch.source import Listing, RemoteFile, Source
from fetch.tokens import hub_token, modelscope_token
from fetch.transfer import DISK_FULL
from shipvlm.errors import InputError, SetupError
from shipvlm.lock import LOCK, Lock, LockedFile, file_sha256, read_lock, some
from shipvlm.recipe import ModelSection
from shipvlm.stages import BytesProgress, Say, alone

__all__ = ["Fetched", "fetch", "fetch_folder"]


def fetch(
    section: ModelSection,
    progress: BytesProgress,
    say: Say,
    token_file: Path | None = None,
    allow_token: bool = False,
) -> Fetched:
    """Fetch `section.repo` into `section.path`. A second time verifies what is there and mends what is wrong.

    Raises `AccessError` when a source refuses, `TransferError` when it fails, `GateError` when bytes are not those of
    a lock or of a list, `SetupError` for a disk that is too small, and `InputError` for what was asked wrongly or is
    no checkpoint that shipvlm takes. What came is kept: the same call goes on from there.
    """
    if section.repo is None:
        raise InputError("the recipe's model.repo is empty: there is nothing to fetch; give it owner/name")
    lock = _given(section.lock, section.include)
    sources = _sources(section, token_file, allow_token, say)
    out = section.path

    def bring(files: Files, answers: Sequence[Answer], report: BytesProgress) -> Hashed:
        return download(files, [(at.source, at.listing) for at in answers if at.source], out, report, say)

    def ask(wanted: Wanted) -> Choice:
        return choose(wanted, _able(wanted, sources, out), say)

    repo, revision, include = section.repo, section.revision, section.include
    with _writing(out):
        return run(Job(repo, revision, lock, None, include, out, sources, ask, bring, progress, say))


def fetch_folder(
    folder: Path,
    out: Path,
    progress: BytesProgress,
    say: Say,
    include: tuple[str, ...] = (),
    lock: Path | None = None,
) -> Fetched:
    """Copy what is needed of the checkpoint in `folder` to `out`, hashed; a lock that `folder` has is kept to.

    Raises as `fetch` does.
    """
    if out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{out}: is the folder to copy, or lies in it, or holds it; give another folder with -o")
    listing = folder_listing(folder)
    given = _given(lock, include)
    origin = read_lock(folder / LOCK) if (folder / LOCK).is_file() else None
    answer = Answer(str(folder), listing, None)

    def bring(files: Files, answers: Sequence[Answer], report: BytesProgress) -> Hashed:
        return {file.path: _copied(folder, file, out, report) for file in files}

    repo = origin.repo if origin else listing.repo
    with _writing(out):
        _check_copy(folder, listing, origin, repo, out, progress, say)
        return run(
            Job(repo, None, given, origin, include, out, (), lambda _: Choice(answer, None), bring, progress, say)
        )


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Hold the sole right to write `out`; a disk that is full, or cannot be written, is told as such."""
    try:
        with alone(out):
            yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise SetupError(
                f"{out}: the disk is full; make room and run the same again, it goes on from there"
            ) from error
        if error.filename is None:
            raise
        raise InputError(f"{error.filename}: cannot be used ({error.strerror}); give another folder with -o") from error


def _able(wanted: Wanted, sources: Sequence[Source], out: Path) -> Sequence[Source]:
    """Those of `sources` that can go on: a fetch on its way stays with the source that said what its bytes are."""
    lock = wanted.lock
    if lock is None or wanted.whole or lock.source == sources[0].name:
        return sources
    if able := [source for source in sources if source.name == lock.source]:
        return able
    raise InputError(
        f"{out}: holds a part of what {lock.source} has at {lock.revision}, commit {lock.commit}; go on with "
        f"--source {lock.source}, or give another folder with -o"
    )


def _check_copy(
    folder: Path, listing: Listing, origin: Lock | None, repo: str, out: Path, progress: BytesProgress, say: Say
) -> None:
    """Raise `InputError` when `out` is a finished copy of another folder of that name, or of what `folder` was."""
    there = look(out)
    if not (there.lock and there.finished) or there.lock.repo != repo:
        return
    say(f"{folder}: comparing it with {out}")
    other = list_differences(as_remote(there.files), listing)
    for file in listing.files:
        wanted = there.files.get(file.path)
        if file.sha256 is None and wanted and file.path not in other:
            progress(file.path, 0, file.bytes)
            if file_sha256(folder / file.path, partial(_report, progress, file)) != wanted.sha256:
                other[file.path] = "other bytes (sha256)"
    if origin is None:
        new = [file.path for file in needed(listing, there.lock.include).side if file.path not in there.files]
        other |= dict.fromkeys(new, "is not in the copy")
    if other:
        raise InputError(
            f"{out}: holds another copy than {folder} is now ({some(other)}); give another folder with -o, or remove it"
        )


def _report(progress: BytesProgress, file: RemoteFile, count: int) -> None:
    progress(file.path, count, file.bytes)


def _copied(folder: Path, file: RemoteFile, out: Path, report: BytesProgress) -> LockedFile:
    part = part_path(out, file.path)
    sha256 = copy_file(folder, file, part, partial(_report, report, file))
    part.replace(final_path(out, file.path))
    report(file.path, file.bytes, file.bytes)
    return LockedFile(bytes=file.bytes, sha256=sha256)


def _given(path: Path | None, include: Sequence[str]) -> Lock | None:
    if path is None:
        return None
    if include:
        raise InputError("--include and --lock: the lock says which files are fetched; give one of them")
    return read_lock(path)


def _sources(section: ModelSection, token_file: Path | None, allow_token: bool, say: Say) -> list[Source]:
    """Who is asked, the one that decides first. An endpoint is the Hub's, unless ModelScope alone is asked."""
    if section.source == "modelscope":
        return [modelscope_source(section.endpoint, modelscope_token(token_file), allow_token)]
    hub = hub_source(section.endpoint, hub_token(token_file), allow_token)
    if section.source == "hf":
        return [hub]
    # What was allowed for the endpoint of this command is not allowed for MODELSCOPE_ENDPOINT. Settings of ModelScope
    # that are wrong do not stop a fetch that can do without it.
    try:
        return [hub, modelscope_source(None, modelscope_token(), allow_token=False)]
    except InputError as error:
        say(f"ModelScope is not asked: {error}")
        return [hub]
