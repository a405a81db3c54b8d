"""ModelScope. Its list has the sha256 of every file, and its commit where it says one.

The lists are asked for by `fetch.request`, which bounds the time and decides where a token goes, and reads the commit
that modelscope's HubApi drops; the libraries give models of answers (huggingface_hub), stored logins and conventions.
"""

import os
from collections.abc import Collection
from importlib.metadata import version
from typing import Any
from urllib.parse import urlencode

from huggingface_hub import is_offline_mode

from fetch.access import AccessError, is_own
from fetch.listed import checked_files
from fetch.refusal import explain
from fetch.request import Refused, read_json
from fetch.retry import Again
from fetch.source import Listing, Place, RemoteFile, Source, SourceName
from fetch.tokens import Token, checked_endpoint, sent_to
from shipvlm.errors import InputError, ShipvlmError
from shipvlm.lock import is_commit
from shipvlm.repo import checked_repo

SITES = ("https://modelscope.cn", "https://modelscope.ai")  # asked in this order
BRANCH = "master"
MOST_FILES = 3000  # a longer list is cut off there without a word


def modelscope_source(endpoint: str | None, token: Token | None, allow_token: bool) -> Source:
    """ModelScope at `endpoint`, else at MODELSCOPE_ENDPOINT, else its own sites. `InputError` for a bad address."""
    return ModelScopeSource(endpoint, token, allow_token)


class ModelScopeSource:
    """See `fetch.source.Source`. `token` goes to ModelScope's own sites alone, unless `allow_token`."""

    name: SourceName = "modelscope"

    def __init__(self, endpoint: str | None, token: Token | None, allow_token: bool) -> None:
        named = endpoint or os.environ.get("MODELSCOPE_ENDPOINT")
        try:
            self.endpoint = checked_endpoint(named) if named else None
        except InputError as error:
            raise error if endpoint else InputError(f"MODELSCOPE_ENDPOINT: {error}") from error
        site = self.endpoint or SITES[0]
        self.label = "ModelScope" if is_own("modelscope", site) else f"ModelScope at {site}"
        sent = sent_to(site, "modelscope", allow_token)
        self._sent = token if sent else None
        self._withheld = None if sent else token

    def list(self, repo: str, revision: str | None) -> Listing:
        """All files of `repo` at `revision` (None: master), at the commit that this is now where it says that."""
        wanted = revision or BRANCH
        if is_offline_mode():
            raise AccessError("offline", source=self.name, repo=checked_repo(repo), detail="HF_HUB_OFFLINE=1")
        sites = (self.endpoint,) if self.endpoint else SITES
        for site in sites:
            try:
                return self._listing(site, checked_repo(repo), wanted)
            except (Again, Refused) as error:
                missing = isinstance(error, Refused) and error.status == 404 and error.code != "RevisionNotFound"
                if missing and site != sites[-1]:
                    continue
                raise self._error(error, site, repo, wanted) from None
        raise AssertionError("the last site either lists or raises")

    def place(self, listing: Listing, path: str) -> Place:
        query = urlencode({"Revision": listing.commit or listing.revision, "FilePath": path})
        return Place(f"{listing.endpoint}/api/v1/models/{listing.repo}/repo?{query}", self._headers())

    def explain(self, listing: Listing, error: Again | Refused) -> ShipvlmError:
        return self._error(error, str(listing.endpoint), listing.repo, listing.revision)

    def _headers(self) -> dict[str, str]:
        agent = {"User-Agent": f"shipvlm/{version('shipvlm')}"}
        if self._sent is None:
            return agent
        # Older parts of it know the cookie, newer ones the header; its own client sends both.
        return agent | {"Authorization": f"Bearer {self._sent.value}", "Cookie": f"m_session_id={self._sent.value}"}

    def _listing(self, site: str, repo: str, revision: str) -> Listing:
        root = f"{site}/api/v1/models/{repo}"
        info = self._ask(root)  # so that a repository that is not there is told from a revision
        query = urlencode({"Revision": revision, "Recursive": "True"})
        try:
            found = self._ask(f"{root}/repo/files?{query}", passing=(403,))  # now and then, of what it has just shown
        except Refused as error:
            if error.status == 404:
                raise Refused(str(error), 404, code="RevisionNotFound") from None
            raise
        try:
            files = [_remote_file(entry) for entry in found["Files"] if entry["Type"] == "blob"]
            said = (found.get("LatestCommitter") or {}).get("Id") or ""
        except (TypeError, KeyError, AttributeError):
            raise Refused("its list of files is none", 200) from None
        if len(found["Files"]) >= MOST_FILES:
            raise Refused(f"it lists no more than {MOST_FILES:,} files and folders", 200)
        commit = revision if is_commit(revision) else said
        licence = info.get("License")
        return Listing(
            source=self.name,
            repo=repo,
            endpoint=site,
            revision=revision,
            commit=commit if is_commit(commit) else None,
            files=checked_files(files, f"{self.label}, {repo}"),
            licence=licence if isinstance(licence, str) and licence else None,
        )

    def _ask(self, url: str, passing: Collection[int] = ()) -> dict[str, Any]:
        answer, _ = read_json(Place(url, self._headers()), passing)
        data = answer.get("Data") if isinstance(answer, dict) else None
        if not isinstance(data, dict):
            raise Refused("its answer has no Data", 200)
        return data

    def _error(self, error: Again | Refused, site: str, repo: str, revision: str) -> ShipvlmError:
        return explain(error, self.name, self.label, site, repo, revision, self._sent, self._withheld)


def _remote_file(entry: dict[str, Any]) -> RemoteFile:
    return RemoteFile(entry["Path"], entry["Size"], str(entry.get("Sha256") or "").lower() or None, None)
