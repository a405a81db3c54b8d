"""What a failed request means, for people: one of the situations of `fetch.access`, or that the network gave up."""

import math

from fetch.access import AccessError, Situation
from fetch.request import Refused
from fetch.retry import ATTEMPTS, Again
from fetch.source import SourceName
from fetch.tokens import Token
from fetch.transfer import TransferError
from shipvlm.errors import ShipvlmError

# X-Error-Code of the Hub, and of fetch.modelscope for the same; GatedRepo depends on the token.
CODES: dict[str, Situation] = {"RepoNotFound": "not-found", "RevisionNotFound": "revision-not-found"}
DISABLED = "Access to this resource is disabled."
BAD_TOKEN = "Invalid credentials in Authorization header"


def explain(
    error: Again | Refused,
    source: SourceName,
    label: str,
    endpoint: str,
    repo: str,
    revision: str,
    sent: Token | None,
    withheld: Token | None,
) -> ShipvlmError:
    """`error` of a request to `endpoint`, with the token that was `sent` there or the one that was not."""
    fields = {
        "source": source,
        "repo": repo,
        "revision": revision,
        "endpoint": endpoint,
        "token_source": sent.source if sent else None,
        "withheld": withheld.source if withheld else None,
    }
    if isinstance(error, Refused):
        situation = _hub(error, sent, withheld) if source == "hf" else _modelscope(error, sent, withheld)
        detail = f"{error} ({error.said})" if error.said else str(error)
        return AccessError(situation, **fields, detail=detail)
    if error.status == 429:
        return AccessError("rate-limited", **fields, wait=None if error.after is None else str(math.ceil(error.after)))
    if not error.reached:
        return AccessError("unreachable", **fields, detail=str(error))
    return TransferError(
        f"{label}: {error}, and after {ATTEMPTS} attempts it still does. What is there is kept: "
        "run the same shipvlm fetch again, and it goes on from there"
    )


def _hub(error: Refused, sent: Token | None, withheld: Token | None) -> Situation:
    if error.code == "GatedRepo" or (error.status == 403 and "gated" in error.said):
        return _gated(sent, withheld)
    if error.code in CODES:
        return CODES[error.code]
    if error.said == DISABLED:
        return "disabled"
    if error.status == 401 and not error.page:
        return "token-rejected" if sent else "not-found"
    return _any(error)


def _modelscope(error: Refused, sent: Token | None, withheld: Token | None) -> Situation:
    if error.status == 401 and sent:
        return "token-rejected"
    if error.status in (401, 403) and not error.page:
        return _gated(sent, withheld)
    if error.status == 404:
        return CODES.get(error.code, "not-found")
    return _any(error)


def _gated(sent: Token | None, withheld: Token | None) -> Situation:
    if sent:
        return "gated-not-approved"
    return "gated-token-withheld" if withheld else "gated-no-token"


def _any(error: Refused) -> Situation:
    if error.page:
        return "web-page"
    return "not-a-hub" if error.status else "unreachable"
