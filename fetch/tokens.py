"""Tokens of the hubs: where they come from, and to whom they may be sent. A token is never shown."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import get_token
from huggingface_hub.errors import OIDCError

from fetch.access import AccessError, is_own
from fetch.source import SourceName
from shipvlm.errors import InputError

# As get_token has them, in its order. HF_OIDC_RESOURCE holds no token: it is exchanged for one.
HUB_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
OIDC = "HF_OIDC_RESOURCE"
MODELSCOPE_VARIABLE = "MODELSCOPE_API_TOKEN"
STORED = "stored login"


@dataclass(frozen=True)
class Token:
    """A token and, for messages, what it was found in."""

    value: str = field(repr=False)
    source: str


def hub_token(file: Path | None = None) -> Token | None:
    """The token for the Hugging Face Hub: from `file`, else the environment, else the stored login; None without.

    Raises `InputError` for a file that holds no token, `AccessError` when the identity of a CI job is refused.
    """
    if file is not None:
        return _token_in(file)
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return None
    try:
        value = get_token()
    except OIDCError:
        raise AccessError("token-rejected", token_source=OIDC) from None
    if value is None:
        return None
    found = (name for name in HUB_VARIABLES if os.environ.get(name, "").strip() == value)
    return _token(value, next(found, OIDC if os.environ.get(OIDC) else STORED))


def modelscope_token(file: Path | None = None) -> Token | None:
    """The token for ModelScope: from `file`, else the environment, else its client's stored login; None without.

    Raises `InputError` for a file that holds no token, and for a stored login that cannot be read.
    """
    if file is not None:
        return _token_in(file)
    if value := os.environ.get(MODELSCOPE_VARIABLE, "").strip():
        return _token(value, MODELSCOPE_VARIABLE)
    from modelscope_hub import HubConfig  # half a second, which only those who ask ModelScope wait for

    try:
        stored = HubConfig(token="").load_token()
    except Exception as error:  # its file can hold anything
        raise InputError(
            f"the stored login of ModelScope cannot be read ({type(error).__name__}); run: modelscope login"
        ) from None
    return _token(stored, STORED) if stored else None


def sent_to(endpoint: str, source: SourceName, allow: bool) -> bool:
    """Whether a token of `source` goes to `endpoint`: to the hub's own addresses, to others only when it is allowed."""
    return allow or is_own(source, endpoint)


def checked_endpoint(endpoint: str) -> str:
    """`endpoint` without a slash at its end. Raises `InputError` when it is no plain address of a server."""
    plain = r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?"
    try:
        if re.fullmatch(plain, endpoint) and urlsplit(endpoint).port != 0:
            return endpoint.rstrip("/")
    except ValueError:
        pass  # a port or an IPv6 address that is none
    shown = "an endpoint with a user or a password in it" if "@" in endpoint else f"endpoint {endpoint!r}"
    raise InputError(f"{shown}: is no plain address; give one such as https://hf-mirror.com")


def _token_in(file: Path) -> Token:
    try:
        return _token(file.read_text(encoding="ascii").strip(), "--token-file")
    except OSError as error:
        raise InputError(f"{file}: the token cannot be read ({error.strerror}); give a file that holds it") from error
    except UnicodeDecodeError:
        raise InputError(f"{file}: holds no token; write the token, and nothing else, into it") from None


def _token(value: str, source: str) -> Token:
    if not re.fullmatch(r"[!-~]+", value):
        raise InputError(f"{source}: holds no token, which is one word of plain letters and digits; correct it")
    return Token(value, source)
