"""Every test of fetch runs as somebody with no account, no settings and an empty home, and waits for nothing."""

import os
from pathlib import Path

import huggingface_hub.constants
import pytest

import fetch.retry


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
def out(tmp_path: Path) -> Path:
    """Where a fetch writes: not there yet."""
    return tmp_path / "out"


@pytest.fixture
def said() -> list[str]:
    """What is said to the person who waits."""
    return []
