"""What is said when a source refuses: complete, the same in both languages, and such that a person can act."""

import re
import shlex
import string
from importlib.metadata import entry_points
from itertools import product
from pathlib import Path
from typing import cast, get_args

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.core import TyperGroup

from fetch import messages_en, messages_zh
from fetch.access import AccessError, Language, ModelScope, Situation, commands, is_own, language, text
from shipvlm.cli import app

SITUATIONS = get_args(Situation)
LANGUAGES = get_args(Language)
MIRROR = "https://mirror.example"
# What each situation cannot be told without, beside the repository.
NEEDED = {
    "gated-token-withheld": {"endpoint": MIRROR, "withheld": "HF_TOKEN"},
    "gated-not-approved": {"token_source": "stored login"},
    "token-rejected": {"token_source": "HF_TOKEN"},
    "revision-not-found": {"revision": "v9"},
    "not-a-hub": {"detail": "no header X-Repo-Commit"},
    "offline": {"detail": "HF_HUB_OFFLINE=1"},
    "unreachable": {"detail": "connection refused"},
}
KNOWN = {
    "detail": "403 Forbidden",
    "files": "model.safetensors",
    "revisions": "main, v1",
    "default_revision": "main",
    "default_commit": "ab" * 20,
    "suggestions": "owner/tiny-2",
    "wait": "30",
}

TYPED = commands("owner/tiny", Path("out"), lock=Path("a.lock.json"), part=Path("out"))


def made(situation: Situation, **fields: str | None) -> AccessError:
    return AccessError(situation, **{"repo": "owner/tiny", **NEEDED.get(situation, {}), **fields})


def every_error() -> list[AccessError]:
    """Each situation with little known and with much, over a mirror and not, on both hubs, with each kind of token."""
    found = []
    for situation, endpoint, more in product(SITUATIONS, (None, MIRROR), ({}, KNOWN)):
        if situation == "gated-token-withheld" and endpoint is None:
            continue
        common = {"endpoint": endpoint, **more, **(TYPED if more else {})}
        for modelscope in (None, *get_args(ModelScope)):
            found.append(made(situation, **common, modelscope=modelscope))
        for token in messages_en.TOKENS:
            found.append(made(situation, **{**common, "withheld" if endpoint else "token_source": token}))
        found.append(made(situation, **common, source="modelscope"))
    return found


EVERY = [(error, lang) for error in every_error() for lang in LANGUAGES]


def typed(message: str) -> list[str]:
    """The commands in a message: the lines that are indented by four."""
    return [line.strip() for line in message.splitlines() if line.startswith("    ")]


def placeholders(line: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(line) if name}


@pytest.mark.parametrize("table", ["SITUATIONS", "MODELSCOPE"])
def test_both_languages_say_the_same_lines(table: str) -> None:
    english, chinese = getattr(messages_en, table), getattr(messages_zh, table)
    assert set(english) == set(chinese) == set(SITUATIONS if table == "SITUATIONS" else get_args(ModelScope))
    for situation in english:
        shape = [
            [(needs, placeholders(line)) for needs, line in lines] for lines in (english[situation], chinese[situation])
        ]
        assert shape[0] == shape[1], situation


def test_both_languages_know_the_same_sources_and_tokens() -> None:
    assert set(messages_en.WHERE) == set(messages_zh.WHERE)
    assert set(messages_en.GATED) == set(messages_zh.GATED)
    shapes = [
        {token: {part: placeholders(line) for part, line in parts.items()} for token, parts in words.TOKENS.items()}
        for words in (messages_en, messages_zh)
    ]
    assert shapes[0] == shapes[1]


def test_every_line_is_said_in_some_situation() -> None:
    """A line whose needs never hold would be dead: every line's fixed part must turn up somewhere."""
    said = {lang: "\n".join(text(error, lang) for error, _ in EVERY[::2]) for lang in LANGUAGES}
    for lang, words in (("en", messages_en), ("zh", messages_zh)):
        for lines in (*words.SITUATIONS.values(), *words.MODELSCOPE.values()):
            for _, line in lines:
                fixed = max(re.split(r"\{\w+\}", line), key=len)
                assert fixed in said[lang], line


def test_chinese_is_chinese() -> None:
    for error, lang in EVERY:
        first = text(error, lang).splitlines()[0]
        assert bool(re.search(r"[\u4e00-\u9fff]", first)) == (lang == "zh"), first


def test_every_message_names_the_model_and_what_to_do_next() -> None:
    for error, lang in EVERY:
        message = text(error, lang)
        assert "owner/tiny" in message
        assert "{" not in message and "}" not in message
        assert typed(message) or "https://" in message
        assert len(message.splitlines()) <= 20, message


