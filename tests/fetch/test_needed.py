"""Which files are fetched: never a pickle, code, or a path outside, whatever a repository lists."""

import json
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetch.needed import Needed, chosen_weights, likely, locked, needed
from fetch.source import Listing, RemoteFile
from shipvlm.errors import InputError
from shipvlm.folder import SIDE_FILES, WEIGHTS_INDEX
from shipvlm.lock import Lock, LockedFile, safe_path

QWEN = (
    ".gitattributes",
    "README.md",
    "LICENSE",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
)
NOT_NEEDED = (
    "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model.bin.index.json",
    "consolidated.safetensors",
    "original/consolidated.00.pth",
    "original/model.safetensors",
    "onnx/model.onnx",
    "tf_model.h5",
    "flax_model.msgpack",
    "modeling_qwen.py",
    "LICENSE.py",
    "NOTICE.bin",
    "docs/README.md",
    "sub/config.json",
    "training_args.bin",
    "optimizer.pt",
)
SAFE = st.sampled_from([*QWEN, *NOT_NEEDED, "adapter_config.json", "adapter_model.safetensors", "model.safetensors"])
HOSTILE = st.one_of(
    st.sampled_from(
        ["../config.json", "/etc/passwd", "..", "a/../../b.json", "c:\\x.json", ".fetch/x.json", "checkpoint.lock.json"]
    ),
    st.tuples(
        st.lists(st.sampled_from(["..", ".", "", "docs", "model", "LICENSE", "x\n", "\0"]), min_size=1, max_size=3),
        st.sampled_from(["", ".json", ".py", ".pkl", ".bin", ".pth", ".safetensors", ".so", ".md", ".PY", ".Bin"]),
    ).map(lambda parts: "/".join(parts[0]) + parts[1]),
)
RUNS = {".py", ".pyc", ".so", ".sh", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".onnx"}


def listing(*paths: str) -> Listing:
    files = tuple(RemoteFile(path, 7, None, None) for path in paths)
    return Listing("hf", "owner/name", "http://hub", "main", "c" * 40, files)


def paths(files: tuple[RemoteFile, ...] | list[RemoteFile]) -> set[str]:
    return {file.path for file in files}


def every(found: Needed) -> set[str]:
    return paths([*found.side, *found.documents, *found.weights, *found.asked])


def index(folder: Path, *names: object) -> Path:
    path = folder / WEIGHTS_INDEX
    path.write_text(json.dumps({"weight_map": {str(number): name for number, name in enumerate(names)}}))
    return path


def test_of_a_published_checkpoint_all_that_is_loaded_is_needed(tmp_path: Path) -> None:
    found = needed(listing(*QWEN, *NOT_NEEDED))
    assert paths(found.documents) == {"README.md", "LICENSE"}
    assert paths(found.side) == {path for path in QWEN if path in SIDE_FILES or path == WEIGHTS_INDEX}
    shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert paths(likely(found)) == shards
    assert paths(chosen_weights(listing(*QWEN), found, index(tmp_path, *shards))) == shards
    assert not found.adapter


def test_the_index_decides_which_weights_are_meant(tmp_path: Path) -> None:
    here = listing(*QWEN, "model.safetensors", "consolidated.safetensors", "extra.safetensors")
    found = needed(here)
    assert paths(chosen_weights(here, found, index(tmp_path, "extra.safetensors"))) == {"extra.safetensors"}
    with pytest.raises(InputError, match=r"model-00003-of-00003\.safetensors, which its list does not have"):
        chosen_weights(here, found, index(tmp_path, "extra.safetensors", "model-00003-of-00003.safetensors"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../model.safetensors", "original/model.safetensors", 5, ["x"]])
def test_an_index_names_nothing_but_safetensors_of_the_list(tmp_path: Path, name: object) -> None:
    here = listing(*QWEN, *NOT_NEEDED)
    with pytest.raises(InputError, match="owner/name"):
        chosen_weights(here, needed(here), index(tmp_path, name))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000])
def test_a_broken_index_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / WEIGHTS_INDEX).write_text(text)
    with pytest.raises(InputError, match=WEIGHTS_INDEX):
        chosen_weights(listing(*QWEN), needed(listing(*QWEN)), tmp_path / WEIGHTS_INDEX)


