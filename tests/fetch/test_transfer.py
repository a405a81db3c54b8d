"""One file: whatever breaks on the way, the bytes that land are the listed ones, or one error says why not."""

from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetch import request, retry, transfer
from fetch.hashing import EMPTY
from fetch.request import Refused
from fetch.retry import Again
from fetch.source import Place, RemoteFile
from fetch.transfer import Mismatch, fetch_file
from shipvlm.errors import SetupError
from tests.fetch.serving import ALWAYS, Fault, Reply, Server, blob, html

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes


def listed(content: bytes, git: bool = False) -> RemoteFile:
    known = blob(content)
    return RemoteFile("x", known.size, None if git else known.sha256, known.git_blob if git else None)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(request, "SILENCE", 0.3)


@pytest.fixture
def server():
    with Server(lambda _: Reply(body=CONTENT)) as server:
        yield server


@pytest.fixture
def part(tmp_path):
    return tmp_path / "x.part"


def bring(server, part, wanted=None, on_bytes=lambda count: None) -> str:
    return fetch_file(lambda: Place(server.url + "/x"), wanted or listed(CONTENT), part, on_bytes)


def ranges(server: Server) -> list[str | None]:
    return [request.headers.get("range") for request in server.requests]


@pytest.mark.parametrize("git", [False, True])
def test_a_file_comes_whole_and_its_sha256_is_returned_whatever_the_list_says_of_it(server, part, git):
    assert bring(server, part, listed(CONTENT, git)) == sha256(CONTENT).hexdigest()
    assert part.read_bytes() == CONTENT
    assert ranges(server) == [None]
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_progress_only_grows_and_ends_with_the_size(server, part):
    part.write_bytes(CONTENT[:1000])
    seen = []
    bring(server, part, on_bytes=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)
    assert 1000 in seen


def test_a_part_is_continued_by_range_and_hashed_from_its_first_byte(server, part):
    part.write_bytes(CONTENT[:300_000])
    assert bring(server, part) == sha256(CONTENT).hexdigest()
    assert ranges(server) == ["bytes=300000-"]


def test_a_whole_part_is_only_hashed(server, part):
    part.write_bytes(CONTENT)
    assert bring(server, part) == sha256(CONTENT).hexdigest()
    assert server.requests == []


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server, part):
    part.write_bytes(CONTENT + b"more")
    assert bring(server, part) == sha256(CONTENT).hexdigest()
    assert part.read_bytes() == CONTENT
    assert ranges(server) == [None]


def test_a_part_of_another_file_is_a_mismatch_and_stays_for_who_asks(server, part):
    part.write_bytes(b"other bytes")
    with pytest.raises(Mismatch, match=f"other bytes .sha256 [0-9a-f]{{64}} instead of {sha256(CONTENT).hexdigest()}"):
        bring(server, part)
    assert part.read_bytes() == b"other bytes" + CONTENT[11:]


@pytest.mark.parametrize("git", [False, True])
def test_a_flipped_byte_is_found(server, part, git):
    server.fail("*", Fault(flip=77_777))
    with pytest.raises(Mismatch, match="git blob" if git else "sha256"):
        bring(server, part, listed(CONTENT, git))


@pytest.mark.parametrize("size", [400_000, 0])
def test_a_file_cut_short_is_found_before_a_byte_of_it_is_written(server, part, size):
    server.fail("*", Fault(truncate=size))
    with pytest.raises(Mismatch, match="an empty file instead" if size == 0 else "400,000 bytes instead of 512,000"):
        bring(server, part)
    assert part.read_bytes() == b""


def test_a_file_that_is_shorter_than_what_is_there_is_found_by_416(server, part):
    part.write_bytes(CONTENT[:450_000])
    server.fail("*", Fault(truncate=400_000))
    with pytest.raises(Mismatch, match="400,000 bytes instead of 512,000"):
        bring(server, part)
    assert part.read_bytes() == CONTENT[:450_000]


def test_a_416_that_says_no_size_begins_anew(server, part):
    part.write_bytes(CONTENT[:1000])
    server.fail("*", Fault(status=416))
    assert bring(server, part) == sha256(CONTENT).hexdigest()
    assert ranges(server) == ["bytes=1000-", None]


def test_a_longer_file_is_refused_by_its_length_and_cut_off_where_it_says_none(part):
    with Server(lambda _: Reply(body=CONTENT + b"more" * 1_000_000)) as server:
        with pytest.raises(Mismatch, match="4,512,000 bytes instead of 512,000"):
            bring(server, part)
        assert part.read_bytes() == b""
        server.fail("*", Fault(no_length=True))
        assert bring(server, part) == sha256(CONTENT).hexdigest()  # the bytes asked for are right
        assert part.read_bytes() == CONTENT


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
def test_a_stalled_connection_is_left_and_continued(server, part, stall):
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


def test_where_the_bytes_are_is_asked_for_at_every_attempt(server, part):
    """The link of a CDN grows old while a large file comes."""
    links = iter("abc")
    server.fail("/a", Fault(drop_after=200_000))
    server.fail("/b", Fault(drop_after=200_000))
    fetch_file(lambda: Place(f"{server.url}/{next(links)}"), listed(CONTENT), part, lambda count: None)
    assert [request.path for request in server.requests] == ["/a", "/b", "/c"]


def test_a_token_is_not_sent_on_to_where_it_redirects(server, part):
    with Server(lambda _: Reply(302, {"Location": server.url + "/x"}), host="127.0.0.2") as hub:
        headers = {"Authorization": "Bearer secret", "Cookie": "m_session_id=secret"}
        fetch_file(lambda: Place(hub.url + "/x", headers), listed(CONTENT), part, lambda count: None)
    assert hub.requests[0].headers["authorization"] == "Bearer secret"
    assert not {"authorization", "cookie"} & set(server.requests[0].headers)


def test_an_empty_file_needs_no_request(server, part):
    assert bring(server, part, listed(b"")) == EMPTY
    assert part.read_bytes() == b""
    assert server.requests == []


def test_a_list_with_the_hash_of_an_empty_file_is_called_wrong(server, part):
    with pytest.raises(Mismatch, match=r"the sha256 of an empty file .e3b0c442.*the list is wrong"):
        bring(server, part, RemoteFile("x", 5, EMPTY, None))
    assert server.requests == []


def test_a_file_that_is_listed_without_a_hash_is_not_fetched(server, part):
    with pytest.raises(Mismatch, match="without a hash"):
        bring(server, part, RemoteFile("x", len(CONTENT), None, None))
    assert server.requests == []


def test_what_on_bytes_raises_ends_the_transfer_and_keeps_what_came(server, part):
    class Stopped(Exception):
        pass

    def stop_late(count: int) -> None:
        if count >= 1000:
            raise Stopped

    part.write_bytes(CONTENT[:1000])
    with pytest.raises(Stopped):
        bring(server, part, on_bytes=stop_late)
    assert part.read_bytes() == CONTENT[:1000]
    assert server.requests == []


def test_a_folder_that_is_not_there_is_said(server, tmp_path):
    with pytest.raises(SetupError, match=r"cannot be written .No such file"):
        bring(server, tmp_path / "missing" / "x.part")


def test_connections_are_used_again(server, tmp_path, monkeypatch):
    accepted = []
    accept = server.http.process_request
    monkeypatch.setattr(server.http, "process_request", lambda *came: (accepted.append(came), accept(*came)))
    for number in range(5):
        bring(server, tmp_path / f"{number}.part")
    assert len(accepted) == 1


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
