"""shipvlm fetch as a person meets it: what is printed, exit codes, progress."""

import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from fetch.stage import Fetched
from shipvlm.cli import progress as shown
from shipvlm.lock import LOCK, UNFINISHED, files_digest, read_lock
from tests.fetch.conftest import empty_home  # noqa: F401 - a fixture that every test here needs too
from tests.fetch.fake_hub import FakeHub
from tests.fetch.fake_modelscope import FakeModelScope
from tests.fetch.made_repository import repository
from tests.fetch.serving import ALWAYS, Fault
from tests.shipvlm.commands import run

FILES = repository(numbers=300)
SIZE = sum(map(len, FILES.values()))

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub(FILES) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def fetch(capsys, hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run(capsys, "fetch", "owner/tiny", "--source", "hf", *arguments)


def test_what_is_printed_of_a_fetch_and_of_a_second_one(fetch: Command, hub, tmp_path: Path) -> None:
    code, out, err = fetch()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"checkpoints/tiny: owner/tiny at {hub.commit} (main): 11 files, {SIZE / 1000:.1f} kB, verified"
    assert lines[1].startswith(f"from mirror {hub.url}: {SIZE / 1000:.1f} kB in ") and lines[1].endswith("B/s")
    assert lines[2:] == [
        "licence: apache-2.0 (LICENSE, README.md kept in checkpoints/tiny)",
        f"lock: checkpoints/tiny/{LOCK}",
        "next: shipvlm plan recipes/int8-cpu.yaml --set model.path=checkpoints/tiny",
    ]
    code, out, err = fetch()
    assert code == 0
    kept = f"checkpoints/tiny: owner/tiny, kept: 11 files, {SIZE / 1000:.1f} kB, verified; "
    assert out.splitlines()[0] == f"{kept}commit {hub.commit}, which main still is"
    assert err == "checkpoints/tiny: verifying the files that are there\n"
    assert "licence" not in out


def test_json_is_one_object(fetch: Command, hub, tmp_path: Path) -> None:
    code, out, _ = fetch("-o", "there", "--json")
    assert code == 0
    found = json.loads(out)
    assert found.pop("seconds") > 0
    assert found == {
        "folder": "there",
        "repo": "owner/tiny",
        "revision": "main",
        "commit": hub.commit,
        "source": "hf",
        "endpoint": hub.url,
        "licence": "apache-2.0",
        "terms": None,
        "adapter": False,
        "kept": False,
        "state": None,
        "from": f"mirror {hub.url}",
        "files": 11,
        "bytes": SIZE,
        "fetched_bytes": SIZE,
        "lock": f"there/{LOCK}",
        "digest": files_digest(read_lock(tmp_path / "there" / LOCK)),
    }


def test_the_page_of_the_terms_is_printed_once(fetch: Command, hub, tmp_path: Path) -> None:
    hub.gated = "auto"
    (tmp_path / "token").write_text("hf_approved\n")
    code, out, err = fetch("--token-file", "token", "--allow-token-to-endpoint")
    assert code == 0, err
    assert out.count("terms: https://huggingface.co/owner/tiny") == 1
    assert "hf_approved" not in out + err


def test_a_model_without_a_licence_is_said_to_have_none(fetch: Command, hub) -> None:
    hub.licence = None
    hub.push({path: content for path, content in FILES.items() if path not in ("README.md", "LICENSE")})
    assert "licence: none, and no model card: nothing says that you may use it" in fetch()[1].splitlines()


def test_an_adapter_is_said_to_be_one(fetch: Command, hub) -> None:
    hub.push({"adapter_config.json": b"{}", "adapter_model.safetensors": b"w"})
    code, out, _ = fetch("-o", "mine")
    assert code == 0
    assert out.splitlines()[-1] == "next: a LoRA adapter: name it in a recipe's model.adapters, as mine"


def test_a_refusal_is_told_in_the_language_asked_for(fetch: Command, hub, monkeypatch) -> None:
    hub.gated = "manual"
    code, out, err = fetch()
    assert (code, out) == (5, "")
    assert err.startswith("error: owner/tiny is gated")
    assert "shipvlm fetch owner/tiny --source hf" in err  # the same command again
    code, _, err = fetch("--lang", "zh")
    assert (code, "受限" in err) == (5, True)
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert "受限" in fetch()[2]
    assert "is gated" in fetch("--lang", "en")[2]


def test_debug_says_where(capsys, hub, tmp_path: Path) -> None:
    code, _, err = run(capsys, "--debug", "fetch", "owner/other", "--source", "hf", "-o", tmp_path / "out")
    assert (code, err.startswith("Traceback")) == (5, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nobody",), "no such folder, and no OWNER/NAME"),
        (("../nowhere",), "no such folder, and no OWNER/NAME"),
        (("a/b/c",), "no such folder, and no OWNER/NAME"),
        (("a/..", "--source", "hf"), "no OWNER/NAME"),
        (("a/.b",), "no OWNER/NAME"),
        (("owner/tiny", "--revision", ""), "revision"),
        (("owner/local",), "give ./owner/local, or --source hf"),
        (("./owner/local", "--revision", "main"), "without the options of hubs"),
        (("./owner/local", "-o", "x"), "has no safetensors weights"),
        (("owner/tiny", "--lock", "none.json"), "none.json: cannot be read"),
        (("owner/tiny", "--include", "*.bin"), "fits no file"),
        (("owner/tiny", "--endpoint", "ftp://x"), "no plain address"),
        (("owner/tiny", "--token-file", "none"), "cannot be read"),
        (("owner/tiny", "-o", "owner"), f"has no {LOCK}"),
        (("owner/tiny", "-o", "file"), f"has no {LOCK}"),
    ],
)
def test_bad_input_is_named(capsys, hub, tmp_path: Path, monkeypatch, arguments, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "owner" / "local").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    before = set(tmp_path.rglob("*"))
    code, out, err = run(capsys, "fetch", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "checkpoints"}
    assert list(tmp_path.parent.glob(f".{tmp_path.name}*")) == []
    assert err.count("error:") == 1