def test_commands_of_shipvlm_are_ones_that_it_understands() -> None:
    group = cast(TyperGroup, typer.main.get_command(app))
    found = {line for error, lang in EVERY for line in typed(text(error, lang)) if line.startswith("shipvlm")}
    assert len(found) > 5
    for line in found:
        words = shlex.split(line)
        assert words[:2] == ["shipvlm", "fetch"]
        group.commands["fetch"].make_context("fetch", words[2:])  # raises for an option that does not exist


def test_commands_of_others_exist() -> None:
    """`hf auth login` and its like are commands of the clients that are installed."""
    from huggingface_hub.cli import hf

    found = {line for error, lang in EVERY for line in typed(text(error, lang)) if not line.startswith("shipvlm")}
    assert {shlex.split(line)[0] for line in found} == {"hf", "modelscope", "unset", "curl"}
    for line in found:
        if line.startswith("hf "):
            name, *options = shlex.split(line)[2:]
            auth = cast(TyperGroup, hf.app.commands["auth"])
            command = auth.get_command(auth.make_context("auth", ["list"]), name)
            assert command is not None, line
            command.make_context(name, options)
        elif line.startswith("unset "):
            assert set(line.split()[1:]) <= {*messages_en.TOKENS, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}
    scripts = {script.name for script in entry_points(group="console_scripts")}
    assert {"hf", "modelscope"} <= scripts


def test_nobody_is_told_to_type_a_token() -> None:
    for error, lang in EVERY:
        message = text(error, lang)
        assert not re.search(r"hf_|--token(?!-file)|TOKEN=|huggingface-cli", message), message


def test_the_right_hub_is_named() -> None:
    for lang in LANGUAGES:
        message = text(made("gated-no-token", source="modelscope"), lang)
        assert "modelscope login" in message and "MODELSCOPE_API_TOKEN" in message
        assert "hf auth" not in message and "huggingface" not in message
        assert "modelscope" not in text(made("gated-no-token"), lang).lower()


def test_a_mirror_does_not_lift_a_gate() -> None:
    for situation in ("gated-no-token", "gated-token-withheld"):
        message = text(made(situation, endpoint=MIRROR), "en")
        assert "mirror does not lift a gate" in message
        assert "--endpoint https://huggingface.co" in message
        assert f"{MIRROR} with your token" in message and "--allow-token-to-endpoint" in message
        assert "https://huggingface.co/owner/tiny" in message  # the terms are on the hub's page, not on the mirror's
    assert "mirror" not in text(made("gated-no-token"), "en")


def test_a_rejected_token_is_named_and_so_is_the_way_to_be_rid_of_it() -> None:
    assert "unset HF_TOKEN" in typed(text(made("token-rejected"), "en"))
    assert "hf auth logout" in typed(text(made("token-rejected", token_source="stored login"), "en"))
    assert "leave --token-file out" in text(made("token-rejected", token_source="--token-file"), "en")


def test_a_fine_grained_token_needs_a_permission_by_name() -> None:
    for lang in LANGUAGES:
        message = text(made("gated-not-approved"), lang)
        assert "Read access to contents of all public gated repos you can access" in message
        assert "fine-grained" not in text(made("gated-not-approved", source="modelscope"), lang)


@pytest.mark.parametrize(
    ("situation", "code"),
    [(name, {"offline": 3, "unreachable": 4, "rate-limited": 4}.get(name, 5)) for name in SITUATIONS],
)
def test_exit_codes(situation: Situation, code: int) -> None:
    assert made(situation).exit_code == code
    assert made(situation).also(modelscope="same").exit_code == code
    incomplete = made(situation).also(files="model.safetensors").exit_code
    assert incomplete == (3 if situation in ("offline", "unreachable") else code)


def test_more_can_be_known_later() -> None:
    error = made("gated-no-token").also(modelscope="same", **commands("owner/tiny", Path("a b")))
    assert error.situation == "gated-no-token"
    assert "shipvlm fetch owner/tiny -o 'a b' --source modelscope" in typed(str(error))
    assert str(error) == text(error, "en")


@pytest.mark.parametrize(
    "wrong", [{"label": "x"}, {"repo": None, "detail": None}], ids=["unknown field", "missing field"]
)
def test_a_wrong_field_is_a_mistake_of_ours(wrong: dict[str, str | None]) -> None:
    with pytest.raises((TypeError, KeyError)):
        made("unreachable", **wrong)


@given(st.text(max_size=1000))
def test_what_comes_from_outside_stays_on_its_line(detail: str) -> None:
    plain = text(made("unreachable", detail="x"), "en").split("\n")
    lines = text(made("unreachable", detail=f"x{detail}"), "en").split("\n")
    assert lines[1:] == plain[1:]
    assert lines[0].isprintable()
    assert len(lines[0]) < 500


