"""The Hugging Face Hub, or a mirror that speaks its protocol.

The two lists are asked for by `fetch.request`: huggingface_hub's own calls for them wait without limit, send the token
to wherever the next page is said to be, and ask HF_ENDPOINT, whatever the endpoint is, for things of no concern here.
"""

import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import quote, urlencode, urljoin

from huggingface_hub import ModelInfo, RepoFile, is_offline_mode

from fetch.access import HUBS, AccessError, is_own
from fetch.listed import checked_files
from fetch.refusal import explain
from fetch.request import Refused, opened, read_json, read_json_once
from fetch.retry import Again, retrying
from fetch.source import Listing, Place, RemoteFile, Source, SourceName
from fetch.tokens import Token, checked_endpoint, sent_to
from shipvlm.errors import ShipvlmError
from shipvlm.lock import is_commit
from shipvlm.repo import checked_repo

HOME = HUBS["hf"]["home"]
BRANCH = "main"
BRIEF, NAMES = 3.0, 5  # seconds for a request that only makes an error better, and how many names it shows


def hub_source(endpoint: str | None, token: Token | None, allow_token: bool) -> Source:
    """The hub at `endpoint`, else at HF_ENDPOINT, else the Hub itself. Raises `InputError` for a bad address."""
    return HubSource(endpoint, token, allow_token)


class HubSource:
    """See `fetch.source.Source`. `token` goes to the Hub alone, unless `allow_token`."""

    name: SourceName = "hf"

    def __init__(self, endpoint: str | None, token: Token | None, allow_token: bool) -> None:
        self._at = checked_endpoint(endpoint or os.environ.get("HF_ENDPOINT") or HOME)
        self.endpoint: str | None = self._at
        self.label = "Hugging Face Hub" if is_own("hf", self._at) else f"mirror {self._at}"
        sent = sent_to(self._at, "hf", allow_token)
        self._sent = token if sent else None
        self._withheld = None if sent else token

    def list(self, repo: str, revision: str | None) -> Listing:
        """All files of `repo` at `revision` (None: main), at the commit that this is now.

        A gated repository is listed where the server shows its files; `check_access` tells whether they are given.
        """
        wanted = revision or BRANCH
        if is_offline_mode():
            raise AccessError("offline", repo=checked_repo(repo), detail="HF_HUB_OFFLINE=1")
        try:
            info = self._info(checked_repo(repo), wanted)
            files = self._tree(repo, str(info.sha))
        except (Again, Refused) as error:
            raise self._error(error, repo, wanted) from None
        return Listing(
            source=self.name,
            repo=repo,
            endpoint=self._at,
            revision=wanted,
            commit=info.sha,
            files=checked_files(files, f"{self.label}, {repo}"),
            licence=_licence(info),
            gated=str(info.gated) if info.gated else None,
        )

    def place(self, listing: Listing, path: str) -> Place:
        return Place(f"{listing.endpoint}/{listing.repo}/resolve/{listing.commit}/{quote(path)}", self._headers())

    def explain(self, listing: Listing, error: Again | Refused) -> ShipvlmError:
        return self._error(error, listing.repo, listing.revision)

    def check_access(self, listing: Listing) -> None:
        """Ask for a byte of a gated repository's largest file. Raises `AccessError` when it is not given."""
        largest = max(listing.files, key=lambda file: file.bytes)
        try:
            retrying()(_ask, self.place(listing, largest.path))
        except (Again, Refused) as error:
            raise self.explain(listing, error) from None

    def _headers(self) -> dict[str, str]:
        return _agent() | {"Authorization": f"Bearer {self._sent.value}"} if self._sent else _agent()

    def _info(self, repo: str, revision: str) -> ModelInfo:
        url = f"{self._at}/api/models/{repo}/revision/{quote(revision, safe='')}"
        found, _ = read_json(Place(url, self._headers()))
        try:
            info = ModelInfo(**found)
        except (TypeError, ValueError, KeyError, AttributeError):
            raise Refused("it has no such list of models", 200) from None
        if not isinstance(info.sha, str) or not is_commit(info.sha):
            raise Refused("it does not say which commit it has", 200)
        return info

    def _tree(self, repo: str, commit: str) -> Sequence[RemoteFile]:
        url: str | None = f"{self._at}/api/models/{repo}/tree/{commit}?recursive=true&expand=false"
        files: list[RemoteFile] = []
        seen = set()
        while url is not None:
            if url in seen:
                raise Refused("its list of files has no end", 200)
            seen.add(url)
            entries, following = read_json(Place(url, self._headers()))
            try:
                files += [_remote_file(entry) for entry in entries if entry["type"] == "file"]
            except (TypeError, KeyError):
                raise Refused("its list of files is none", 200) from None
            url = self._next(url, following)
        return files

    def _next(self, url: str, following: str | None) -> str | None:
        """The next page, at this endpoint: mirrors pass on the Hub's own links."""
        if following is None:
            return None
        target = urljoin(url, following).replace(HOME + "/", self._at + "/", 1)
        if not target.startswith(self._at + "/"):
            raise Refused("its list of files goes on at another address", 200)
        return target

    def _error(self, error: Again | Refused, repo: str, revision: str) -> ShipvlmError:
        found = explain(error, self.name, self.label, self._at, repo, revision, self._sent, self._withheld)
        if isinstance(found, AccessError) and found.situation == "not-found":
            search = urlencode({"search": repo.rpartition("/")[2], "limit": NAMES})
            return found.also(suggestions=self._names(f"/api/models?{search}", lambda found: [m["id"] for m in found]))
        if isinstance(found, AccessError) and found.situation == "revision-not-found":
            refs = f"/api/models/{repo}/refs"
            return found.also(
                revisions=self._names(refs, lambda said: [ref["name"] for ref in said["branches"] + said["tags"]])
            )
        return found

    def _names(self, path: str, names: Callable[[Any], Sequence[str]]) -> str | None:
        """Names for an error, None when they cannot be had: asked once, without the token."""
        try:
            answer, _ = read_json_once(Place(self._at + path, _agent()), BRIEF)
            return ", ".join(names(answer)[:NAMES]) or None
        except (Again, Refused, TypeError, KeyError):
            return None


def _agent() -> dict[str, str]:
    return {"User-Agent": f"shipvlm/{version('shipvlm')}"}


def _ask(place: Place) -> None:
    with opened(place, stop=1):  # no HEAD: the link of a CDN is signed for GET
        pass


def _remote_file(entry: dict[str, Any]) -> RemoteFile:
    file = RepoFile(**entry)
    if file.lfs is not None:  # git's id is then that of a pointer to the file
        return RemoteFile(file.path, file.lfs.size, file.lfs.sha256, None)
    return RemoteFile(file.path, file.size, None, file.blob_id)


def _licence(info: ModelInfo) -> str | None:
    named = info.card_data.license if info.card_data is not None else None
    return ", ".join(map(str, named)) if isinstance(named, list) else named
