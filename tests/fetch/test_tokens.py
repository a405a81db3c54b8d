from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelscope_hub import HubConfig
from urllib3.util import parse_url

from fetch.access import AccessError
from fetch.tokens import Token, checked_endpoint, hub_token, modelscope_token, sent_to
from shipvlm.errors import InputError


def test_without_an_account_there_is_no_token() -> None:
    assert hub_token() is None
    assert modelscope_token() is None


def test_a_token_is_never_shown() -> None:
    token = Token("canary", "HF_TOKEN")
    assert "canary" not in f"{token!r} {token} {[token]}"


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_a_token_of_the_environment(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, " hf_canary\n")
    assert hub_token() == Token("hf_canary", variable)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert hub_token() is None


def test_the_stored_login(monkeypatch: pytest.MonkeyPatch, empty_home: Path) -> None:
    (empty_home / "hf").mkdir()
    (empty_home / "hf" / "token").write_text("hf_stored\n")
    assert hub_token() == Token("hf_stored", "stored login")
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    assert hub_token() == Token("hf_canary", "HF_TOKEN")


def test_a_file_goes_before_all_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    file = tmp_path / "token"
    file.write_text("hf_file\n")
    assert hub_token(file) == modelscope_token(file) == Token("hf_file", "--token-file")


@pytest.mark.parametrize("content", [b"", b" \n", b"hf_one\nhf_two", b"hf_one two", b"\xffhf_one", "hf_öne".encode()])
def test_a_file_that_holds_no_token(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InputError) as caught:
        hub_token(tmp_path / "token")
    assert "hf_" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        hub_token(tmp_path / "token")
    with pytest.raises(InputError, match="directory"):
        hub_token(tmp_path)


def test_an_identity_of_ci_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_OIDC_RESOURCE", "owner/repo")  # and no CI that gives an identity
    with pytest.raises(AccessError) as caught:
        hub_token()
    assert (caught.value.situation, caught.value.fields["token_source"]) == ("token-rejected", "HF_OIDC_RESOURCE")


def test_modelscope(monkeypatch: pytest.MonkeyPatch, empty_home: Path) -> None:
    HubConfig(token="").save_token("ms-stored")
    assert modelscope_token() == Token("ms-stored", "stored login")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-canary")
    assert modelscope_token() == Token("ms-canary", "MODELSCOPE_API_TOKEN")


def test_a_stored_login_of_modelscope_that_cannot_be_read(empty_home: Path) -> None:
    HubConfig(token="").save_token("ms-stored")
    [cookies] = empty_home.rglob("cookies")
    cookies.write_bytes(b"cnosuchmodule\nName\n.")
    with pytest.raises(InputError, match="modelscope login"):
        modelscope_token()


@pytest.mark.parametrize(
    ("endpoint", "source", "sent"),
    [
        ("https://huggingface.co", "hf", True),
        ("https://HuggingFace.co:443/", "hf", True),
        ("http://huggingface.co", "hf", False),
        ("https://hf-mirror.com", "hf", False),
        ("https://huggingface.co.evil.example", "hf", False),
        ("https://huggingface.co@evil.example", "hf", False),
        ("https://evil.example/huggingface.co", "hf", False),
        ("https://modelscope.cn", "hf", False),
        ("https://modelscope.cn", "modelscope", True),
        ("https://www.modelscope.ai", "modelscope", True),
        ("https://huggingface.co", "modelscope", False),
    ],
)
def test_where_a_token_is_sent(endpoint: str, source, sent: bool) -> None:
    assert sent_to(endpoint, source, allow=False) is sent
    assert sent_to(endpoint, source, allow=True)


@pytest.mark.parametrize(
    "endpoint",
    ["https://hf-mirror.com", "http://127.0.0.1:8080", "https://a.example/api/hub", "http://[::1]:80", "https://x"],
)
def test_an_endpoint(endpoint: str) -> None:
    assert checked_endpoint(endpoint) == endpoint
    assert checked_endpoint(endpoint + "/") == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "hf-mirror.com", "ftp://a.example", "https://", "https://a b", "https://a.example?x=1", "https://a#b"),
        *(
            "https://a.example\n",
            "https://huggingface.co\\@evil.example",
            "https://a.example:x",
            "file:///etc",
            "https://[1]",
        ),
        *("https://a.example:99999", "https://a.example:0"),
    ],
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(InputError, match="no plain address"):
        checked_endpoint(endpoint)


def test_a_password_in_an_endpoint_is_refused_and_not_shown() -> None:
    with pytest.raises(InputError) as caught:
        checked_endpoint("https://me:canary@hf-mirror.com")
    assert "canary" not in str(caught.value)


@given(st.text(alphabet="ab.:/@\\?#[]%-_ 1\n", max_size=20))
def test_an_endpoint_has_one_host_whoever_reads_it(rest: str) -> None:
    """Who decides where a token goes and who opens the connection must read the same host."""
    try:
        endpoint = checked_endpoint("https://" + rest)
    except InputError:
        return
    assert urlsplit(endpoint).hostname == (parse_url(endpoint).host or "").strip("[]")
