"""Recipes: what is read, and how every mistake is named with its place."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shipvlm.errors import InputError
from shipvlm.recipe import Recipe
from shipvlm.recipe_file import make_recipe, read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SMALLEST = "name: a\nmodel:\n  path: here\n"


def keys(model: Any, above: str = "") -> list[str]:
    """The dotted names of all plain fields, from a dumped recipe."""
    found = []
    for name, value in model.items():
        found += keys(value, f"{above}{name}.") if isinstance(value, dict) else [f"{above}{name}"]
    return found


DEFAULTS = make_recipe(yaml.safe_load(SMALLEST))
FIELDS = keys(DEFAULTS.model_dump(mode="json"))


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_read_and_named_like_their_file(path: Path) -> None:
    assert read_recipe(path).name == path.stem


def test_the_default_recipe_shows_every_field_and_its_default() -> None:
    [path] = [path for path in RECIPES if path.stem == "default"]
    text = path.read_text()
    shown = yaml.safe_load(text)
    assert sorted(keys(shown)) == sorted(FIELDS)
    quick = {name: int(default) for name, default in re.findall(r"^  (\w+): \d+ .*\[(\d+)\]$", text, re.MULTILINE)}
    assert len(quick) == 3
    shown["bench"] |= quick
    defaults = DEFAULTS.model_dump(mode="json")
    model = defaults["model"] | {"path": "examples/tiny_qwen3_vl"}
    assert shown == defaults | {"name": "default", "model": model}


def test_the_recipe_of_a_hub_shows_every_field_of_the_model() -> None:
    [path] = [path for path in RECIPES if path.stem == "qwen3-vl-8b"]
    assert yaml.safe_load(path.read_text())["model"].keys() == DEFAULTS.model_dump()["model"].keys()
    assert read_recipe(path).model.repo == "Qwen/Qwen3-VL-8B-Instruct"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("revision: main", ":4: model.revision is 'main', it must be left out: without model.repo nothing is fetched"),
        ("source: hf", ":4: model.source is 'hf', it must be left out"),
        ("endpoint: https://x", ":4: model.endpoint is 'https://x', it must be left out"),
        ("include: [a]", ":4: model.include is ['a'], it must be left out"),
        ("lock: a", ":4: model.lock is 'a', it must be left out"),
        ("repo: Qwen", ":4: model.repo is 'Qwen', it must be OWNER/NAME, such as Qwen/Qwen3-VL-8B-Instruct"),
        ("repo: a/..", ":4: model.repo is 'a/..', it must be OWNER/NAME, such as Qwen/Qwen3-VL-8B-Instruct"),
        ("repo: a/b\n  source: hub", ":5: model.source is 'hub', it must be 'auto', 'hf' or 'modelscope'"),
        (
            "adapters: [a, b, a]",
            ":4: model.adapters is ['a', 'b', 'a'], it must be a list in which each adapter stands",
        ),
        ("adapters: a", ":4: model.adapters is 'a', it must be a list: write it as [a]"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_recipe(written(tmp_path, f"{SMALLEST}  {text}\n"))
    assert message in str(caught.value)


def test_what_is_left_out_may_also_be_written_out(tmp_path: Path) -> None:
    written_out = "  revision: null\n  source: auto\n  endpoint: null\n  include: []\n  lock: null\n  adapters: []\n"
    assert read_recipe(written(tmp_path, SMALLEST + written_out)) == DEFAULTS
    fetched = read_recipe(written(tmp_path, SMALLEST + "  repo: a/b\n  revision: main\n  lock: some.json\n"))
    assert (fetched.model.repo, fetched.model.lock) == ("a/b", Path("some.json"))


def test_an_endpoint_with_a_password_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model.endpoint has a user name or a password") as caught:
        read_recipe(written(tmp_path, SMALLEST + "  repo: a/b\n  endpoint: https://me:secret@example.com\n"))
    assert "secret" not in str(caught.value)


def test_overrides_replace_what_the_file_says(tmp_path: Path) -> None:
    path = written(tmp_path, SMALLEST + "bench:\n  limit: 3\n  repeats: 2\n")
    recipe = read_recipe(
        path, ["bench.limit=null", "quantize.scheme=w4a16", "quantize.ignore=[a, 're:b']", "model.path=x"]
    )
    assert (recipe.bench.limit, recipe.bench.repeats) == (None, 2)
    assert recipe.quantize.scheme == "w4a16"
    assert recipe.quantize.ignore == ("a", "re:b")
    assert recipe.model.path == Path("x")
    assert read_recipe(path, ["convert=null"]).convert is None
    assert read_recipe(path, ["convert=null", "convert.precision=fp16"]).convert.precision == "fp16"  # type: ignore[union-attr]


@given(st.sampled_from(FIELDS), st.integers(0, 40), st.sampled_from("qxz"))
def test_a_misspelled_key_is_named_with_the_nearest_one(field: str, place: int, letter: str) -> None:
    above, dot, name = field.rpartition(".")
    wrong = name[: place % len(name)] + letter + name[place % len(name) :]
    if f"{above}{dot}{wrong}" in FIELDS:
        return
    with pytest.raises(InputError, match=f"unknown key {above}{dot}{wrong}: the nearest known key is {field}$"):
        make_recipe(yaml.safe_load(SMALLEST), [f"{above}{dot}{wrong}=1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quantize:\n  schem: w4a16", ":5: unknown key quantize.schem: the nearest known key is quantize.scheme"),
        ("scheme: w4a16", ":4: unknown key scheme: the nearest known key is quantize.scheme"),
        ("quantize:\n  scheme: w4a17", ":5: quantize.scheme is 'w4a17', it must be 'w8a8-static', 'w8a16' or 'w4a16'"),
        ("quantize:\n  scheme: w4a17", "did you mean w4a16?"),
        ("quantize:\n  percentile: 1e2", ":5: quantize.percentile is '1e2', it must be number (write a power of ten"),
        ("quantize:\n  percentile: .nan", ":5: quantize.percentile is nan"),
        ("quantize:\n  ignore:\n  - a\n  - 1", ":7: quantize.ignore.1 is 1, it must be string"),
        ("bench: 3", ":4: bench is a section: it takes the keys data, limit,"),
        ("bench:\n  limit: 0", ":5: bench.limit is 0, it must be greater than or equal to 1"),
        ("bench:\n  repeats: true", ":5: bench.repeats is True, it must be integer"),
        ("bench:\n  repeats: 2.0", ":5: bench.repeats is 2.0, it must be integer"),
        ("name: b", ":4: the key 'name' stands in line 1 already"),
        ("bench:\n  limit: 1\n  limit: 2", ":6: the key 'limit' stands in line 5 already"),
        ("target: &here\n  device: cpu\nbench: *here", ":6: an alias"),
        ("? [a]\n: b", ":4: a key must be a name"),
        ("bench: {limit: 1", ":4: expected"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, SMALLEST + text)
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_all_mistakes_are_named_at_once_in_their_order(tmp_path: Path) -> None:
    path = written(tmp_path, SMALLEST + "bench:\n  limit: 0\nbogus: 1\n")
    with pytest.raises(InputError) as caught:
        read_recipe(path, ["quantize.scheme=int3"])
    first, second, third = str(caught.value).splitlines()
    assert first.startswith("--set: quantize.scheme is 'int3'")
    assert second.strip().startswith(f"{path}:5: bench.limit")
    assert third.strip().startswith(f"{path}:6: unknown key bogus")


@pytest.mark.parametrize("text", ["", "model: {path: x}", "name: UPPER\nmodel: {path: x}", "[1, 2]", "3"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"recipe\.yaml"):
        read_recipe(written(tmp_path, text))
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "text", ["x", "=1", "a..b=1", "bench.limit=", "name.x=1", "bench.limit={", "bench.limit=a: b: c"]
)
def test_half_an_override_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--set"):
        make_recipe(yaml.safe_load(SMALLEST), [text])


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DEFAULTS.bench.limit = 3
    assert Recipe.model_validate_json(DEFAULTS.model_dump_json()) == DEFAULTS


@pytest.mark.parametrize("text", ["model.path=b", "model={path: b}", "model.path.x=1", "quantize=null"])
def test_what_a_command_says_is_not_said_again(text: str) -> None:
    """A single command's digests are of its own arguments; an override would make its manifest lie."""
    with pytest.raises(InputError, match="this command's own arguments and options say"):
        make_recipe({"name": "x", "model": {"path": "a"}, "quantize": {"scheme": "w4a16"}}, [text])
