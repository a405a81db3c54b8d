"""Which source is asked and which gives the bytes: what the second says never lifts what the first refuses."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetch import choose as module
from fetch.access import AccessError, Situation
from fetch.choose import Answer, Choice, Wanted, agreeing, choose, faster_first, rate, with_second
from fetch.compare import as_remote, list_differences
from fetch.hub import hub_source
from fetch.modelscope import modelscope_source
from fetch.source import Listing, Place, RemoteFile, SourceName
from fetch.transfer import TransferError
from shipvlm.errors import ExecutionError, GateError, ShipvlmError
from shipvlm.lock import Lock, LockedFile
from tests.fetch.fake_hub import FakeHub
from tests.fetch.fake_modelscope import FakeModelScope
from tests.fetch.serving import ALWAYS, Fault

A, B = "a" * 40, "b" * 40
WEIGHTS = RemoteFile("model.safetensors", 5, "0" * 64, None)
CONFIG = RemoteFile("config.json", 2, None, "1" * 40)
REFUSALS = ("gated-no-token", "gated-not-approved", "token-rejected", "not-found", "revision-not-found", "disabled")


def refused(situation: Situation) -> AccessError:
    return AccessError(
        situation,
        source="hf",
        repo="owner/name",
        revision="main",
        endpoint="http://m",
        detail="why",
        token_source="HF_TOKEN",
    )


class Stand:
    """A source in memory: `answers` has a listing, or an error, for each revision that it is asked for."""

    endpoint: str | None = "http://stand"

    def __init__(self, name: SourceName, label: str, answers: dict[str | None, Listing | Exception]) -> None:
        self.name, self.label, self.answers = name, label, answers
        self.asked: list[str | None] = []
        self.silent = threading.Event()

    def list(self, repo: str, revision: str | None) -> Listing:
        self.asked.append(revision)
        answer = self.answers.get(revision, refused("revision-not-found"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def place(self, listing: Listing, path: str) -> Place:
        return Place(f"{self.endpoint}/{path}")

    def explain(self, listing: Listing, error: Exception) -> ShipvlmError:
        return ExecutionError(str(error))


def listing(source: SourceName, *files: RemoteFile, commit: str | None = A, gated: str | None = None) -> Listing:
    return Listing(source, "owner/name", "http://stand", "main", commit, files, gated=gated)


def hub(**answers: Listing | Exception) -> Stand:
    """With the answers for revisions; `default` is that for none."""
    return Stand("hf", "the Hub", {None if name == "default" else name: value for name, value in answers.items()})


def scope(answer: Listing | Exception) -> Stand:
    return Stand("modelscope", "ModelScope", {None: answer})


def lock_of(*files: RemoteFile, source: SourceName = "hf", commit: str | None = A) -> Lock:
    return Lock(
        repo="owner/name",
        revision="main",
        commit=commit,
        source=source,
        endpoint=None,
        licence=None,
        files={file.path: LockedFile(bytes=file.bytes, sha256=file.sha256 or "2" * 64) for file in files},
        documents={},
    )


def test_the_first_decides_and_the_second_is_asked_too(said: list[str]) -> None:
    both = (hub(default=listing("hf", WEIGHTS)), scope(listing("modelscope", WEIGHTS)))
    choice = choose(Wanted("owner/name", None, None), both, said.append)
    assert choice.first.listing.source == "hf"
    assert [answer.label for answer in agreeing(choice, [WEIGHTS], said.append)] == ["the Hub", "ModelScope"]
    assert said == []


def test_a_second_with_other_files_is_left_out_and_that_is_said(said: list[str]) -> None:
    other = RemoteFile("model.safetensors", 5, "3" * 64, None)
    choice = choose(
        Wanted("owner/name", None, None),
        (hub(default=listing("hf", WEIGHTS)), scope(listing("modelscope", other))),
        said.append,
    )
    assert [answer.label for answer in agreeing(choice, [WEIGHTS], said.append)] == ["the Hub"]
    assert said == [
        f"ModelScope has other files than the Hub at commit {A} (model.safetensors: other bytes (sha256)): "
        "taken from the Hub alone"
    ]


def test_a_gated_repository_comes_from_the_hub_alone(said: list[str]) -> None:
    both = (hub(default=listing("hf", WEIGHTS, gated="auto")), scope(listing("modelscope", WEIGHTS)))
    choice = choose(Wanted("owner/name", None, None), both, said.append)
    assert [answer.label for answer in agreeing(choice, [WEIGHTS], said.append)] == ["the Hub"]


@pytest.mark.parametrize("situation", REFUSALS)
@pytest.mark.parametrize(
    ("second", "lock", "known"),
    [
        (listing("modelscope", WEIGHTS), None, "there"),
        (listing("modelscope", WEIGHTS), lock_of(WEIGHTS), "same"),
        (listing("modelscope", CONFIG), lock_of(WEIGHTS), "different"),
        (refused("not-found"), None, "not there"),
        (refused("revision-not-found"), None, "no revision"),
        (refused("unreachable"), None, "not known"),
        (TransferError("gave up"), None, "not known"),
    ],
)
def test_a_refusal_is_not_walked_around(situation, second, lock, known: str, said: list[str]) -> None:
    first = Stand("hf", "the Hub", dict.fromkeys((None, A), refused(situation)))
    with pytest.raises(AccessError) as error:
        choose(Wanted("owner/name", None, lock), (first, scope(second)), said.append)
    assert (error.value.situation, error.value.fields["modelscope"]) == (situation, known)
    assert said == []


def test_the_lock_of_a_fetch_on_its_way_does_not_know_all_files(said: list[str]) -> None:
    first = Stand("hf", "the Hub", {A: refused("gated-no-token")})
    with pytest.raises(AccessError) as error:
        choose(Wanted("owner/name", None, lock_of(), whole=False), (first, scope(listing("modelscope"))), said.append)
    assert error.value.fields["modelscope"] == "there"


@pytest.mark.parametrize("silent", [refused("unreachable"), refused("rate-limited"), TransferError("gave up")])
def test_a_hub_that_says_nothing_leaves_the_second_alone(silent: Exception, said: list[str]) -> None:
    both = (hub(default=silent), scope(listing("modelscope", WEIGHTS)))
    choice = choose(Wanted("owner/name", None, None), both, said.append)
    assert (choice.first.listing.source, choice.second) == ("modelscope", None)
    assert "does not answer" in said[0] and "taken from ModelScope alone" in said[0]


@pytest.mark.parametrize("situation", ["not-a-hub", "web-page", "offline"])
def test_an_address_that_is_wrong_is_an_error(situation, said: list[str]) -> None:
    both = (hub(default=refused(situation)), scope(listing("modelscope", WEIGHTS)))
    with pytest.raises(AccessError) as error:
        choose(Wanted("owner/name", None, None), both, said.append)
    assert error.value.situation == situation


def test_a_commit_of_the_hub_is_not_taken_from_elsewhere_unless_a_lock_says_its_bytes(said: list[str]) -> None:
    first, second = Stand("hf", "the Hub", {A: TransferError("gave up")}), scope(listing("modelscope", WEIGHTS))
    with pytest.raises(TransferError):
        choose(Wanted("owner/name", A, None), (first, second), said.append)
    choice = choose(Wanted("owner/name", None, lock_of(WEIGHTS)), (first, second), said.append)
    assert choice.first.listing.source == "modelscope"
    assert second.asked == [None, None]
    with pytest.raises(TransferError):  # of a fetch on its way the bytes are not settled
        choose(Wanted("owner/name", None, lock_of(), whole=False, going_on=True), (first, second), said.append)


def test_a_second_that_does_not_have_it_is_not_worth_a_word(said: list[str]) -> None:
    both = (hub(default=listing("hf", WEIGHTS)), scope(refused("not-found")))
    choice = choose(Wanted("owner/name", None, None), both, said.append)
    assert [answer.label for answer in agreeing(choice, [WEIGHTS], said.append)] == ["the Hub"]
    assert said == []


@pytest.mark.parametrize("revision", [None, "main", A, "v1.0"])
def test_a_branch_of_that_name_is_asked_for_elsewhere_and_no_commit(revision: str | None, said: list[str]) -> None:
    first = Stand("hf", "the Hub", {revision: listing("hf", WEIGHTS)})
    second = scope(listing("modelscope", WEIGHTS))
    choose(Wanted("owner/name", revision, None), (first, second), said.append)
    assert second.asked == ["v1.0" if revision == "v1.0" else None]


def test_a_second_that_takes_long_is_not_waited_for(said: list[str], monkeypatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    slow = scope(listing("modelscope", WEIGHTS))
    wait = threading.Event()
    monkeypatch.setattr(slow, "list", lambda *_: wait.wait(20))
    start = time.monotonic()
    choice = choose(Wanted("owner/name", None, None), (hub(default=listing("hf", WEIGHTS)), slow), said.append)
    assert time.monotonic() - start < 5
    assert isinstance(choice.second, TransferError)
    assert said == ["ModelScope: no answer within 0 s; taken from the Hub alone"]
    assert [answer.label for answer in agreeing(choice, [WEIGHTS], said.append)] == ["the Hub"]
    wait.set()


def test_another_commit_than_was_asked_for_is_named(said: list[str]) -> None:
    first = Stand("hf", "mirror http://m", {A: listing("hf", WEIGHTS, commit=B)})
    with pytest.raises(GateError, match=f"mirror http://m answers with commit {B} where {A} was asked for"):
        choose(Wanted("owner/name", A, None), (first,), said.append)


def test_a_source_that_lacks_the_commit_says_what_it_has(said: list[str]) -> None:
    first = hub(default=listing("hf", WEIGHTS, commit=B))
    with pytest.raises(AccessError) as error:
        choose(Wanted("owner/name", None, lock_of(WEIGHTS)), (first,), said.append)
    assert error.value.situation == "revision-not-found"
    assert error.value.fields["default_commit"] == B
    assert first.asked == [A, None]


def test_what_a_lock_says_of_one_hub_means_nothing_on_another() -> None:
    at = Wanted("owner/name", None, lock_of(WEIGHTS)).at
    assert at(hub()) == A
    assert at(scope(listing("modelscope"))) is None
    assert Wanted("owner/fork", None, lock_of(WEIGHTS)).at(hub()) is None
    assert Wanted("owner/name", "v1", lock_of(WEIGHTS)).at(hub()) == "v1"
    for revision, elsewhere in (("v1", "v1"), ("main", None), (A, None), (None, None)):
        going_on = Wanted("owner/name", revision, lock_of(WEIGHTS), going_on=True)
        assert (going_on.at(hub()), going_on.at(scope(listing("modelscope")))) == (A, elsewhere)
    assert Wanted("owner/name", None, lock_of(WEIGHTS, source="modelscope", commit=None)).at(hub()) is None


def test_only_a_refusal_gets_what_the_second_says() -> None:
    assert with_second(error := TransferError("x"), refused("not-found"), None) is error
    assert with_second(error2 := refused("disabled"), None, None) is error2


# Lists


HASHES = st.one_of(st.none(), st.sampled_from(["0" * 64, "1" * 64]))
FILES = st.dictionaries(
    st.sampled_from("abc"), st.tuples(st.integers(0, 2), HASHES, HASHES.map(lambda sha: sha and sha[:40])), max_size=3
).map(lambda found: [RemoteFile(path, *rest) for path, rest in found.items()])


@given(FILES, FILES)
def test_lists_differ_exactly_where_size_or_a_hash_that_both_say_does(wanted, there) -> None:
    found = list_differences(wanted, listing("hf", *there))
    others = {file.path: file for file in there}
    for file in wanted:
        other = others.get(file.path)
        same = (
            other is not None
            and other.bytes == file.bytes
            and (None in (other.sha256, file.sha256) or other.sha256 == file.sha256)
            and (None in (other.git_blob, file.git_blob) or other.git_blob == file.git_blob)
        )
        assert (file.path in found) is not same
    assert set(found) <= {file.path for file in wanted}


def test_locked_files_are_held_against_a_list() -> None:
    files = as_remote({"a": LockedFile(bytes=1, sha256="0" * 64), "b": LockedFile(bytes=1, sha256="0" * 64)})
    assert list_differences(files, listing("hf", RemoteFile("a", 2, None, None))) == {
        "a": "2 bytes there, 1 wanted",
        "b": "is not there",
    }


# The probe, over the network


LARGE = {"model.safetensors": b"0" * 3_000_000, "config.json": b"{}"}


@pytest.fixture
def answers() -> Iterator[Callable[[], tuple[list[Answer], FakeHub, FakeModelScope]]]:
    with FakeHub(LARGE) as hub, FakeModelScope(LARGE) as scope:
        sources = [hub_source(hub.url, None, False), modelscope_source(scope.url, None, False)]
        found = [Answer(source.label, source.list("owner/tiny", None), source) for source in sources]
        yield lambda: (found, hub, scope)


@pytest.mark.parametrize("slow", ["hf", "modelscope"])
def test_the_faster_one_is_taken_and_that_is_said(answers, slow: str, said: list[str], monkeypatch) -> None:
    monkeypatch.setattr(module, "PROBE_BYTES", 300_000)
    monkeypatch.setattr(module, "WORTH_PROBING", 1_000_000)
    found, hub, scope = answers()
    server, pattern = (hub.cdn, "*") if slow == "hf" else (scope.server, "*FilePath*")
    server.fail(pattern, Fault(rate=1_000_000, times=ALWAYS))
    ordered = faster_first(found, found[0].listing.files, said.append)
    assert [answer.listing.source for answer in ordered] == (
        ["modelscope", "hf"] if slow == "hf" else ["hf", "modelscope"]
    )
    assert f"Taken from {ordered[0].label}" in said[0] and said[0].count("MB/s") == 2
    assert ordered[0].label.startswith("ModelScope") is (slow == "hf")


def test_the_probe_takes_a_part_and_no_longer_than_its_time(answers, monkeypatch) -> None:
    monkeypatch.setattr(module, "PROBE_BYTES", 2_000_000)
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.2)
    found, hub, _ = answers()
    hub.cdn.fail("*", Fault(rate=1_000_000, times=ALWAYS))
    start = time.monotonic()
    speed = rate(found[0], found[0].listing.files[1])
    assert time.monotonic() - start < 1.5
    assert 0.3e6 < speed < 3e6
    assert hub.cdn.requests[-1].headers["range"] == "bytes=0-1999999"


def test_a_source_that_gives_nothing_is_the_slower_one(answers, said: list[str], monkeypatch) -> None:
    monkeypatch.setattr(module, "WORTH_PROBING", 1_000_000)
    found, hub, _ = answers()
    hub.server.fail("*/resolve/*", Fault(status=500, times=ALWAYS))
    assert faster_first(found, found[0].listing.files, said.append)[0].listing.source == "modelscope"


def test_little_is_not_probed(answers, said: list[str]) -> None:
    found, hub, scope = answers()
    before = len(hub.cdn.requests) + len(scope.server.requests)
    assert faster_first(found, found[0].listing.files, said.append) == found
    assert len(hub.cdn.requests) + len(scope.server.requests) == before
    assert said == []


def test_a_choice_without_a_second_needs_no_comparison(answers, said: list[str]) -> None:
    found, _, _ = answers()
    assert agreeing(Choice(found[0], None), found[0].listing.files, said.append) == [found[0]]
