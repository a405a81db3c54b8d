"""A source refuses: which situation that is, what is known about it, and the message that lets a person act.

The texts are data (`fetch.messages_en`, `fetch.messages_zh`). A line is printed when the field it needs is known.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote, urlsplit

from fetch import messages_en, messages_zh
from shipvlm.errors import ExecutionError, SetupError, ShipvlmError
from shipvlm.words import plain

Situation = Literal[
    "gated-no-token",
    "gated-token-withheld",
    "gated-not-approved",
    "token-rejected",
    "not-found",
    "revision-not-found",
    "disabled",
    "not-a-hub",
    "web-page",
    "rate-limited",
    "offline",
    "unreachable",
]
Language = Literal["en", "zh"]
# What is known about ModelScope when another source refuses: the same bytes, other bytes, a repository of that name
# (nothing to compare it with), one without the revision, none, or no answer.
ModelScope = Literal["same", "different", "there", "no revision", "not there", "not known"]
Field = Literal[
    "source",  # the one that refuses: hf or modelscope
    "repo",
    "revision",  # as it was asked for
    "endpoint",  # address that was asked; one that is not the hub's own is called a mirror
    "token_source",  # of the token that was sent: Token.source
    "withheld",  # Token.source of a token that was there and was not sent
    "modelscope",  # one of ModelScope
    "detail",  # what the library or the server said, one line, no token in it
    "wait",  # seconds until it answers again
    "files",  # that are missing, without a network
    "kept",  # "yes" when something was fetched already
    "revisions",  # that there are
    "default_revision",  # name of the default branch there
    "default_commit",  # and where it stands
    "suggestions",  # repositories with similar names
    # of `commands`:
    "lock",
    "command",  # the same again
    "default_command",  # without --revision
    "public_command",  # without a token
    "mirror_command",  # the token goes to the mirror
    "hf_hub_command",  # no mirror
    "modelscope_hub_command",
    "modelscope_command",
    "part",  # folder that only the source that refuses can complete: modelscope_command has another one
]
FIELDS = get_args(Field)
TEXTS = {"en": messages_en, "zh": messages_zh}
ALLOW = "--allow-token-to-endpoint"
LONGEST = 400  # characters of what comes from outside
# Codes of the situations that pass by themselves or are of the machine; the others need a person, an account, a name.
EXIT_CODES: dict[Situation, int] = {
    "offline": SetupError.exit_code,
    "rate-limited": ExecutionError.exit_code,
    "unreachable": ExecutionError.exit_code,
}
OWN_HOSTS = {
    "hf": ("huggingface.co", "hf.co"),
    "modelscope": ("www.modelscope.cn", "modelscope.cn", "www.modelscope.ai", "modelscope.ai"),
}
# What each hub calls its own things.
HUBS = {
    "hf": {
        "hub": "Hugging Face",
        "home": "https://huggingface.co",
        "page": "https://huggingface.co/{repo}",
        "search": "https://huggingface.co/models?search={name}",
        "login": "hf auth login",
        "logout": "hf auth logout",
        "variable": "HF_TOKEN",
        "endpoint_variable": "HF_ENDPOINT",
        "reach": "curl -sSI {endpoint}",
        "probe": "curl -sSI {endpoint}/{repo}/resolve/main/config.json",
        "tokens": "https://huggingface.co/settings/tokens",
        "new_token": "https://huggingface.co/settings/tokens/new?canReadGatedRepos=true&tokenType=fineGrained",
        "permission": "Read access to contents of all public gated repos you can access",
    },
    "modelscope": {
        "hub": "ModelScope",
        "home": "https://www.modelscope.cn",
        "page": "https://www.modelscope.cn/models/{repo}",
        "search": "https://www.modelscope.cn/models?name={name}",
        "login": "modelscope login",
        "logout": "modelscope logout",
        "variable": "MODELSCOPE_API_TOKEN",
        "endpoint_variable": "MODELSCOPE_ENDPOINT",
        "reach": "curl -sSI {endpoint}",
        "tokens": "https://www.modelscope.cn/my/myaccesstoken",
    },
}


class AccessError(ShipvlmError):
    """A source refuses or cannot be asked. `fields` are what is known; `str()` is the English message.

    Exit code 5, but for the situations in `EXIT_CODES`.
    """

    exit_code = 5

    def __init__(self, situation: Situation, **fields: str | None) -> None:
        if situation not in get_args(Situation) or (unknown := set(fields) - set(FIELDS)):
            raise TypeError(f"no such situation or field: {situation}, {sorted(unknown)}")
        if situation == "offline" or fields.get("source") == "modelscope":
            fields["modelscope"] = None  # it was not asked, or is the one that refuses
        self.situation = situation
        self.fields = {
            name: plain(value, None if name.endswith("command") else LONGEST) for name, value in fields.items() if value
        }
        self.exit_code = EXIT_CODES.get(situation, type(self).exit_code)
        if situation == "unreachable" and "files" in self.fields:  # as for offline: this machine cannot complete them
            self.exit_code = SetupError.exit_code
        super().__init__(situation)
        text(self, "en")  # a field that the situation cannot be told without is missed here, not when it is printed

    def __str__(self) -> str:
        return text(self, "en")

    def also(self, **fields: str | None) -> "AccessError":
        """The same error with more known: `raise error.also(modelscope="same") from error`."""
        return type(self)(self.situation, **{**self.fields, **fields})


def commands(
    repo: str,
    out: Path | None = None,
    revision: str | None = None,
    source: str = "auto",
    endpoint: str | None = None,
    include: Sequence[str] = (),
    lock: Path | None = None,
    token_file: Path | None = None,
    allow_token: bool = False,
    part: Path | None = None,
) -> dict[str, str]:
    """The fields with commands: this fetch again, and the same with one thing changed, as they are typed.

    A revision or a token of one hub says nothing on the other, so commands for the other have neither. `part` is the
    folder when it holds what only its own source can complete: ModelScope gets another one.
    """
    options = _option("--lock", lock)
    for pattern in include:
        options += ["--include", pattern]
    common = ["shipvlm", "fetch", repo, *_option("-o", out), *options]
    other = ["shipvlm", "fetch", repo, *_option("-o", f"{part}-modelscope" if part else out), *options]
    token, at = _option("--token-file", token_file), _option("--revision", revision)
    there = [*common, *_option("--source", None if source == "auto" else source), *_option("--endpoint", endpoint)]
    hub = "modelscope" if source == "modelscope" else "hf"
    homes = {
        f"{name}_hub_command": [
            *(*common, "--source", name, "--endpoint", HUBS[name]["home"]),
            *([*token, *at] if name == hub else []),
        ]
        for name in HUBS
    }
    allow = [ALLOW] if allow_token else []
    named = {
        "command": [*there, *token, *allow, *at],
        "default_command": [*there, *token, *allow],
        "public_command": [*there, *at],
        "mirror_command": [*there, *token, ALLOW, *at],
        **homes,
        "modelscope_command": [*other, "--source", "modelscope"],
    }
    known = {name: str(path) for name, path in (("lock", lock), ("part", part)) if path}
    return {name: shlex.join(words) for name, words in named.items()} | known


def _option(name: str, value: object) -> list[str]:
    return [name, str(value)] if value else []


def is_own(source: str, endpoint: str) -> bool:
    """Whether an address is one of the hub itself, so that its tokens belong there."""
    address = urlsplit(endpoint)
    return address.scheme == "https" and address.hostname in OWN_HOSTS[source]


def language(asked: Language | None = None, environment: Mapping[str, str] = os.environ) -> Language:
    """The language of messages: the one asked for, else Chinese in a Chinese locale, else English."""
    if asked:
        return asked
    locale = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := environment.get(name))), "")
    return "zh" if locale.lower().startswith("zh") else "en"


def text(error: AccessError, lang: Language) -> str:
    """What happened, why, what to do next, and whether ModelScope has the same weights. Commands stand on own lines."""
    words = TEXTS[lang]
    values = _values(error.fields, lang)
    lines = words.SITUATIONS[error.situation] + words.MODELSCOPE.get(error.fields.get("modelscope", ""), ())
    return "\n".join(line.format_map(values) for needs, line in lines if _holds(needs, values))


def _holds(needs: str, values: Mapping[str, str]) -> bool:
    """`needs` is one or more of `FIELD` (must be known) and `no FIELD`, with commas between them, or nothing."""
    return all((part.removeprefix("no ") in values) != part.startswith("no ") for part in needs.split(", ") if part)


def _values(fields: Mapping[str, str], lang: Language) -> dict[str, str]:
    """All that a text may name: the fields, and what follows from them."""
    words = TEXTS[lang]
    repo, source = fields.get("repo", ""), fields.get("source", "hf")
    hub = HUBS[source]
    endpoint = fields.get("endpoint", hub["home"])
    values = {"endpoint": endpoint, **commands(repo), **fields}
    values["hub_command"] = values[f"{source}_hub_command"]
    if "files" in values:
        values["kept"] = "yes"
    if not is_own(source, endpoint):
        values["mirror"] = endpoint
    if not {"token_source", "withheld"} & set(fields):
        values["anonymous"] = "yes"
    values["gated"] = words.GATED[source]
    values["where"] = words.WHERE["mirror" if "mirror" in values else source].format_map(values)
    parts = {"endpoint": quote(endpoint, safe=":/[]"), "repo": quote(repo), "name": quote(repo.rpartition("/")[2])}
    values |= {name: value.format_map(parts) for name, value in hub.items()}
    for name in ("token_source", "withheld"):
        if name in fields:
            token = words.TOKENS.get(fields[name], {"token": fields[name]})
            values |= {part: line.format_map(hub) for part, line in token.items()}
    return values
