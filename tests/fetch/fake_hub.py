"""A Hugging Face Hub on the loopback: its protocol as huggingface_hub speaks it, its content a dict.

with FakeHub({"config.json": b"{}", "model.safetensors": path}, repo="owner/tiny") as hub:
    snapshot_download("owner/tiny", endpoint=hub.url, token=False)
    commit = hub.push({...})          # main moves on
    hub.server.fail("*/tree/*", Fault(status=503, headers={"Retry-After": "1"}))
    hub.cdn.fail("*", Fault(flip=7))  # files that Git LFS stores come from here, as on the Hub
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from typing import Self
from urllib.parse import quote

from tests.fetch.serving import Blob, Reply, Request, Server, blob

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".gguf", ".h5", ".msgpack", ".parquet")
LFS_BYTES = 10_000_000
Files = Mapping[str, bytes | Path | Blob]


@dataclass
class FakeHub:
    """`files` at branch main of `repo`. A gate lets `approved` tokens in; `known` ones are valid and not approved."""

    files: Files
    repo: str = "owner/tiny"
    gated: str | None = None  # auto, manual
    private: bool = False
    disabled: bool = False
    licence: str | None = "apache-2.0"
    approved: tuple[str, ...] = ("hf_approved",)
    known: tuple[str, ...] = ("hf_known",)
    open_tree: bool = True  # of a gated repository: the list of its files is shown to anybody
    page_size: int = 1000  # of the tree
    resolve_cache: bool = False  # small files by a redirect to the same host, as the Hub does now
    no_commit_header: bool = False  # a mirror that strips X-Repo-Commit
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)  # and tags

    def __post_init__(self) -> None:
        self.push(self.files)
        self.server = Server(self._reply)
        self.cdn = Server(self._content, "127.0.0.2")  # another host for the clients, and the loopback too
        self.url = self.server.url

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.server)
            stack.enter_context(self.cdn)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def commit(self) -> str:
        return self.branches["main"]

    def push(self, files: Files, branch: str = "main") -> str:
        """A new commit with exactly `files`, on `branch`; its id depends on them alone."""
        blobs = {path: blob(content) for path, content in files.items()}
        commit = sha1(json.dumps(sorted((p, b.sha256) for p, b in blobs.items())).encode()).hexdigest()
        self.commits[commit] = blobs
        self.branches[branch] = commit
        return commit

    def with_authorization(self) -> list[Request]:
        """The requests to either server that carried a token."""
        return [r for r in (*self.server.requests, *self.cdn.requests) if "authorization" in r.headers]

    def _reply(self, request: Request) -> Reply:
        path = request.path + "/" * (request.path == f"/api/models/{self.repo}")
        token = request.headers.get("authorization", "").removeprefix("Bearer ") or None
        if token is not None and token not in (*self.approved, *self.known):
            return _error(401, None, "Invalid credentials in Authorization header")
        routes = {
            f"/api/models/{self.repo}/tree/": self._tree,
            f"/api/models/{self.repo}/refs": self._refs,
            f"/{self.repo}/resolve/": self._resolve,
            f"/api/resolve-cache/models/{self.repo}/": self._cached,
            f"/api/models/{self.repo}/revision/": self._info,
            f"/api/models/{self.repo}/": self._info,
        }
        if request.path == "/api/models":
            found = request.query["search"].lower() in self.repo.lower() and not self.private
            return _json([{"_id": "0", "id": self.repo, "modelId": self.repo}] if found else [])
        prefix = next((prefix for prefix in routes if path.startswith(prefix)), None)
        if prefix is None:
            return _no_repo(token)
        answer = routes[prefix]
        if self.private and token not in self.approved:
            return _no_repo(token)
        if self.disabled:
            return _error(403, None, "Access to this resource is disabled.")
        behind = (self._resolve, self._cached) if self.open_tree else (self._tree, self._resolve, self._cached)
        if self.gated and answer in behind and token not in self.approved:
            return self._gate(token)
        return answer(path.removeprefix(prefix), request)

    def _gate(self, token: str | None) -> Reply:
        page = f"https://huggingface.co/{self.repo}"
        if token is None:
            return _error(
                401, "GatedRepo", f"Access to model {self.repo} is restricted. You must have access to it and be "
                f"authenticated to access it. Please log in."
            )  # fmt: skip
        return _error(
            403, "GatedRepo", f"Access to model {self.repo} is restricted and you are not in the authorized list. "
            f"Visit {page} to ask for access."
        )  # fmt: skip

    def _commit(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def _info(self, revision: str, request: Request) -> Reply:
        commit = self._commit(revision or "main")
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return _json(
            {
                "_id": "0",
                "id": self.repo,
                "modelId": self.repo,
                "sha": commit,
                "private": self.private,
                "disabled": False,
                "gated": self.gated or False,
                "tags": [f"license:{self.licence}"] if self.licence else [],
                "cardData": {"license": self.licence} if self.licence else {},
                "siblings": [{"rfilename": path} for path in sorted(self.commits[commit])],
            }
        )

    def _refs(self, rest: str, request: Request) -> Reply:
        refs = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in self.branches.items()
        ]
        return _json({"branches": refs, "tags": [], "converts": []})

    def _tree(self, rest: str, request: Request) -> Reply:
        commit = self._commit(rest)
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {rest}")
        entries = [_entry(path, content) for path, content in sorted(self.commits[commit].items())]
        at = int(request.query.get("cursor", 0))
        headers = {}
        if at + self.page_size < len(entries):
            url = f"{self.url}/api/models/{self.repo}/tree/{commit}?recursive=true&cursor={at + self.page_size}"
            headers["Link"] = f'<{url}>; rel="next"'
        return _json(entries[at : at + self.page_size], headers)

    def _resolve(self, rest: str, request: Request) -> Reply:
        revision, _, path = rest.partition("/")
        commit = self._commit(revision)
        headers = {} if self.no_commit_header or commit is None else {"X-Repo-Commit": commit}
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        content = self.commits[commit].get(path)
        if content is None:
            return _error(404, "EntryNotFound", "Entry not found", headers)
        if is_lfs(path, content):
            headers |= {"X-Linked-ETag": f'"{content.sha256}"', "X-Linked-Size": str(content.size)}
            url = f"{self.cdn.url}/{quote(path)}?sha256={content.sha256}&Signature=of-one-hour"
            return Reply(302, {**headers, "Location": url, "ETag": f'"{content.sha256[:32]}"'}, b"Found. Redirecting")
        headers |= {"ETag": f'"{content.git_blob}"'}
        if self.resolve_cache:
            return Reply(307, {**headers, "Location": f"/api/resolve-cache/models/{self.repo}/{commit}/{quote(path)}"})
        return Reply(headers=headers, body=content)

    def _cached(self, rest: str, request: Request) -> Reply:
        commit, _, path = rest.partition("/")
        content = self.commits[commit][path]
        headers = {} if self.no_commit_header else {"X-Repo-Commit": commit}
        return Reply(headers={**headers, "ETag": f'"{content.git_blob}"'}, body=content)

    def _content(self, request: Request) -> Reply:
        """The CDN: signed links, and no other authorization beside the signature (400, as S3 answers)."""
        if "authorization" in request.headers:
            return Reply(400, {"Content-Type": "application/xml"}, b"<Error><Code>InvalidArgument</Code></Error>")
        wanted = request.query.get("sha256")
        for files in self.commits.values():
            for content in files.values():
                if content.sha256 == wanted:
                    return Reply(headers={"ETag": f'"{content.sha256[:32]}"'}, body=content)
        return Reply(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")


def is_lfs(path: str, content: Blob) -> bool:
    return path.endswith(LFS_SUFFIXES) or content.size > LFS_BYTES


def _entry(path: str, content: Blob) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": content.size, "oid": content.git_blob}
    if is_lfs(path, content):
        entry["lfs"] = {"oid": content.sha256, "size": content.size, "pointerSize": 134}
    return entry


def _no_repo(token: str | None) -> Reply:
    """What is private looks as what does not exist: 401 to strangers, 404 to those who are logged in."""
    if token is None:
        return _error(401, "RepoNotFound", "Invalid username or password.")
    return _error(404, "RepoNotFound", "Repository not found")


def _error(status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    found = {**(headers or {}), "X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return Reply(status, {**found, "Content-Type": "application/json"}, json.dumps({"error": message}).encode())


def _json(value: object, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(200, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())
