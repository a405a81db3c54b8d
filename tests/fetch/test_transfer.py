"""One file: the bytes that land are the listed ones, wherever they begin; anything else is told and not taken."""

from hashlib import sha256

import pytest

from fetch.hashing import EMPTY
from fetch.source import Place, RemoteFile
from fetch.transfer import Mismatch, fetch_file
from shipvlm.errors import SetupError
from tests.fetch.serving import Fault, Reply, Server
from tests.fetch.transferring import CONTENT, bring, listed, ranges


@pytest.fixture
def server():
    with Server(lambda _: Reply(body=CONTENT)) as server:
        yield server


@pytest.fixture
def part(tmp_path):
    return tmp_path / "x.part"


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