@given(
    st.from_regex(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", fullmatch=True).filter(lambda repo: not repo.startswith("-")),
    st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp", "Zs")) | st.just(" "), min_size=1),
)
def test_commands_survive_the_shell(repo: str, name: str) -> None:
    found = commands(repo, Path("x", name), revision="v 1", include=("docs/*", name), allow_token=True)
    made_of = shlex.split(found["command"])
    assert made_of[:5] == ["shipvlm", "fetch", repo, "-o", str(Path("x", name))]
    assert made_of[5:] == ["--include", "docs/*", "--include", name, "--allow-token-to-endpoint", "--revision", "v 1"]


def test_the_command_to_do_without_a_token_has_none() -> None:
    asked = commands("owner/tiny", endpoint=MIRROR, token_file=Path("t"), allow_token=True)
    error = made("token-rejected", token_source="--token-file").also(**asked)
    public, renewed = (line for line in typed(str(error)) if line.startswith("shipvlm"))
    assert public == f"shipvlm fetch owner/tiny --endpoint {MIRROR}"
    assert renewed == f"{public} --token-file t --allow-token-to-endpoint"


@pytest.mark.parametrize(
    ("asked", "environment", "expected"),
    [
        (None, {}, "en"),
        (None, {"LANG": "zh_CN.UTF-8"}, "zh"),
        (None, {"LANG": "zh_TW.UTF-8"}, "zh"),
        (None, {"LANG": "de_DE.UTF-8"}, "en"),
        (None, {"LC_ALL": "C.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        (None, {"LC_ALL": "", "LC_MESSAGES": "zh_CN", "LANG": "en_US.UTF-8"}, "zh"),
        (None, {"LC_ALL": "zh_CN.GB18030", "LC_MESSAGES": "en_US"}, "zh"),
        ("en", {"LANG": "zh_CN.UTF-8"}, "en"),
        ("zh", {"LC_ALL": "C"}, "zh"),
    ],
)
def test_the_language_is_the_one_asked_for_or_the_locale(asked, environment, expected) -> None:
    assert language(asked, environment) == expected


@pytest.mark.parametrize(
    ("source", "endpoint", "own"),
    [
        ("hf", "https://huggingface.co", True),
        ("hf", "https://HuggingFace.co/", True),
        ("hf", "http://huggingface.co", False),  # anybody on the way reads it
        ("hf", "https://huggingface.co.evil.example", False),
        ("hf", "https://evil.example/huggingface.co", False),
        ("hf", "https://huggingface.co@evil.example", False),
        ("hf", "https://hf-mirror.com", False),
        ("hf", "https://www.modelscope.cn", False),
        ("modelscope", "https://www.modelscope.cn", True),
        ("modelscope", "https://huggingface.co", False),
    ],
)
def test_own_hosts(source: str, endpoint: str, own: bool) -> None:
    assert is_own(source, endpoint) is own


def test_a_command_for_the_hub_is_for_the_one_that_refused() -> None:
    """With --source auto ModelScope may be the one; revision and token file are the Hub's then."""
    asked = commands("owner/tiny", revision="v1", token_file=Path("t"))
    for source, end in (
        ("hf", "--source hf --endpoint https://huggingface.co --token-file t --revision v1"),
        ("modelscope", "--source modelscope --endpoint https://www.modelscope.cn"),
    ):
        found = typed(str(made("not-found", endpoint=MIRROR, source=source, **asked)))
        assert f"shipvlm fetch owner/tiny {end}" in found
    asked = commands("owner/tiny", revision="v1", token_file=Path("t"), source="modelscope")
    line = (
        "shipvlm fetch owner/tiny --source modelscope --endpoint https://www.modelscope.cn --token-file t --revision v1"
    )
    assert line in typed(str(made("not-found", endpoint=MIRROR, source="modelscope", **asked)))


def test_modelscope_is_not_compared_with_itself_or_when_it_was_not_asked() -> None:
    for lang in LANGUAGES:
        for seen in get_args(ModelScope):
            for error in (made("gated-no-token", source="modelscope"), made("offline")):
                assert text(error.also(modelscope=seen), lang) == text(error, lang)


def test_the_same_is_said_of_what_is_known() -> None:
    assert "every sha256 that both list is equal" in str(made("gated-no-token", modelscope="same"))
    assert "not this revision" in str(made("gated-no-token", modelscope="no revision"))


@pytest.mark.parametrize("situation", ["unreachable", "rate-limited"])
def test_what_was_fetched_is_kept_where_something_was(situation: Situation) -> None:
    for lang, words in zip(LANGUAGES, ("What was fetched is kept", "已下载的内容会保留"), strict=True):
        assert words not in text(made(situation), lang)
        assert words in text(made(situation, files="model.safetensors"), lang)
        assert words in text(made(situation, kept="yes"), lang)
