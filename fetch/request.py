"""One request to a server of checkpoints: bounded in time, and a token never leaves the address it was meant for.

A redirect is followed by hand: the headers of a `Place` (a token, a cookie) go to its own origin alone. `~/.netrc` and
cookies of servers play no part; proxies and certificates of the environment do. Nothing of what the libraries say
gets out: their messages hold links with signatures.
"""

import json
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError, NameResolutionError, ReadTimeoutError

from fetch.retry import STATUSES, Again, retry_after, retrying
from fetch.source import Place
from shipvlm.errors import InputError

CONNECT, SILENCE = 10.0, 30.0  # seconds until a connection stands, and without a byte on it
REDIRECTS = 10
LONGEST_LIST = 64 << 20  # bytes of a list, or one of its pages
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_local = threading.local()


class Refused(Exception):
    """The server answered, and the answer is no: asking again does not help.

    `code` and `said` are the Hub's X-Error-Code and X-Error-Message, "" where it sends none.
    """

    def __init__(self, reason: str, status: int = 0, code: str = "", said: str = "", page: bool = False) -> None:
        super().__init__(reason)
        self.status = status  # 0: there was no answer that could be trusted
        self.code = code
        self.said = said
        self.page = page  # a web page: somebody else answered


@contextmanager
def opened(
    place: Place, start: int = 0, stop: int | None = None, silence: float | None = None
) -> Iterator[requests.Response]:
    """Ask for `place`, from byte `start` to before byte `stop`: the answer (2xx or 416), its body not yet read.

    `silence`: seconds to wait for a connection and for each byte, when it is not the usual time.
    Raises `Again` for what may pass (also while the body is read inside the `with`) and `Refused` for what does not,
    and `InputError` when the certificates that the environment names are not there.
    """
    timeout = (silence or CONNECT, silence or SILENCE)
    asked = {} if start == 0 and stop is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
    response = None
    try:
        try:
            response = _follow(place, {"Accept-Encoding": "identity", **asked}, timeout)
        except requests.RequestException:
            raise
        except ValueError:  # of urllib, by way of requests
            raise Refused("it redirects to an address that is none", 300) from None
        _check(response, place)
        yield response
    except (requests.RequestException, HTTPError) as error:
        raise _failure(error, place) from None
    finally:
        if response is not None:
            response.close()


def read_json(place: Place, passing: Collection[int] = ()) -> tuple[Any, str | None]:
    """The JSON at `place` and the address of its next page, if there is one.

    Asks again as `retrying` does, also for the statuses `passing`. Raises `Refused`, also for what is no JSON or is too
    long, and the last `Again`.
    """

    def attempt() -> tuple[Any, str | None]:
        try:
            return read_json_once(place)
        except Refused as error:
            if error.status in passing and not error.page:
                raise Again(f"it answers with HTTP {error.status}", error.status) from None
            raise

    return retrying()(attempt)


def read_json_once(place: Place, silence: float | None = None) -> tuple[Any, str | None]:
    """`read_json` that does not ask again: the first `Again` passes through. `silence` as for `opened`."""
    body = bytearray()
    with opened(place, silence=silence) as response:
        for part in response.iter_content(1 << 16):
            body += part
            if len(body) > LONGEST_LIST:
                raise Refused("its answer has no end", response.status_code)
        try:
            return json.loads(body), response.links.get("next", {}).get("url")
        except (ValueError, RecursionError):
            raise Refused("its answer is no JSON", response.status_code) from None


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: what a token may not leave."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _follow(place: Place, headers: Mapping[str, str], timeout: tuple[float, float]) -> requests.Response:
    url = place.url
    for _ in range(REDIRECTS):
        own = place.headers if origin(url) == origin(place.url) else {}
        response = _session().get(
            url,
            headers={**own, **headers},
            allow_redirects=False,
            stream=True,
            timeout=timeout,
            proxies=get_environ_proxies(url),
            verify=_certificates(),
        )
        if response.status_code not in REDIRECT_STATUSES:
            return response
        response.close()
        before, url = url, urljoin(url, response.headers.get("Location", ""))
        if urlsplit(url).scheme not in {"https", urlsplit(before).scheme}:
            raise Refused("it redirects to an address that is not safe", response.status_code)
    raise Refused(f"it redirects more than {REDIRECTS} times", response.status_code)


def _check(response: requests.Response, place: Place) -> None:
    status, headers = response.status_code, response.headers
    if status in STATUSES:
        raise Again(f"it answers with HTTP {status}", status, retry_after(headers))
    if status == 407:
        raise Refused("the proxy asks for a name and a password")
    is_page = headers.get("Content-Type", "").startswith("text/html")
    if status < 300 and is_page and not urlsplit(place.url).path.endswith((".html", ".htm")):
        raise Refused(f"a web page with HTTP {status}", status, page=True)
    if status >= 300 and status != 416:
        code, said = headers.get("X-Error-Code", ""), headers.get("X-Error-Message", "")
        secrets = {word for value in place.headers.values() for word in re.split("[ =]", value)}
        if any(secret in said for secret in secrets if len(secret) > len("Bearer")):
            said = ""  # it repeats our token
        raise Refused(f"HTTP {status}", status, code, said, page=is_page and status != 404)


def _failure(error: Exception, place: Place) -> Exception:
    """What went wrong, without the library's own words."""
    host = urlsplit(place.url).hostname
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", None)
    if isinstance(error, requests.exceptions.SSLError):
        return Refused(f"the certificate of {host} is not accepted")
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader)):
        return Refused("it gave an address that is none")
    if isinstance(error, requests.exceptions.ProxyError):
        return Again("the proxy does not let it through", reached=False)
    if isinstance(error, requests.ConnectTimeout):
        return Again(f"no connection to {host} within {CONNECT:.0f} s", reached=False)
    if isinstance(error, (requests.Timeout, ReadTimeoutError)) or isinstance(cause, ReadTimeoutError):
        return Again(f"silent for {SILENCE:.0f} s")
    if isinstance(error, requests.ConnectionError) and reason is not None:
        named = "its name is not known (DNS)" if isinstance(reason, NameResolutionError) else "no connection"
        return Again(f"{host}: {named}", reached=False)
    return Again("the connection broke")


def _session() -> requests.Session:
    """One for each thread, which keeps its connections."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.trust_env = False  # else an entry of ~/.netrc takes the place of our Authorization
        _local.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return _local.session


def _certificates() -> str | bool:
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if path := os.environ.get(name):
            if not os.path.exists(path):
                raise InputError(f"{name}: there is no {path}; set it to the file of the CA certificates, or unset it")
            return path
    return True
