"""What must hold for the repository as a whole."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STAGES = ("fetch", "quantize", "convert", "bench")
PACKAGES = ("shipvlm", "calib_data", *STAGES)
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))  # not installed, otherwise held to the same
LINES = 300


def pins() -> dict[str, Requirement]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    found = [Requirement(line) for line in lines if line]
    return {canonicalize_name(pin.name): pin for pin in found}


def dependencies() -> list[Requirement]:
    project = PROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [Requirement(text) for names in lists for text in names]
    return [requirement for requirement in found if requirement.name != project["name"]]


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, at its top or inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module))
    return names


def tracked_files() -> list[Path]:
    """What a clone holds, and what is about to be added to it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("requirement", dependencies(), ids=str)
def test_every_dependency_has_a_tested_version(requirement: Requirement) -> None:
    pin = pins()[canonicalize_name(requirement.name)]
    [specifier] = pin.specifier
    assert specifier.operator == "=="
    assert requirement.specifier.contains(Version(specifier.version)), f"{requirement} does not admit {pin}"


@pytest.mark.parametrize("path", [*MODULES, *EXAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_is_declared(path: Path) -> None:
    declared = {canonicalize_name(requirement.name) for requirement in dependencies()}
    providers = packages_distributions()
    for name in (
        {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - set(PACKAGES) - {"examples"}
    ):
        found = {canonicalize_name(distribution) for distribution in providers.get(name, [name])}
        assert found & declared, f"{path} imports {name}, which pyproject.toml does not list"


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in [*MODULES, *EXAMPLES]}
    assert {folder for folder in folders if not (folder / "__init__.py").is_file()} == set()
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sorted(include) == sorted(f"{package}*" for package in PACKAGES)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    """cli -> stages -> runtime -> families; a stage never imports another, and only the cli knows all of them."""
    room, *below = path.relative_to(ROOT).parts
    command_line = room == "shipvlm" and below[0] == "cli"
    names = imports(path)
    for stage in STAGES:
        if stage != room and not command_line:
            assert not any(name.split(".")[0] == stage for name in names), f"{path} imports the stage {stage}"
    if room == "calib_data":
        assert not any(name.startswith("shipvlm.") and name != "shipvlm.errors" for name in names)
    if "families" in path.parts:
        assert not any(name.startswith("shipvlm.runtime") for name in names)
    if room == "shipvlm" and not command_line:
        assert not any(name.split(".")[0] == "calib_data" for name in names)
        assert not any(name.startswith("shipvlm.cli") for name in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_installed_does_not_import_examples(path: Path) -> None:
    assert not any(name.split(".")[0] == "examples" for name in imports(path))


@pytest.mark.parametrize("path", [*MODULES, *EXAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES, f"{path} is long: two files"
    assert ast.get_docstring(ast.parse(text)), f"{path} does not say what it is for"


def test_no_code_from_checkpoints_is_run() -> None:
    unsafe = re.compile(
        r"trust_remote_code\s*=\s*True|pickle\.loads?\(|allow_pickle\s*=\s*True|weights_only\s*=\s*False"
    )
    tests = Path(__file__).parent  # they try what must be refused
    sources = [path for path in tracked_files() if path.suffix == ".py" and tests not in path.parents]
    assert sources
    assert [path for path in sources if unsafe.search(path.read_text())] == []


def test_no_large_file() -> None:
    assert {path: size for path in tracked_files() if (size := path.stat().st_size) > 15e6} == {}


def test_readme_names_only_targets_and_paths_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    rules = re.findall(r"^([a-z ]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {name for rule in rules for name in rule.split()}
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    assert named <= targets
    assert {"test", "quantize", "convert", "bench"} <= named
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), f"README links to {link}"
