"""What every source of checkpoints answers: which files it has, and where the bytes of one of them are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from fetch.request import Refused
    from fetch.retry import Again
    from shipvlm.errors import ShipvlmError

SourceName = Literal["hf", "modelscope", "folder"]


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository as its source describes it, before a byte of it is fetched."""

    path: str  # POSIX, relative to the repository; not yet checked (`shipvlm.lock.safe_path`)
    bytes: int
    sha256: str | None  # None where the source says only git's id of it
    git_blob: str | None  # sha1 of b"blob SIZE\0" + content; None where the source does not say it


@dataclass(frozen=True)
class Listing:
    """All files of a repository at one revision."""

    source: SourceName
    repo: str
    endpoint: str | None
    revision: str  # as asked for
    commit: str | None  # what it is; None where the source has none
    files: tuple[RemoteFile, ...]
    licence: str | None = None
    gated: str | None = None  # how the repository is gated ("auto", "manual"), None when it is not


@dataclass(frozen=True)
class Place:
    """Where the bytes of one file are right now: a link of a CDN grows old, so it is asked for anew at every attempt.

    `headers` may hold a token: they go to `url`'s own host, never on to where it redirects.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Source(Protocol):
    """A place that has checkpoints. Raises `AccessError` when it refuses, `TransferError` when it fails."""

    name: SourceName
    label: str  # for people: "Hugging Face Hub", "mirror https://hf-mirror.com", "ModelScope"
    endpoint: str | None

    def list(self, repo: str, revision: str | None) -> Listing: ...

    def place(self, listing: Listing, path: str) -> Place: ...

    def explain(self, listing: Listing, error: "Again | Refused") -> "ShipvlmError":
        """What a request for one of the listing's files that failed for good means, for people."""
        ...
