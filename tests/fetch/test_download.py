"""Many files: what is right stays, what is wrong is set aside and asked again, here or at the second source."""

from hashlib import sha256

import pytest

from fetch.access import AccessError
from fetch.transfer import TransferError
from shipvlm.errors import GateError
from shipvlm.lock import LockedFile
from tests.fetch.downloading import FILES, WEIGHTS, asked, bring, check, quarantined
from tests.fetch.serving import ALWAYS, Fault, blob, html


def test_all_files_come_and_are_hashed(hub, out):
    seen = {}
    locked = bring(out, hub, progress=lambda path, count, size: seen.update({path: (count, size)}))
    check(out)
    assert locked == {
        path: LockedFile(bytes=len(content), sha256=sha256(content).hexdigest()) for path, content in FILES.items()
    }
    assert seen == {path: (len(content), len(content)) for path, content in FILES.items()}
    assert not [path for path in (out / ".fetch").rglob("*") if path.is_file()]


def test_the_largest_files_come_first(hub, out):
    bring(out, hub, workers=1)
    paths = [request.path.partition(f"/{hub.commit}/")[2] for request in hub.server.requests]
    assert paths == [WEIGHTS, "model-2.safetensors", "sub/folder/tokenizer.json", "config.json"]


def test_what_is_there_and_right_is_hashed_and_not_asked_for(hub, out):
    first = bring(out, hub)
    seen = {}
    assert bring(out, hub, progress=lambda path, count, size: seen.update({path: (count, size)})) == first
    assert hub.server.requests == []
    assert seen == {path: (len(content), len(content)) for path, content in FILES.items()}


@pytest.mark.parametrize("wrong", [b"x" + FILES[WEIGHTS][1:], FILES[WEIGHTS][:100], b""])
def test_a_file_that_is_wrong_on_disk_is_set_aside_and_only_it_comes_again(hub, out, wrong):
    lines = []
    for _ in range(2):
        bring(out, hub)
        (out / WEIGHTS).write_bytes(wrong)
        bring(out, hub, say=lines.append)
        check(out)
        assert [request.path.rpartition("/")[2] for request in hub.server.requests] == [WEIGHTS]
        assert (out / ".quarantine" / f"{WEIGHTS}.1").read_bytes() == wrong  # the second time too: the same bytes
        assert f"set aside as .quarantine/{WEIGHTS}.1" in lines[-1]


def test_a_small_file_without_sha256_in_the_list_is_verified_on_disk_by_gits_id(hub, out):
    bring(out, hub)
    (out / "config.json").write_bytes(b"[]")
    bring(out, hub)
    check(out)
    assert quarantined(out) == ["config.json.1"]


def test_a_byte_that_flips_once_is_set_aside_and_asked_for_again(hub, scope, out):
    hub.cdn.fail("*", Fault(flip=5, method="GET"))
    lines = []
    bring(out, hub, scope, say=lines.append, workers=1)
    check(out)
    assert asked(hub, WEIGHTS) == 2
    assert scope.server.requests == []
    assert quarantined(out) == [f"{WEIGHTS}.1"]
    assert len(lines) == 1
    assert "other bytes" in lines[0] and lines[0].endswith("asking again")


def test_after_two_failures_the_second_source_is_asked_for_that_file_only(hub, scope, out):
    hub.server.fail(f"*{WEIGHTS}", Fault(status=200, body=b"!" * len(FILES[WEIGHTS]), times=ALWAYS))
    lines = []
    bring(out, hub, scope, say=lines.append)
    check(out)
    assert asked(hub, WEIGHTS) == 2
    assert [request.query["FilePath"] for request in scope.server.requests] == [WEIGHTS]
    assert quarantined(out) == [f"{WEIGHTS}.1"]  # the same wrong bytes twice are kept once
    assert lines[-1].endswith("asking ModelScope at " + scope.url)


def test_bytes_that_are_wrong_everywhere_are_named_and_all_other_files_are_there(hub, scope, out):
    hub.cdn.fail(f"*{blob(FILES[WEIGHTS]).sha256}*", Fault(flip=1, times=ALWAYS))
    scope.server.fail(f"*FilePath={WEIGHTS}*", Fault(truncate=1000, times=ALWAYS))
    said = []
    with pytest.raises(GateError) as raised:
        bring(out, hub, scope, say=said.append)
    text = str(raised.value)
    for part in (WEIGHTS, hub.url, scope.url, "1,000 bytes instead of 409,600", "again"):
        assert part in text
    sha256s = blob(FILES[WEIGHTS]).sha256
    assert sha256s in said[0] and sha256s not in text
    check(out, {path: content for path, content in FILES.items() if path != WEIGHTS})
    assert not (out / WEIGHTS).exists()
    assert quarantined(out) == [f"{WEIGHTS}.1"]
    hub.cdn.faults.clear()
    bring(out, hub)
    check(out)


def test_a_web_page_instead_of_a_file_is_never_written_and_the_second_source_is_asked(hub, scope, out):
    hub.cdn.fail("*", html())
    bring(out, hub, scope)
    check(out)
    assert {request.query["FilePath"] for request in scope.server.requests} == {WEIGHTS, "model-2.safetensors"}
    assert quarantined(out) == []


def test_one_web_page_does_not_end_it(hub, out):
    hub.cdn.fail("*", html(times=1))
    bring(out, hub)
    check(out)


def test_a_web_page_ends_it_where_there_is_no_other_source(hub, out):
    hub.server.fail("*resolve*", html())
    with pytest.raises(AccessError) as raised:
        bring(out, hub)
    assert raised.value.situation == "web-page"
    assert [path for path in out.rglob("*") if path.is_file() and path.stat().st_size] == []


