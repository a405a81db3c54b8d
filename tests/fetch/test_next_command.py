"""The command that an error offers is typed: it does what it says, also where a part of something lies already."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from shipvlm.lock import LOCK, read_lock, verify_lock
from tests.fetch.fake_hub import FakeHub
from tests.fetch.made_repository import repository
from tests.fetch.serving import ALWAYS, Fault
from tests.shipvlm.commands import run

FILES = repository(numbers=300)
DOWN = "http://127.0.0.1:9"

Fetch = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fetch(capsys, tmp_path: Path, scope, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run(capsys, "fetch", "owner/tiny", *arguments)


@pytest.fixture
def part(fetch: Fetch, hub: FakeHub) -> str:
    """A fetch from the Hub that was broken off: it is pinned to the Hub's commit. The address of the Hub."""
    hub.cdn.fail("*00002*", Fault(status=503, times=ALWAYS))
    assert fetch("--source", "hf", "--endpoint", hub.url, "--include", "README.md")[0] == 4
    hub.cdn.faults.clear()
    return hub.url


def offered(text: str, word: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith("    shipvlm fetch") and word in line]
    return shlex.split(line)[1:]


def types(capsys, command: list[str]) -> tuple[int, str, str]:
    return run(capsys, *command)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_part_of_the_hub_and_no_hub(capsys, fetch: Fetch, part: str, hub, scope, lang: str) -> None:
    code, _, err = fetch("--endpoint", DOWN, "--include", "README.md", "--lang", lang)
    assert code == 3
    assert "checkpoints/tiny" in err
    command = offered(err, "modelscope")
    assert types(capsys, command)[0] == 0
    lock = verify_lock(Path("checkpoints/tiny-modelscope"))
    assert (lock.source, lock.commit, lock.include) == ("modelscope", scope.commit, ("README.md",))
    # What is there is not lost: with the Hub it goes on.
    assert fetch("--endpoint", part)[0] == 0
    assert read_lock(Path("checkpoints/tiny") / LOCK).commit == hub.commit


def test_with_a_lock_the_part_goes_on_from_the_other_source(capsys, fetch: Fetch, part: str, hub, scope) -> None:
    fetch("--source", "hf", "--endpoint", part, "-o", "whole", "--include", "README.md")
    hub.gated = "manual"
    code, _, err = fetch("--endpoint", part, "--lock", f"whole/{LOCK}")
    assert code == 5
    command = offered(err, "modelscope")
    assert "-o" not in command
    assert types(capsys, command)[0] == 0
    assert verify_lock(Path("checkpoints/tiny")).files == read_lock(Path("whole") / LOCK).files


def test_where_nothing_is_there_it_is_the_same_folder(capsys, fetch: Fetch, hub) -> None:
    code, _, err = fetch("--endpoint", DOWN, "--revision", hub.commit, "-o", "mine")
    assert code == 4
    command = offered(err, "modelscope")
    assert command[2:4] == ["-o", "mine"]
    assert types(capsys, command)[0] == 0


def test_a_recipe_is_told_the_same(capsys, fetch: Fetch, part: str, tmp_path: Path) -> None:
    Path("recipe.yaml").write_text(
        f"name: small\nmodel: {{path: checkpoints/tiny, repo: owner/tiny, endpoint: '{DOWN}'}}\n"
        "target: {runtime: vllm, device: ada}\nquantize: {scheme: w8a16}\nconvert: null\n"
    )
    code, _, err = run(capsys, "run", "recipe.yaml", "--until", "fetch")
    assert code == 3
    assert types(capsys, offered(err, "modelscope"))[0] == 0
    verify_lock(Path("checkpoints/tiny-modelscope"))


def test_a_mirror_that_changed_is_not_left_for_a_source_that_cannot_go_on(fetch: Fetch, part: str, hub) -> None:
    """It serves other bytes as the commit that was pinned; ModelScope has the right ones, and may not go on."""
    other = repository(seed=1, numbers=300)
    with FakeHub(other) as changed:
        changed.commits = {hub.commit: changed.commits[changed.commit]}
        changed.branches = {"main": hub.commit}
        code, _, err = fetch("--endpoint", changed.url)
    assert code == 1
    assert "It is no copy of commit" in err and "--source modelscope" not in err
