"""A small repository, its download as tests ask for it, and what is looked at afterwards."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fetch.download import download
from fetch.hub import hub_source
from fetch.modelscope import modelscope_source
from shipvlm.lock import LockedFile
from tests.fetch.fake_hub import FakeHub
from tests.fetch.fake_modelscope import FakeModelScope

WEIGHTS = "model-1.safetensors"
FILES = {
    WEIGHTS: bytes(range(256)) * 1600,  # 409,600 bytes
    "model-2.safetensors": b"second" * 10_000,
    "config.json": b"{}",
    "sub/folder/tokenizer.json": b'{"a": 1}',
    "empty.json": b"",
}


def bring(
    out: Path,
    *servers: FakeHub | FakeModelScope,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    workers: int = 4,
) -> dict[str, LockedFile]:
    """Download all that the first server lists; the requests for its lists are forgotten."""
    sources = []
    for server in servers:
        source = (hub_source if isinstance(server, FakeHub) else modelscope_source)(server.url, None, False)
        sources.append((source, source.list(server.repo, None)))
        server.server.requests.clear()
    return download(sources[0][1].files, sources, out, progress, say, workers)


def check(out: Path, files: Mapping[str, bytes] = FILES) -> None:
    assert {path: (out / path).read_bytes() for path in files} == files


def asked(server: FakeHub | FakeModelScope, path: str) -> int:
    """How often the content of a file was asked for."""
    if isinstance(server, FakeHub):
        return sum(request.path.endswith(path) for request in server.server.requests)
    return sum(request.query.get("FilePath") == path for request in server.server.requests)


def quarantined(out: Path) -> list[str]:
    folder = out / ".quarantine"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