def test_a_source_that_breaks_off_is_taken_over_from_where_it_was(hub, scope, out):
    hub.cdn.fail(f"*{blob(FILES[WEIGHTS]).sha256}*", Fault(drop_after=100_000))
    hub.cdn.fail(f"*{blob(FILES[WEIGHTS]).sha256}*", Fault(drop_after=0, times=ALWAYS))
    lines = []
    bring(out, hub, scope, say=lines.append)
    check(out)
    taken_over = [request for request in scope.server.requests if request.query["FilePath"] == WEIGHTS]
    assert [request.headers.get("range") for request in taken_over] == ["bytes=100000-"]
    assert "broke" in lines[0]


def test_a_network_that_is_gone_is_said_with_every_source_and_keeps_what_came(hub, scope, out):
    for server, pattern in ((hub.cdn, "*"), (scope.server, "*FilePath=model*")):
        server.fail(pattern, Fault(drop_after=100_000))
        server.fail(pattern, Fault(status=503, times=ALWAYS))
    with pytest.raises(TransferError) as raised:
        bring(out, hub, scope, workers=1)
    for part in (WEIGHTS, "model-2.safetensors", hub.url, scope.url, "HTTP 503", "What came is kept"):
        assert part in str(raised.value)
    assert raised.value.exit_code == 4
    assert (out / ".fetch" / f"{WEIGHTS}.part").read_bytes() == FILES[WEIGHTS][:200_000]
    check(out, {path: content for path, content in FILES.items() if "model" not in path})


@pytest.mark.parametrize("status", [401, 403])
def test_a_gate_ends_it_at_once_and_is_not_walked_around(hub, scope, out, status):
    refusal = Fault(status=status, headers={"X-Error-Code": "GatedRepo"}, times=ALWAYS)
    hub.server.fail("*resolve*", refusal)
    lines = []
    with pytest.raises(AccessError) as raised:
        bring(out, hub, scope, say=lines.append, workers=1)
    assert raised.value.situation == "gated-no-token"
    assert len(hub.server.requests) == 1
    assert scope.server.requests == lines == []


def test_a_gate_that_closes_in_mid_way_keeps_what_came(hub, out):
    hub.cdn.fail("*", Fault(drop_after=200_000))
    refusal = Fault(status=403, headers={"X-Error-Code": "GatedRepo"}, times=ALWAYS)
    hub.cdn.fail("*", refusal)
    with pytest.raises(AccessError):
        bring(out, hub, workers=1)
    assert (out / ".fetch" / f"{WEIGHTS}.part").read_bytes() == FILES[WEIGHTS][:200_000]


def test_a_cdn_that_says_403_once_is_asked_again(hub, out):
    hub.cdn.fail("*", Fault(status=403))
    bring(out, hub)
    check(out)


def test_a_file_that_one_source_does_not_have_comes_from_the_other(hub, scope, out):
    gone = Fault(status=404, headers={"X-Error-Code": "EntryNotFound"}, times=ALWAYS)
    hub.server.fail("*resolve*config.json", gone)
    bring(out, hub, scope)
    check(out)
    assert asked(scope, "config.json") == 1


def test_wrong_bytes_are_told_with_one_line_a_file(hub, scope, out):
    hub.cdn.fail("*", Fault(flip=1, times=ALWAYS))
    scope.server.fail("*FilePath=*model*", Fault(flip=2, times=ALWAYS))
    with pytest.raises(GateError) as raised:
        bring(out, hub, scope)
    _, *files, _, remove = str(raised.value).splitlines()
    wrong = f"other bytes from mirror {hub.url} and from ModelScope at {scope.url} (kept in .quarantine)"
    assert files == [f"{WEIGHTS}: {wrong}", f"model-2.safetensors: {wrong}"]
    assert remove.endswith(f"rm -r {out}/.quarantine")
    assert quarantined(out) == [f"{name}.{n}" for name in (WEIGHTS, "model-2.safetensors") for n in (1, 2)]
    with pytest.raises(GateError):
        bring(out, hub, scope)
    assert len(quarantined(out)) == 4  # nothing new came


def test_a_refusal_of_the_second_source_does_not_hide_what_the_first_did(hub, scope, out):
    hub.cdn.fail(f"*{blob(FILES[WEIGHTS]).sha256}*", Fault(flip=1, times=ALWAYS))
    scope.server.fail("*FilePath=*", Fault(status=403, times=ALWAYS))
    with pytest.raises(GateError) as raised:
        bring(out, hub, scope)
    assert (
        f"{WEIGHTS}: other bytes from mirror {hub.url} (kept in .quarantine); ModelScope at {scope.url}: HTTP 403"
        in (str(raised.value).splitlines())
    )


def test_a_refusal_of_a_faster_modelscope_is_not_the_end(hub, scope, out):
    scope.server.fail("*FilePath=*", Fault(status=403, times=ALWAYS))
    bring(out, scope, hub)
    check(out)


@pytest.mark.parametrize("some_came", [True, False])
def test_what_was_fetched_is_said_to_be_kept_where_there_is_something(hub, out, some_came):
    busy = Fault(status=429, headers={"Retry-After": "3600"}, times=ALWAYS)
    hub.server.fail("*/resolve/*model*" if some_came else "*/resolve/*", busy)
    with pytest.raises(AccessError) as raised:
        bring(out, hub)
    assert raised.value.situation == "rate-limited"
    assert ("What was fetched is kept" in str(raised.value)) == some_came
