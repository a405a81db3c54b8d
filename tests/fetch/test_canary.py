"""A token that can be told among all bytes: where `shipvlm fetch` writes it (nowhere), and which hosts got it.

Where a whole process counts, it runs in one of its own, with its home, its caches and its output under one folder.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.fetch.fake_hub import FakeHub
from tests.fetch.fake_modelscope import FakeModelScope
from tests.fetch.made_repository import repository
from tests.fetch.serving import ALWAYS, Fault, Reply, Request, Server
from tests.shipvlm.commands import run

HUB_TOKEN = "hf_CANARY0123456789canaryCANARY"
SCOPE_TOKEN = "ms-CANARY-0123456789-canary"
CANARY = b"CANARY"
ROOT = Path(__file__).parents[2]
FILES = repository(numbers=100)
ALLOWED = "--allow-token-to-endpoint"


def shipvlm(folder: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Exit code, and stdout with stderr, of one command in `folder`, which is the home and all caches too."""
    settings = {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_PROXY": "127.0.0.1,127.0.0.2",
        "HF_HUB_VERBOSITY": "debug",
        "HF_DEBUG": "1",
    }
    command = [sys.executable, "-c", "from shipvlm.cli import main; main()", "--debug", "fetch", "owner/tiny"]
    done = subprocess.run(
        [*command, "-o", "out", *map(str, arguments)],
        cwd=folder,
        env={**settings, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    return done.returncode, done.stdout


def with_canary(folder: Path) -> list[str]:
    """Files under `folder` whose bytes or whose path hold the token."""
    found = []
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if CANARY in os.fsencode(name) or (path.is_file() and CANARY in path.read_bytes()):
            found.append(name)
    return found


def got_it(server: Server) -> list[Request]:
    """Requests with the token anywhere in them: a header, a cookie, the address."""
    return [r for r in server.requests if "CANARY" in r.target or any("CANARY" in v for v in r.headers.values())]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def hub():
    with FakeHub(FILES, gated="auto", approved=(HUB_TOKEN,), known=()) as server:
        yield server


@pytest.fixture
def scope():
    with FakeModelScope(FILES, tokens=(SCOPE_TOKEN,)) as server:
        yield server


def both(hub: FakeHub, scope: FakeModelScope) -> dict[str, str]:
    return {
        "HF_TOKEN": HUB_TOKEN,
        "MODELSCOPE_API_TOKEN": SCOPE_TOKEN,
        "HF_ENDPOINT": hub.url,
        "MODELSCOPE_ENDPOINT": scope.url,
    }


def test_a_fetch_that_is_allowed_to_send_it(home: Path, hub, scope) -> None:
    code, printed = shipvlm(home, ALLOWED, environment=both(hub, scope))
    assert code == 0, printed.decode()
    assert CANARY not in printed
    assert with_canary(home) == []
    assert (home / "out" / "checkpoint.lock.json").is_file()
    assert got_it(hub.server)
    assert got_it(hub.cdn) == []


def test_what_is_allowed_for_an_endpoint_is_not_allowed_for_modelscopes(home: Path, hub, scope) -> None:
    code, printed = shipvlm(home, ALLOWED, "--endpoint", hub.url, environment=both(hub, scope))
    assert code == 0, printed.decode()
    assert got_it(hub.server)
    assert scope.server.requests
    assert got_it(scope.server) == []


def test_a_mirror_gets_neither_token(home: Path, hub, scope) -> None:
    code, printed = shipvlm(home, environment=both(hub, scope))
    assert code == 5, printed.decode()
    assert b"was not sent" in printed
    assert CANARY not in printed
    assert with_canary(home) == []
    assert got_it(hub.server) == got_it(hub.cdn) == got_it(scope.server) == []


def test_a_stored_login_and_a_file_are_no_better_known(home: Path, hub, scope) -> None:
    (home / "hf").mkdir()
    (home / "hf" / "token").write_text(HUB_TOKEN)
    (home / "file").write_text(HUB_TOKEN)
    environment = {"HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": scope.url}
    for options in ((), ("--token-file", "file")):
        code, printed = shipvlm(home, *options, environment=environment)
        assert code == 5, printed.decode()
        assert CANARY not in printed
        assert got_it(hub.server) == got_it(hub.cdn) == got_it(scope.server) == []
    assert sorted(with_canary(home)) == ["file", "hf/token"]


def test_modelscope_gets_its_own_and_nobody_elses(home: Path, hub, scope) -> None:
    code, printed = shipvlm(home, ALLOWED, "--source", "modelscope", environment=both(hub, scope))
    assert code == 0, printed.decode()
    assert CANARY not in printed
    assert with_canary(home) == []
    sent = got_it(scope.server)
    assert sent
    assert not any(HUB_TOKEN in value for request in sent for value in request.headers.values())
    assert hub.server.requests == []


def test_only_the_endpoint_is_asked(home: Path, hub) -> None:
    """The Hub's client asks HF_ENDPOINT for other things than models, such as the names of coding agents."""
    hub.gated = None
    with Server(lambda request: Reply(404)) as other:
        environment = {"HF_TOKEN": HUB_TOKEN, "HF_ENDPOINT": other.url, "MODELSCOPE_ENDPOINT": other.url}
        code, printed = shipvlm(home, "--source", "hf", "--endpoint", hub.url, environment=environment)
    assert code == 0, printed.decode()
    assert CANARY not in printed
    assert other.requests == []
    assert {r.path.split("/")[2] for r in hub.server.requests if r.path.startswith("/api")} == {"models"}
    assert got_it(hub.server) == []
    assert sorted(path.name for path in home.iterdir()) == ["out"]


def here(capsys: pytest.CaptureFixture[str], home: Path, *arguments: object) -> tuple[int, bytes]:
    """The same in this process, for what does not write elsewhere: exit code, stdout and stderr."""
    code, out, err = run(capsys, "--debug", "fetch", "owner/tiny", "-o", home / "out", "--source", "hf", *arguments)
    return code, (out + err).encode()


def echo(request: Request) -> Reply:
    token = request.headers.get("authorization", "")
    headers = {"X-Error-Message": f"bad token {token}", "X-Error-Code": "GatedRepo", "X-Request-Id": token}
    return Reply(403, headers, token.encode())


def page(request: Request) -> Reply:
    return Reply(200, {"Content-Type": "text/html"}, request.headers.get("authorization", "").encode())


@pytest.mark.parametrize("reply", [echo, page])
def test_a_server_that_repeats_the_token_does_not_get_it_printed(capsys, home, monkeypatch, reply) -> None:
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    with Server(reply) as server:
        code, printed = here(capsys, home, ALLOWED, "--endpoint", server.url)
        assert code == 5, printed.decode()
        assert got_it(server)
    assert CANARY not in printed
    assert with_canary(home) == []


def test_a_redirect_or_a_next_page_elsewhere_gets_no_token(capsys, home, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    with FakeHub(FILES) as other, FakeHub(FILES, approved=(HUB_TOKEN,)) as hub:
        link = {"Link": f'<{other.url}/api/models/owner/tiny/tree/{other.commit}>; rel="next"'}
        for pattern, fault in (
            ("*/revision/*", Fault(status=302, headers={"Location": f"{other.url}/api/models/owner/tiny"})),
            ("*/tree/*", Fault(status=200, headers={"Content-Type": "application/json", **link}, body=b"[]")),
            ("*/resolve/*", Fault(status=302, headers={"Location": other.cdn.url})),
        ):
            hub.server.fail(pattern, fault)
            code, printed = here(capsys, home, ALLOWED, "--endpoint", hub.url)
            assert code in (0, 4, 5), printed.decode()
            assert CANARY not in printed
        assert got_it(hub.server)
        assert got_it(other.server) == got_it(other.cdn) == got_it(hub.cdn) == []
        assert other.server.requests
    assert with_canary(home) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(drop_after=0, times=ALWAYS),
        Fault(status=200, body=b"no json", times=ALWAYS),
        Fault(status=401, headers={"X-Error-Message": "Invalid credentials in Authorization header"}, times=ALWAYS),
    ],
    ids=["broken connection", "no json", "rejected"],
)
def test_a_traceback_holds_no_token(capsys, home: Path, hub, monkeypatch, fault: Fault) -> None:
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    hub.server.fail("*", fault)
    code, printed = here(capsys, home, ALLOWED, "--endpoint", hub.url)
    assert code in (4, 5), printed.decode()
    assert b"Traceback" in printed  # --debug
    assert CANARY not in printed
    assert with_canary(home) == []


def test_an_address_with_a_password_is_refused_and_not_repeated(capsys, home: Path, hub, monkeypatch) -> None:
    address = hub.url.replace("http://", "http://me:CANARY@")
    answers = [here(capsys, home, "--endpoint", address)]
    monkeypatch.setenv("HF_ENDPOINT", address)
    answers.append(here(capsys, home))
    for code, printed in answers:
        assert code == 2, printed.decode()
        assert CANARY not in printed
    assert with_canary(home) == []
    assert hub.server.requests == []
