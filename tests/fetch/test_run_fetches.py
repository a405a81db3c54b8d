"""shipvlm run of a recipe whose checkpoint is on a hub, with an adapter: from the fetch to the manifest."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shipvlm.lock import LOCK, files_digest, read_lock
from tests.fetch.fake_hub import FakeHub
from tests.fetch.made_adapters import made_adapter, merged_by_peft, tensors
from tests.shipvlm.commands import run

RECIPE = """
name: small
model: {path: checkpoints/tiny, repo: owner/tiny, source: hf, endpoint: URL, adapters: [adapter]}
target: {runtime: vllm, device: ada}
quantize: {scheme: w8a16}
convert: null
"""


@pytest.fixture
def hub(tiny_checkpoint: Path) -> Iterator[FakeHub]:
    files = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}
    with FakeHub({**files, "README.md": b"---\nlicense: apache-2.0\n---\n", "pytorch_model.bin": b"x"}) as hub:
        yield hub


@pytest.fixture
def recipe(hub: FakeHub, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe, in the working directory, with its adapter beside it."""
    monkeypatch.chdir(tmp_path)
    made_adapter(tiny_checkpoint, tmp_path / "adapter")
    Path("recipe.yaml").write_text(RECIPE.replace("URL", hub.url))
    return Path("recipe.yaml")


def built(capsys: pytest.CaptureFixture[str], recipe: Path, *options: str) -> dict[str, Any]:
    code, out, err = run(capsys, "run", recipe, "--json", *options)
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def kept(result: dict[str, Any]) -> dict[str, bool]:
    return {stage["stage"]: stage["kept"] for stage in result["stages"]}