def test_one_file_of_weights_needs_no_index(tmp_path: Path) -> None:
    here = listing("config.json", "model.safetensors", "consolidated.safetensors", "pytorch_model.bin")
    assert paths(chosen_weights(here, needed(here), tmp_path / WEIGHTS_INDEX)) == {"model.safetensors"}


def test_an_adapter_is_told_from_a_checkpoint(tmp_path: Path) -> None:
    here = listing("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md")
    found = needed(here)
    assert found.adapter
    assert paths(found.side) == {"adapter_config.json"}
    assert paths(chosen_weights(here, found, tmp_path / WEIGHTS_INDEX)) == {"adapter_model.safetensors"}
    assert not needed(listing(*QWEN, "adapter_config.json")).adapter


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["config.json", "pytorch_model.bin"], "pickle files .*pytorch_model.bin.*never fetched"),
        (["adapter_config.json", "adapter_model.bin"], "pickle files"),
        (["config.json", "README.md"], "no safetensors weights"),
        ([WEIGHTS_INDEX, "config.json"], "no safetensors weights"),
        ([], "no safetensors weights"),
    ],
)
def test_a_repository_without_safetensors_is_refused(files: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        needed(listing(*files))


def test_include_adds_data(tmp_path: Path) -> None:
    here = listing(*QWEN, "docs/a.md", "docs/deep/b.png", "extra.safetensors", "original/model.safetensors")
    found = needed(here, ["docs/*", "*.safetensors"])
    assert {"docs/a.md", "docs/deep/b.png"} <= paths(found.side)
    shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    chosen = chosen_weights(here, found, index(tmp_path, *shards))
    assert paths(chosen) == shards | {"extra.safetensors", "original/model.safetensors"}
    assert len(chosen) == 4


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing/*", "fits no file"),
        ("*.bin", "run code"),
        ("original/*", r"original/consolidated\.00\.pth.*run code"),
        ("*.py", "none of the data"),
        ("LICENSE.*", "none of the data"),
        ("onnx/*", "none of the data"),
        ("manifest.json", "shipvlm built"),
        ("*evil*", "stay inside"),
    ],
)
def test_include_of_anything_else_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        needed(listing(*QWEN, *NOT_NEEDED, "manifest.json", "../evil.json"), [pattern])


def test_a_lock_says_which_files() -> None:
    files = {path: LockedFile(bytes=7, sha256="0" * 64) for path in ("config.json", "model.safetensors", "gone.json")}
    lock = Lock(
        repo="owner/name",
        revision="main",
        commit=None,
        source="hf",
        endpoint=None,
        licence=None,
        files=files,
        documents={},
    )
    found = locked(listing(*QWEN, "model.safetensors"), lock)
    assert paths(found.side) == {"config.json"}
    assert paths(found.weights) == paths(found.asked) == {"model.safetensors"}
    assert paths(found.documents) == {"README.md", "LICENSE"}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(SAFE, HOSTILE), unique=True, max_size=20),
    st.lists(st.sampled_from(["*", "docs/*", "*.json", "*.md", "*LICENSE*", "../*"]), max_size=2),
)
def test_never_a_pickle_code_or_a_path_outside(files: list[str], include: list[str]) -> None:
    try:
        found = needed(listing(*files), include)
    except InputError:
        return
    for path in every(found):
        assert safe_path(path) == path
        assert PurePosixPath(path).suffix.lower() not in RUNS
        assert path in files


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(SAFE, HOSTILE), unique=True, max_size=10),
    st.lists(st.one_of(st.just("a.safetensors"), SAFE, HOSTILE, st.text()), max_size=4),
)
def test_no_index_brings_anything_but_listed_safetensors(tmp_path_factory, files: list[str], named: list[str]) -> None:
    here = listing("config.json", WEIGHTS_INDEX, "a.safetensors", *(path for path in files if path not in QWEN))
    path = index(tmp_path_factory.mktemp("index"), *named)
    try:
        chosen = paths(chosen_weights(here, needed(here), path))
    except InputError:
        return
    assert chosen == set(named)
    assert chosen <= paths(here.files)
    assert all(path.endswith(".safetensors") and "/" not in path and safe_path(path) for path in chosen)
