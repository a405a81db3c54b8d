"""Reads a recipe: YAML and `--set` overrides, checked against the one model. Every mistake is named with its place."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from shipvlm.errors import InputError
from shipvlm.recipe import Recipe, Section

Keys = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """YAML without its traps: a key that stands twice, and aliases, by which a short file says a huge thing."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias (*name): write the value out", problem_mark=self._mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in lines:
                seen = (
                    f"the key {key.value!r} stands in line {lines[key.value]} already" if key.id == "scalar" else None
                )
                raise yaml.MarkedYAMLError(problem=seen or "a key must be a name", problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def _mark(self) -> yaml.Mark:
        return self.peek_event().start_mark


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the YAML file `path`, with `overrides` such as `quantize.scheme=w4a16` (their values are YAML).

    Raises `InputError` naming the line, or the override, of every unknown key (with the nearest known one) and of
    every wrong value (with what is allowed).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: the recipe cannot be read ({error}); give a YAML file such as recipes/default.yaml"
        ) from error
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        values = loader.construct_document(root) if root else {}
    except yaml.YAMLError as error:
        raise InputError(f"{_place(path, error)}: {_problem(error)}") from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise InputError(f"{path}: a recipe has the keys {', '.join(Recipe.model_fields)}; this is one {_kind(values)}")
    return _checked(values, overrides, str(path), root)


def make_recipe(values: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from `values`, as a file would hold them, and `overrides` of what they leave out.

    Raises `InputError` as `read_recipe` does, and for an override of what is in `values`: the command's own arguments
    say that.
    """
    given = list(_leaves(values))
    for text in overrides:
        keys = tuple(text.partition("=")[0].split("."))
        if said := [leaf for leaf in given if leaf[: len(keys)] == keys or keys[: len(leaf)] == leaf]:
            raise InputError(f"--set {text}: this command's own arguments and options say {'.'.join(said[0])}")
    return _checked(values, overrides, "recipe", None)


def _checked(values: dict[str, Any], overrides: Sequence[str], source: str, root: yaml.Node | None) -> Recipe:
    changed = [_override(values, text) for text in overrides]
    try:
        return Recipe.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        lines = []
        for problem in sorted(error.errors(), key=lambda problem: _line(root, tuple(map(str, problem["loc"])))):
            keys = tuple(str(key) for key in problem["loc"])
            given = any(keys[: len(change)] == change or change[: len(keys)] == keys for change in changed)
            place = "--set" if given else f"{source}:{_line(root, keys)}" if root else source
            lines.append(f"{place}: {_reason(keys, problem)}")
        raise InputError("\n  ".join(lines)) from error


def _leaves(values: Mapping[str, Any], above: Keys = ()) -> Iterator[Keys]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)


def _override(values: dict[str, Any], text: str) -> Keys:
    """Put one `a.b=value` into `values`; return its keys."""
    name, equals, written = text.partition("=")
    keys = tuple(name.split("."))
    if not (equals and written and all(keys)):
        raise InputError(f"--set {text}: write it as KEY=VALUE, such as quantize.scheme=w4a16 or bench.limit=null")
    try:
        value = yaml.load(written, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"--set {text}: the value is not YAML: {_problem(error)}") from error
    part = values
    for key in keys[:-1]:
        if part.get(key) is None:
            part[key] = {}
        part = part[key]
        if not isinstance(part, dict):
            raise InputError(f"--set {text}: {key} has a value, it is no section")
    part[keys[-1]] = value
    return keys


def _reason(keys: Keys, problem: Mapping[str, Any]) -> str:
    """One problem that pydantic found, in words."""
    name = ".".join(keys)
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key {name}: the nearest known key is {_nearest_key(keys)}"
        case "missing":
            return f"{name} is missing"
        case "literal_error":
            allowed = problem["ctx"]["expected"]
            words = [word.strip("'") for word in allowed.replace(" or ", ", ").split(", ")]
            near = difflib.get_close_matches(str(problem["input"]), words, n=1)
            return f"{name} is {problem['input']!r}, it must be {allowed}" + (
                f": did you mean {near[0]}?" if near else ""
            )
        case "string_pattern_mismatch":
            return f"{name} is {problem['input']!r}, it must fit {problem['ctx']['pattern']}: such as int8-cpu"
        case "tuple_type":
            return f"{name} is {problem['input']!r}, it must be a list: write it as [{problem['input']}]"
        case "model_type":
            return f"{name} is a section: it takes the keys {', '.join(_fields(keys))}"
        case kind:
            hint = " (write a power of ten as 1.0e-3)" if kind == "float_type" and "e" in str(problem["input"]) else ""
            said = str(problem["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
            return f"{name} is {problem['input']!r}, it must be {said}{hint}"


def _nearest_key(keys: Keys) -> str:
    """The known key nearest to an unknown one: beside it, else of the same name elsewhere."""
    beside = _fields(keys[:-1])
    if not (near := difflib.get_close_matches(keys[-1], beside, n=1)):
        elsewhere = [known for known in _all_keys(Recipe) if known[-1] == keys[-1]]
        if elsewhere:
            return ".".join(elsewhere[0])
        near = difflib.get_close_matches(keys[-1], beside, n=1, cutoff=0.0)
    return ".".join((*keys[:-1], near[0]))


def _all_keys(model: type[Section], above: Keys = ()) -> Iterator[Keys]:
    for name in model.model_fields:
        yield (*above, name)
        if section := _section(model, name):
            yield from _all_keys(section, (*above, name))


def _fields(keys: Keys) -> list[str]:
    model: type[Section] = Recipe
    for key in keys:
        model = _section(model, key) or model
    return list(model.model_fields)


def _section(model: type[Section], name: str) -> type[Section] | None:
    """The model of a field that is a section, None for a plain field."""
    annotation = model.model_fields[name].annotation
    found = [
        kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, Section)
    ]
    return found[0] if found else None


def _line(node: yaml.Node | None, keys: Keys) -> int:
    """Line of the key, or of the deepest section above it that is there."""
    line = 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = next(((name, value) for name, value in node.value if str(name.value) == key), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
    return line


def _place(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}:{mark.line + 1}" if mark else str(path)


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).replace("\n", " ")


def _kind(value: object) -> str:
    return "list" if isinstance(value, list) else "value"
