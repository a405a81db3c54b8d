"""A ModelScope on the loopback: its protocol as the modelscope client speaks it, its content a dict.

with FakeModelScope({"config.json": b"{}"}, repo="owner/tiny") as scope:
    snapshot_download("owner/tiny", endpoint=scope.url, local_dir=...)
    scope.push({...})                                          # branch master moves on
    scope.server.fail("*FilePath=model*", Fault(flip=7))       # files
    scope.server.fail("*/repo/files*", Fault(status=503))      # the list
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from typing import Self

from tests.fetch.serving import Blob, Reply, Request, Server, blob

Files = Mapping[str, bytes | Path | Blob]


@dataclass
class FakeModelScope:
    """`files` at branch master of `repo`. With `private`, only `tokens` are let in; other tokens are refused always."""

    files: Files
    repo: str = "owner/tiny"
    private: bool = False
    tokens: tuple[str, ...] = ("ms-right",)
    licence: str | None = "Apache License 2.0"
    says_commit: bool = True  # LatestCommitter has the full id; it is empty on some repositories
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)  # and tags

    def __post_init__(self) -> None:
        self.push(self.files)
        self.server = Server(self._reply)
        self.url = self.server.url

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__()

    @property
    def commit(self) -> str:
        return self.branches["master"]

    def push(self, files: Files, branch: str = "master") -> str:
        """A new commit with exactly `files`, on `branch`. Its id is never that of the same files on a FakeHub."""
        blobs = {path: blob(content) for path, content in files.items()}
        commit = sha1(json.dumps(["ms", sorted((p, b.sha256) for p, b in blobs.items())]).encode()).hexdigest()
        self.commits[commit] = blobs
        self.branches[branch] = commit
        return commit

    def with_credentials(self) -> list[Request]:
        """The requests that carried a token, in a header or in a cookie."""
        return [r for r in self.server.requests if "authorization" in r.headers or "cookie" in r.headers]

    def _reply(self, request: Request) -> Reply:
        token = request.headers.get("authorization", "").removeprefix("Bearer ") or None
        if token is not None and token not in self.tokens:
            return _error(401, 10010103009, "AccessToken is invalid or expired")
        root = f"/api/v1/models/{self.repo}"
        if not (request.path + "/").startswith(root + "/"):
            return _error(404, 10010205001, "Resource not found")
        if self.private and token is None:
            return _error(403, 10010203001, "Permission denied")
        query = request.query
        match request.path.removeprefix(root):
            case "":
                return self._info()
            case "/revisions":
                return _data({"RevisionMap": {"Branches": self._revisions("master"), "Tags": self._revisions(None)}})
            case "/repo/files":
                return self._list(query.get("Revision", "master"), query.get("Root", ""), query.get("Recursive"))
            case "/repo":
                return self._content(query.get("Revision", "master"), query.get("FilePath", ""))
        return _error(404, 10010205001, "Resource not found")

    def _info(self) -> Reply:
        owner, name = self.repo.split("/")
        return _data({"Id": 1, "Path": owner, "Name": name, "License": self.licence, "Revision": "master"})

    def _revisions(self, branch: str | None) -> list[dict[str, object]]:
        names = [name for name in self.branches if (name == "master") is (branch is not None)]
        return [{"Revision": name, "CreatedAt": 1760000000} for name in names]

    def _at(self, revision: str) -> tuple[str, dict[str, Blob]] | None:
        commit = self.branches.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None

    def _list(self, revision: str, root: str, recursive: str | None) -> Reply:
        found = self._at(revision)
        if found is None:
            return _error(404, 10010205001, f"revision {revision} not found")
        commit, files = found
        entries: dict[str, dict[str, object]] = {}
        for path, content in sorted(files.items()):
            if root and not path.startswith(root.rstrip("/") + "/"):
                continue
            folders = path.split("/")[:-1]
            for depth in range(1, len(folders) + 1):
                folder = "/".join(folders[:depth])
                entries[folder] = {"Name": folders[depth - 1], "Path": folder, "Type": "tree", "Size": 0, "Sha256": ""}
            entries[path] = _entry(path, content, commit)
        if recursive != "True":
            depth = root.count("/") + 1 if root else 0
            entries = {path: entry for path, entry in entries.items() if path.count("/") == depth}
        said = commit if self.says_commit and revision != commit else ""  # it does not repeat what it was asked for
        last = {"Id": said, "ShortId": commit[:8], "Title": "Upload"}
        return _data({"Files": list(entries.values()), "IsVisual": 1, "LatestCommitter": last})

    def _content(self, revision: str, path: str) -> Reply:
        found = self._at(revision)
        if found is None or path not in found[1]:
            return _error(404, 10010205001, f"file {path} not found")
        content = found[1][path]
        return Reply(headers={"ETag": f'"{content.sha256}"', "X-Linked-Size": str(content.size)}, body=content)


def _entry(path: str, content: Blob, commit: str) -> dict[str, object]:
    name = path.rpartition("/")[2]
    sizes = {"Size": content.size, "Sha256": content.sha256, "IsLFS": content.size > 1_000_000}
    return {
        "Name": name,
        "Path": path,
        "Type": "blob",
        "Mode": "33188",
        "Revision": commit,
        "CommitId": commit,
        **sizes,
    }


def _data(value: object) -> Reply:
    return _json(200, {"Code": 200, "Success": True, "Message": "success", "RequestId": "r", "Data": value})


def _error(status: int, code: int, message: str) -> Reply:
    return _json(status, {"Code": code, "Success": False, "Message": message, "RequestId": "r", "Data": None})


def _json(status: int, value: object) -> Reply:
    return Reply(status, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(value).encode())
