"""The two ways into `fetch.job`: from a hub, and from a local folder."""

from collections.abc import Sequence
from pathlib import Path

from fetch.choose import Answer, Choice, Wanted, choose
from fetch.download import BytesProgress, download
from fetch.folder import copy_file, folder_listing
from fetch.hub import hub_source
from fetch.job import Fetched, Files, Hashed, Job, run
from fetch.landing import final_path, part_path
from fetch.scope import modelscope_source
from fetch.source import RemoteFile, Source
from fetch.tokens import hub_token, modelscope_token
from shipvlm.errors import InputError
from shipvlm.lock import LOCK, Lock, LockedFile, read_lock
from shipvlm.recipe import ModelSection
from shipvlm.stages import Say, alone

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
    sources = _sources(section, token_file, allow_token)
    out = section.path

    def bring(files: Files, answers: Sequence[Answer], report: BytesProgress) -> Hashed:
        return download(files, [(at.source, at.listing) for at in answers if at.source], out, report, say)

    def ask(wanted: Wanted) -> Choice:
        return choose(wanted, sources, say)

    repo, revision, include = section.repo, section.revision, section.include
    with alone(out):
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
    with alone(out):
        return run(
            Job(repo, None, given, origin, include, out, (), lambda _: Choice(answer, None), bring, progress, say)
        )


def _copied(folder: Path, file: RemoteFile, out: Path, report: BytesProgress) -> LockedFile:
    part = part_path(out, file.path)
    sha256 = copy_file(folder, file, part, lambda done: report(file.path, done, file.bytes))
    part.replace(final_path(out, file.path))
    report(file.path, file.bytes, file.bytes)
    return LockedFile(bytes=file.bytes, sha256=sha256)


def _given(path: Path | None, include: Sequence[str]) -> Lock | None:
    if path is None:
        return None
    if include:
        raise InputError("--include and --lock: the lock says which files are fetched; give one of them")
    return read_lock(path)


def _sources(section: ModelSection, token_file: Path | None, allow_token: bool) -> list[Source]:
    """Who is asked, the one that decides first. An endpoint is the Hub's, unless ModelScope alone is asked."""
    if section.source == "modelscope":
        return [modelscope_source(section.endpoint, modelscope_token(token_file), allow_token)]
    hub = hub_source(section.endpoint, hub_token(token_file), allow_token)
    if section.source == "hf":
        return [hub]
    return [hub, modelscope_source(None, modelscope_token(), allow_token)]
