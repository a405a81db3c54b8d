"""A source that trickles is left for one that has the same bytes; where there is none, that is said."""

from pathlib import Path

import pytest

import fetch.pace
from tests.fetch.downloading import FILES as FILES
from tests.fetch.downloading import WEIGHTS, asked, bring, check
from tests.fetch.fake_hub import FakeHub
from tests.fetch.serving import ALWAYS, Fault


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.pace, "LONG", 0.3)
    monkeypatch.setattr(fetch.pace, "SLOW", 1_000_000)


def trickle(hub: FakeHub, rate: float) -> None:
    hub.cdn.fail(f"*{WEIGHTS}*", Fault(rate=rate, times=ALWAYS))


def test_a_source_that_trickles_is_left_for_one_with_the_same_bytes(hub, scope, out: Path, said: list[str]) -> None:
    trickle(hub, 60_000)  # 7 s in all
    bring(out, hub, scope, say=said.append)
    check(out)
    assert (asked(hub, WEIGHTS), asked(scope, WEIGHTS)) == (1, 1)
    [request] = [request for request in scope.server.requests if request.query.get("FilePath") == WEIGHTS]
    assert request.headers["range"].startswith("bytes=") and request.headers["range"] != "bytes=0-"  # it goes on there
    [line] = said
    assert line.startswith(f"{WEIGHTS}: {hub_label(hub)}: slow (")
    assert line.endswith(f"asking ModelScope at {scope.url}")
    assert asked(scope, "model-2.safetensors") == 0


def test_a_slow_source_is_taken_again_when_the_other_has_nothing(hub, scope, out: Path, said: list[str]) -> None:
    trickle(hub, 400_000)
    scope.server.fail(f"*{WEIGHTS}*", Fault(status=404, times=ALWAYS))
    bring(out, hub, scope, say=said.append)
    check(out)
    assert (asked(hub, WEIGHTS), asked(scope, WEIGHTS)) == (2, 2)
    assert said[-1].startswith(f"{hub_label(hub)} is slow (")


def test_a_slow_source_without_another_is_said_to_be_slow_once(hub, out: Path, said: list[str]) -> None:
    trickle(hub, 300_000)
    bring(out, hub, say=said.append)
    check(out)
    assert asked(hub, WEIGHTS) == 1
    [line] = said
    assert line.startswith(f"{hub_label(hub)} is slow (") and WEIGHTS in line


def test_a_fast_source_is_not_slow(hub, scope, out: Path, said: list[str]) -> None:
    bring(out, hub, scope, say=said.append)
    assert said == []


def test_a_rate_is_that_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(fetch.pace, "monotonic", lambda: now[0])
    monkeypatch.setattr(fetch.pace, "LONG", 60.0)
    monkeypatch.setattr(fetch.pace, "SLOW", 10_000)
    pace = fetch.pace.Pace()
    found = []
    for second, count in ((1, 5_000_000), (59, 50_000_000), (61, 50_001_000), (120, 50_002_000), (122, 50_003_000)):
        now[0] = second
        found.append(pace.slow(count))
    assert found[:4] == [None, None, None, None]
    assert found[4] == pytest.approx(2_000 / 61)
    now[0] = 183.0
    assert pace.slow(0) is None  # it began anew, as the server gave all of the file again
    now[0] = 244.0
    assert pace.slow(1_000_000) is None


def hub_label(hub: FakeHub) -> str:
    return f"mirror {hub.url}"
