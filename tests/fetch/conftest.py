"""Every test of fetch runs as somebody with no account, no settings and an empty home, and waits for nothing."""

import os
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

import fetch.retry
from tests.fetch.fake_hub import FakeHub
from tests.fetch.fake_modelscope import FakeModelScope


@pytest.fixture(autouse=True)
def empty_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder: no login of a hub is in it, and no variable names a token, an endpoint or a language."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING_FACE_", "MODELSCOPE_", "TRANSFORMERS_OFFLINE", "LC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(home / "modelscope"))
    # Read when huggingface_hub is imported, which was before.
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(home / "hf" / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_STORED_TOKENS_PATH", str(home / "hf" / "stored_tokens"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fetch.retry, "FIRST_WAIT", 0.001)
    return home


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[FakeHub]:
    """A hub that has the test file's FILES."""
    with FakeHub(request.module.FILES) as server:
        yield server


@pytest.fixture
def scope(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeModelScope]:
    """A ModelScope that has them too, and is the one that is asked."""
    with FakeModelScope(request.module.FILES) as server:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        yield server


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a fetch writes: not there yet."""
    return tmp_path / "out"


@pytest.fixture
def said() -> list[str]:
    """What is said to the person who waits."""
    return []
