"""One file over a connection that breaks, stalls or is refused: it goes on from there, or one error says why not."""

from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetch import request, retry, transfer
from fetch.request import Refused
from fetch.retry import Again
from tests.fetch.serving import ALWAYS, Fault, Reply, Server, html
from tests.fetch.transferring import CONTENT, bring, listed, ranges


@pytest.fixture
def server():
    with Server(lambda _: Reply(body=CONTENT)) as server:
        yield server


@pytest.fixture
def part(tmp_path):
    return tmp_path / "x.part"


def test_no_content_length_is_tolerated(server, part):
    server.fail("*", Fault(no_length=True))
    assert bring(server, part) == sha256(CONTENT).hexdigest()


def test_a_body_without_length_that_ends_early_is_continued(server, part):
    server.fail("*", Fault(no_length=True, drop_after=200_000))
    assert bring(server, part) == sha256(CONTENT).hexdigest()
    assert ranges(server) == [None, "bytes=200000-"]


def test_dropped_connections_are_continued_as_long_as_bytes_come(server, part):
    """More drops than there are attempts: only those in a row count."""
    server.fail("*", Fault(drop_after=70_000, times=7))
    assert bring(server, part) == sha256(CONTENT).hexdigest()
    assert ranges(server) == [None] + [f"bytes={70_000 * n}-" for n in range(1, 8)]


def test_a_server_that_gives_a_few_bytes_each_time_is_given_up(server, part):
    server.fail("*", Fault(drop_after=10, times=ALWAYS))
    with pytest.raises(Again, match="broke"):
        bring(server, part)
    assert len(server.requests) == retry.ATTEMPTS
    assert part.read_bytes() == CONTENT[: 10 * retry.ATTEMPTS]


def test_a_server_without_ranges_that_always_breaks_is_given_up(server, part):
    """Each attempt begins anew and gets just as far: that is no progress."""
    server.fail("*", Fault(drop_after=200_000, no_range=True, times=ALWAYS))
    with pytest.raises(Again, match="broke"):
        bring(server, part)
    assert len(server.requests) == retry.ATTEMPTS + 1  # the first one got on


def test_a_200_to_a_range_begins_anew(server, part):
    part.write_bytes(CONTENT[:300_000])
    server.fail("*", Fault(no_range=True))
    assert bring(server, part) == sha256(CONTENT).hexdigest()
    assert len(server.requests) == 1


def test_a_206_of_another_part_of_the_file_is_never_written(server, part):
    part.write_bytes(CONTENT[:1000])
    wrong = {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}
    server.fail("*", Fault(status=206, headers=wrong, body=CONTENT))
    assert bring(server, part) == sha256(CONTENT).hexdigest()
    assert ranges(server) == ["bytes=1000-", None]


@pytest.mark.parametrize("stall", [Fault(hang=5.0), Fault(rate=1.5)], ids=["before the answer", "between two bytes"])
def test_a_stalled_connection_is_left_and_continued(server, part, stall, monkeypatch):
    monkeypatch.setattr(request, "SILENCE", 0.3)
    server.fail("*", replace(stall))
    assert bring(server, part) == sha256(CONTENT).hexdigest()
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for(server, part, status):
    server.fail("*", Fault(status=status, headers={"Retry-After": "0.3"}, times=2))
    assert bring(server, part) == sha256(CONTENT).hexdigest()
    times = [request.when for request in server.requests]
    assert [later - earlier >= 0.3 for earlier, later in pairwise(times)] == [True, True]


def test_a_server_that_keeps_failing_is_given_up(server, part):
    server.fail("*", Fault(status=503, times=ALWAYS))
    with pytest.raises(Again, match="HTTP 503"):
        bring(server, part)
    assert len(server.requests) == retry.ATTEMPTS


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_in_mid_way_is_final_and_keeps_what_came(server, part, status):
    server.fail("*", Fault(drop_after=200_000))
    server.fail("*", Fault(status=status, times=ALWAYS))
    with pytest.raises(Refused, match=str(status)):
        bring(server, part)
    assert part.read_bytes() == CONTENT[:200_000]


def test_a_web_page_with_status_200_is_never_written(server, part):
    server.fail("*", html())
    with pytest.raises(Refused, match="a web page") as refused:
        bring(server, part)
    assert refused.value.page
    assert part.read_bytes() == b""


def test_a_body_that_is_compressed_unasked_is_refused(server, part):
    server.fail("*", Fault(status=200, headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8b", times=ALWAYS))
    with pytest.raises(Refused, match="compresses"):
        bring(server, part)
    assert part.read_bytes() == b""


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=3000),
    kept=st.integers(0, 3000),
    drops=st.lists(st.integers(0, 1500), max_size=4),
    faults=st.lists(st.sampled_from(["no_range", "no_length"]), max_size=2),
    git=st.booleans(),
)
def test_any_part_and_any_drops_give_the_same_bytes(content, kept, drops, faults, git, tmp_path_factory):
    part = tmp_path_factory.mktemp("any") / "x.part"
    part.write_bytes(content[:kept])
    with pytest.MonkeyPatch.context() as patch, Server(lambda _: Reply(body=content)) as server:
        patch.setattr(transfer, "PROGRESS", 1)
        patch.setattr(retry, "FIRST_WAIT", 0.0)
        for after in drops:
            server.fail("*", Fault(drop_after=after, **dict.fromkeys(faults, True)))
        assert bring(server, part, listed(content, git)) == sha256(content).hexdigest()
    assert part.read_bytes() == content
