"""Where an adapter is from and what it was trained on: its digest, and what is noted."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fetch.adapter_fit import notes
from fetch.adapters import adapter_digest, read_adapter
from shipvlm.errors import GateError
from shipvlm.lock import LOCK, Lock, LockedFile, write_lock
from tests.fetch.made_adapters import made_adapter


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return made_adapter(tiny_checkpoint, tmp_path / "adapter")


def configure(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def made_lock(repo: str, files: dict[str, LockedFile]) -> Lock:
    return Lock(
        repo=repo, revision="main", commit=None, source="hf", endpoint=None, licence=None, files=files, documents={}
    )


def test_a_fetched_adapter_is_held_against_its_lock(adapter: Path) -> None:
    before = adapter_digest(adapter)
    names = ("adapter_config.json", "adapter_model.safetensors")
    sums = {name: sha256((adapter / name).read_bytes()).hexdigest() for name in names}
    files = {name: LockedFile(bytes=(adapter / name).stat().st_size, sha256=sums[name]) for name in names}
    write_lock(made_lock("owner/adapter", files), adapter / LOCK)
    assert adapter_digest(adapter) != before  # the manifest says where it is from
    configure(adapter, r=5)
    with pytest.raises(GateError, match=r"adapter_config.json: other bytes"):
        adapter_digest(adapter)
    (adapter / LOCK).unlink()
    assert adapter_digest(adapter) != before


@pytest.mark.parametrize(
    ("named", "kept", "noted"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-VL-8B-Instruct", False),
        ("/data/models/qwen3-vl-8b-instruct/", "qwen3-vl-8b-instruct", False),
        ("C:\\models\\Qwen3-VL-2B", "Qwen3-VL-2B", True),
        ("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-2B-Instruct", True),
        (None, None, False),
    ],
)
def test_another_base_is_noted_and_no_path_is_kept(
    adapter: Path, tmp_path: Path, named: str | None, kept: str | None, noted: bool
) -> None:
    configure(adapter, base_model_name_or_path=named)
    read = read_adapter(adapter)
    assert read.trained_on == kept
    assert notes(tmp_path, [read]) == []
    write_lock(made_lock("Qwen/Qwen3-VL-8B-Instruct", {}), tmp_path / LOCK)
    wanted = [f"adapter 1 was trained on {kept}, the base is Qwen/Qwen3-VL-8B-Instruct"] if noted else []
    assert notes(tmp_path, [read]) == wanted