def test_it_is_fetched_merged_and_quantized_and_the_manifest_says_what(
    capsys: pytest.CaptureFixture[str], hub: FakeHub, recipe: Path, tiny_checkpoint: Path
) -> None:
    assert kept(built(capsys, recipe, "--until", "quantize")) == {"fetch": False, "merge": False, "quantize": False}
    wanted = merged_by_peft(tiny_checkpoint, [Path("adapter")])
    found = tensors(Path("build/small/merged"))
    assert all((found[name] == wanted[name]).all() for name in wanted)

    text = Path("build/small/quantized/manifest.json").read_text()
    manifest = json.loads(text)
    lock = read_lock(Path("checkpoints/tiny") / LOCK)
    source = {"repo": "owner/tiny", "commit": hub.commit, "licence": "apache-2.0", "sha256": files_digest(lock)}
    assert manifest["provenance"]["source"] == source
    [adapter] = manifest["provenance"]["merge"]["result"]["adapters"]
    assert (adapter["kind"], adapter["rank"], adapter["modules"]) == ("LoRA", [4], 6)
    assert manifest["inputs"].keys() == {"source", "origin"}
    assert hub.url not in text
    assert str(Path.cwd()) not in text

    again = built(capsys, recipe, "--until", "quantize")
    assert kept(again) == {"fetch": True, "merge": True, "quantize": True}
    log = [json.loads(line) for line in Path("build/small/log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["kept"]) for line in log[:3]] == [
        ("fetch", False),
        ("merge", False),
        ("quantize", False),
    ]
    assert (log[0]["commit"], log[0]["digest"]) == (hub.commit, source["sha256"])


def test_two_machines_with_the_same_bytes_write_the_same_manifest(
    capsys: pytest.CaptureFixture[str], hub: FakeHub, recipe: Path, tiny_checkpoint: Path
) -> None:
    """The other one gets them from a mirror, at another time, by the commit."""
    built(capsys, recipe, "--until", "quantize")
    first = Path("build/small/quantized/manifest.json").read_bytes()
    with FakeHub(hub.files) as mirror:
        assert mirror.commit == hub.commit
        at = ("--set", f"model.endpoint={mirror.url}", "--set", f"model.revision={hub.commit}")
        built(capsys, recipe, "--until", "quantize", "-o", "other", "--set", "model.path=elsewhere", *at)
    assert Path("other/quantized/manifest.json").read_bytes() == first


def test_a_changed_adapter_or_lock_makes_what_follows_anew(
    capsys: pytest.CaptureFixture[str], hub: FakeHub, recipe: Path, tiny_checkpoint: Path
) -> None:
    built(capsys, recipe, "--until", "quantize")
    shutil.rmtree("adapter")
    made_adapter(tiny_checkpoint, Path("adapter"), seed=1)
    assert kept(built(capsys, recipe, "--until", "quantize")) == {"fetch": True, "merge": False, "quantize": False}
    hub.push({**hub.files, "README.md": b"---\nlicense: apache-2.0\n---\nnew words"})
    shutil.rmtree("checkpoints")  # the same weights come again, of another commit
    assert kept(built(capsys, recipe, "--until", "quantize")) == {"fetch": False, "merge": False, "quantize": False}
    manifest = json.loads(Path("build/small/quantized/manifest.json").read_text())
    assert manifest["provenance"]["source"]["commit"] == hub.commit


def test_until_fetch_ends_after_it_and_says_the_licence(capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    code, out, err = run(capsys, "run", recipe, "--until", "fetch")
    assert (code, "licence: apache-2.0" in err) == (0, True)
    assert "checkpoints/tiny" in out
    assert sorted(path.name for path in Path("build/small").iterdir()) == ["log.jsonl"]
    assert not Path("checkpoints/tiny/pytorch_model.bin").exists()
    code, _, err = run(capsys, "run", recipe, "--until", "fetch", "--set", "model={path: checkpoints/tiny}")
    assert (code, "model.repo: nothing is to be fetched" in err) == (2, True)


def test_plan_asks_no_server_and_says_what_it_can(
    capsys: pytest.CaptureFixture[str], hub: FakeHub, recipe: Path
) -> None:
    code, out, _ = run(capsys, "plan", recipe)
    assert code == 0
    assert f"checkpoints/tiny: not there yet; shipvlm run fetches owner/tiny from {hub.url}" in out
    run(capsys, "run", recipe, "--until", "fetch")
    asked = len(hub.server.requests)
    Path("lock.json").write_bytes((Path("checkpoints/tiny") / LOCK).read_bytes())
    code, out, _ = run(capsys, "plan", recipe, "--json")
    names = [(stage["name"], stage["folder"]) for stage in json.loads(out)["stages"]]
    assert (code, names[:2]) == (0, [("merge", "merged"), ("quantize", "quantized")])
    code, out, _ = run(capsys, "plan", recipe, "--set", "model.path=new", "--set", "model.lock=lock.json")
    assert (code, f"fetches owner/tiny from {hub.url}, 0.0 GB" in out) == (0, True)
    assert len(hub.server.requests) == asked


def test_what_the_fetch_brings_to_light_stops_the_run(
    capsys: pytest.CaptureFixture[str], hub: FakeHub, recipe: Path
) -> None:
    """The plan could not see the checkpoint: it is looked at before anything is built."""
    config = json.loads((Path("adapter") / "adapter_config.json").read_text())
    (Path("adapter") / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    assert run(capsys, "plan", recipe)[0] == 0
    code, _, err = run(capsys, "run", recipe, "--until", "quantize")
    assert (code, "model.adapters: adapter: " in err, "(rank 8)" in err) == (2, True, True)
    assert not Path("build/small/merged").exists()
    assert run(capsys, "plan", recipe)[0] == 2


def test_a_refused_fetch_is_in_the_log_and_says_the_next_command(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, recipe: Path
) -> None:
    with FakeHub({path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}, gated="manual") as gated:
        code, _, err = run(capsys, "run", recipe, "--set", f"model.endpoint={gated.url}")
    assert code == 5
    assert "shipvlm fetch owner/tiny -o checkpoints/tiny" in err
    [line] = [json.loads(line) for line in Path("build/small/log.jsonl").read_text().splitlines()]
    assert (line["stage"], line["error"].startswith("AccessError: ")) == ("fetch", True)


def test_an_adapter_is_no_base(capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    with FakeHub({path.name: path.read_bytes() for path in Path("adapter").iterdir()}, repo="owner/lora") as hub:
        options = ("--set", f"model.endpoint={hub.url}", "--set", "model.repo=owner/lora", "--set", "model.path=x")
        code, _, err = run(capsys, "run", recipe, *options)
    assert (code, "owner/lora: is a LoRA adapter: name its base in model.repo" in err) == (2, True)


def test_bytes_that_changed_since_the_fetch_are_noticed(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, recipe: Path
) -> None:
    """Without model.repo nothing mends the folder: the manifest would name a commit whose bytes these are not."""
    built(capsys, recipe, "--until", "fetch")
    path = Path("checkpoints/tiny/chat_template.jinja")
    path.write_text(path.read_text() + " ")
    code, _, err = run(capsys, "run", recipe, "--set", "model={path: checkpoints/tiny}", "--until", "quantize")
    assert (code, "chat_template.jinja: other bytes" in err) == (1, True)
    assert kept(built(capsys, recipe, "--until", "fetch")) == {"fetch": False}


def opened(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Path]:
    """The paths of this name that Python opens to read all of from now on (safetensors maps files by itself)."""
    found: list[Path] = []
    plain = Path.open

    def watched(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == name and "r" in (arguments or ("r",))[0]:
            found.append(path)
        return plain(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", watched)
    return found


def test_the_weights_are_hashed_once_in_a_run(
    capsys: pytest.CaptureFixture[str], recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While they come, or on a second run when fetch verifies them; never again for the key of a stage."""
    options = ("--until", "quantize", "--set", "model.adapters=[]")
    place, found = Path("checkpoints/tiny/model.safetensors"), opened(monkeypatch, "model.safetensors")
    assert kept(built(capsys, recipe, *options)) == {"fetch": False, "quantize": False}
    assert found.count(place) == 0
    assert kept(built(capsys, recipe, *options)) == {"fetch": True, "quantize": True}
    assert found.count(place) == 1
    # Whoever hashes them for the key alone has the same key.
    path = ("--set", "model={path: checkpoints/tiny}", "--until", "quantize")
    assert kept(built(capsys, recipe, *path)) == {"quantize": True}
    assert found.count(place) == 2
    text = place.read_bytes()
    place.write_bytes(text[:-1] + bytes([text[-1] ^ 1]))
    assert kept(built(capsys, recipe, *options)) == {"fetch": False, "quantize": True}  # it was mended


def test_the_stages_alone_say_the_same_of_a_fetched_folder(capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    built(capsys, recipe, "--until", "quantize", "--set", "model.adapters=[]")
    code, _, err = run(capsys, "quantize", "checkpoints/tiny", "-o", "alone", "--scheme", "w8a16")
    assert code == 0, err
    manifest = Path("alone/manifest.json").read_bytes()
    assert manifest == Path("build/small/quantized/manifest.json").read_bytes()
    assert json.loads(manifest)["provenance"]["source"]["repo"] == "owner/tiny"


@pytest.mark.parametrize("command", ["quantize", "convert"])
@pytest.mark.parametrize("setting", ["model.adapters=[adapter]", "model.repo=owner/tiny"])
def test_a_stage_alone_does_not_ignore_what_it_does_not_do(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path, command: str, setting: str
) -> None:
    code, _, err = run(capsys, command, tiny_checkpoint, "-o", tmp_path / "out", "--set", setting)
    field = setting.partition("=")[0]
    assert (code, f"this command's own arguments and options say {field}" in err) == (2, True)