def test_a_folder_is_copied(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for path, content in FILES.items():
        (tmp_path / "mine" / path).write_bytes(content)
    code, out, err = run(capsys, "fetch", "mine")
    assert code == 0, err
    assert out.splitlines()[0] == f"checkpoints/mine: mine: 11 files, {SIZE / 1000:.1f} kB, verified"
    assert out.splitlines()[1].startswith(f"from mine: {SIZE / 1000:.1f} kB in ")
    assert run(capsys, "verify", "checkpoints/mine")[0] == 0


def test_stopped_by_hand_it_says_how_to_go_on(fetch: Command, monkeypatch) -> None:
    def stop(*_: object, **__: object) -> Fetched:
        raise KeyboardInterrupt

    monkeypatch.setattr("fetch.stage.download", stop)
    code, out, err = fetch()
    assert (code, out) == (130, "")
    assert "stopped; what came is kept in checkpoints/tiny" in err
    assert Path("checkpoints/tiny", UNFINISHED, LOCK).is_file()


def test_help_names_the_exit_codes(capsys) -> None:
    assert "5 a source of checkpoints" in " ".join(run(capsys, "--help")[1].split())
    assert "--allow-token-to-endpoint" in run(capsys, "fetch", "--help")[1]


def test_both_sources_in_a_command_of_one_word(capsys, hub, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with FakeModelScope(FILES) as scope:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", scope.url)
        code, out, err = run(capsys, "fetch", "owner/tiny")
    assert (code, err) == (0, "")
    assert f"at {hub.commit} (main)" in out


@pytest.mark.parametrize("slow", ["hf", "modelscope"])
def test_a_source_that_is_ten_times_slower_is_not_taken(capsys, tmp_path: Path, monkeypatch, slow: str) -> None:
    monkeypatch.setattr("fetch.choose.PROBE_BYTES", 200_000)
    monkeypatch.setattr("fetch.choose.WORTH_PROBING", 500_000)
    monkeypatch.chdir(tmp_path)
    files = repository(numbers=100_000)
    rates = {"hf": 2_000_000, "modelscope": 2_000_000} | {slow: 200_000}
    with FakeHub(files) as hub, FakeModelScope(files) as scope:
        hub.cdn.fail("*", Fault(rate=rates["hf"], times=ALWAYS))
        scope.server.fail("*FilePath=*.safetensors*", Fault(rate=rates["modelscope"], times=ALWAYS))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", scope.url)
        start = perf_counter()
        code, out, err = run(capsys, "fetch", "owner/tiny")
        seconds = perf_counter() - start
    taken = f"mirror {hub.url}" if slow == "modelscope" else f"ModelScope at {scope.url}"
    assert code == 0, err
    assert f"Taken from {taken}" in err and err.count("MB/s") == 2
    assert f"from {taken}: " in out
    assert f"at {hub.commit} (main)" in out  # the Hub still decides what the bytes are
    assert seconds < sum(map(len, files.values())) / rates[slow]


# Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the lines are told, in its only place."""
    now = [100.0]
    monkeypatch.setattr(shown, "monotonic", lambda: now[0])
    return now


def test_in_a_log_a_line_now_and_then_says_rate_and_time_left(clock: list[float]) -> None:
    text = io.StringIO()
    progress = shown._byte_lines(Console(file=text, soft_wrap=True, highlight=False, markup=False))
    progress("a", 40_000_000, 100_000_000)  # of which an earlier run left something
    progress("b", 0, 100_000_000)
    clock[0] += 10
    progress("a", 60_000_000, 100_000_000)
    assert text.getvalue() == ""
    clock[0] += 10
    progress("b", 20_000_000, 100_000_000)
    assert text.getvalue() == "all files: 80.0 MB of 200.0 MB, 2.0 MB/s, about 60 s left\n"
    progress("a", 100_000_000, 100_000_000)
    progress("a", 100_000_000, 100_000_000)
    assert text.getvalue().splitlines()[1:] == ["a: 100.0 MB"]


def test_on_a_terminal_each_file_and_all_of_them_have_a_bar() -> None:
    with Bars(console=Console(file=io.StringIO(), force_terminal=True), auto_refresh=False) as bars:
        progress = shown._byte_bars(bars)
        progress("a", 40, 100)
        progress("b", 0, 100)
        [whole] = bars.tasks
        assert (whole.description, whole.completed, whole.total) == (shown.ALL, 40, 200)
        assert whole.speed is None  # what was there is no speed
        progress("a", 60, 100)
        assert [(task.description, task.completed, task.visible) for task in bars.tasks] == [
            (shown.ALL, 60, True),
            ("a", 60, True),
        ]
        progress("a", 100, 100)
        progress("b", 10, 100)
        assert [(task.description, task.completed, task.visible) for task in bars.tasks] == [
            (shown.ALL, 110, True),
            ("a", 100, False),
            ("b", 10, True),
        ]
        progress("b", 0, 100)  # wrong bytes were set aside
        assert bars.tasks[0].completed == 100


def test_bars_and_lines_are_told_from_many_threads(clock: list[float]) -> None:
    with Bars(console=Console(file=io.StringIO(), force_terminal=True), auto_refresh=False) as bars:
        lines = shown._byte_lines(Console(file=io.StringIO()))
        for progress in (shown._byte_bars(bars), lines):
            paths = [f"{number}" for number in range(8)]
            for path in paths:
                progress(path, 0, 200)

            def report(path: str, progress=progress) -> None:
                for done in range(1, 201):
                    progress(path, done, 200)

            threads = [threading.Thread(target=report, args=(path,)) for path in paths]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert (bars.tasks[0].completed, bars.tasks[0].total, len(bars.tasks)) == (1600, 1600, 9)


def test_where_there_is_no_terminal_nothing_is_drawn(monkeypatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    with shown.bytes_shown() as (progress, say):
        progress("a", 0, 10)
        progress("a", 10, 10)
        say("[bold]as it is[/bold]")
    assert text.getvalue() == "[bold]as it is[/bold]\n"
