"""shipvlm bench report, gate and compare: what can be said of results that are there."""

from pathlib import Path
from typing import Annotated, Any

import typer

from shipvlm.cli.bench import group
from shipvlm.cli.common import AsJson, Settings, print_json
from shipvlm.errors import GateError, InputError
from shipvlm.recipe import GateSection

Result = Annotated[Path, typer.Argument(help="Folder of a result.")]


@group.command()
def report(
    result: Result,
    raw: Annotated[bool, typer.Option("--raw", help="Make bench.json anew too, from the raw lines.")] = False,
) -> None:
    """Write the page and the Markdown of a result again, from its bench.json.

    Of a run that was cut off, the report is made of what was measured, and says how much is missing.
    """
    from bench.plan import references
    from bench.results import folder_of
    from shipvlm.artifact import MANIFEST, read_manifest, verify, write_manifest

    folder = folder_of(result)
    if (folder / MANIFEST).is_file():
        # What later answers are held to is large, and nothing is derived from it: a committed result has none.
        verify(folder, spare=[references(folder).relative_to(folder).as_posix()])
    found = _rendered(folder, raw)
    if (folder / MANIFEST).is_file():  # its files are others now, and still those of this result
        kept = {name: value for name, value in read_manifest(folder).items() if name not in ("schema_version", "files")}
        write_manifest(folder, kept)
    from bench.markdown import verdict

    print(verdict(found))
    print(f"\nreport: {folder / 'index.html'}")


@group.command()
def gate(
    result: Annotated[Path, typer.Argument(help="Folder of a result, or its bench.json.")],
    recipe: Annotated[Path | None, typer.Option(help="Recipe whose section `gates` is asked.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Judge a result: exits with 0 on PASS, with 1 on FAIL and on INCONCLUSIVE.

    Asked is what the recipe or --set gates.NAME=VALUE says; without both, what was asked when it was measured. Of a run
    that was cut off, what was measured is judged.
    """
    from bench.findings import headline
    from bench.gate import judge
    from bench.markdown import verdict
    from bench.results import read

    found = read(result)
    if found["candidate"] == (baseline := found["baseline"]):
        raise InputError(
            f"{result}: nothing was compared, {baseline} is the only folder that was measured; give bench run the "
            f"folder to judge too: shipvlm bench run {baseline} CANDIDATE -o OUT"
        )
    judgement = judge(found, _gates(found, recipe, settings or []))
    if judgement is None:
        raise InputError("no gate is set: give --recipe FILE with a section gates, or --set gates.score=0.02")
    judged = found | {"judgement": judgement.as_dict()}
    if as_json:
        print_json(judgement.as_dict())
    else:
        print(verdict(judged))
    if judgement.verdict != "PASS":
        unfinished = "" if found["complete"] else " The run was cut off: give its command again, and it goes on."
        raise GateError(f"{judgement.verdict}: {headline(judged)[1]}{unfinished}")


@group.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A result: its folder, with plan.json and observations.")],
    second: Annotated[Path, typer.Argument(help="Another one, perhaps of another machine.")],
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant", help="Variant of the first, then of the second; once: of both; else what each is about."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold the second result against the first: answers item by item; times only where machine and setup are one."""
    names: list[str | None] = list(variants or [])
    if len(names) > 2:
        raise InputError("--variant is given at most twice: for the first result, then for the second")
    from bench.compare import compare as compared
    from bench.compare_markdown import markdown

    left, right = [*names, None, None][:2] if len(names) != 1 else names * 2
    found = compared(first, second, left, right)
    if as_json:
        print_json(found)
    else:
        print(markdown(found), end="")


def _rendered(folder: Path, raw: bool) -> dict[str, Any]:
    from bench.report import rebuild, render
    from bench.results import is_cut_off, read_report

    if not raw and not is_cut_off(folder):
        found = read_report(folder)
        render(folder, found)
        return found
    from bench import plan
    from calib_data.load import SHIPPED, load_records

    data = plan.read(folder).data["name"]
    records = load_records(data) if data in SHIPPED else ()  # other data only has its name here: no pictures
    return rebuild(folder, records)


def _gates(found: dict[str, Any], recipe: Path | None, settings: list[str]) -> GateSection:
    from pydantic import ValidationError

    from shipvlm.recipe_file import make_recipe, read_recipe

    if other := [text for text in settings if not text.startswith("gates.")]:
        raise InputError(f"--set {other[0]}: only gates are asked here, such as gates.score=0.02")
    if recipe:
        return read_recipe(recipe, settings).gates
    if settings:
        values = {"name": "gates", "model": {"path": "."}}
        asked = make_recipe(values, settings).gates
        named = {text.removeprefix("gates.").partition("=")[0].partition(".")[0] for text in settings}
        return asked if "score" in named else asked.model_copy(update={"score": None})
    try:
        return GateSection.model_validate(found["gates"])
    except ValidationError as error:
        raise InputError(
            f"the gates that this result was measured with cannot be read ({error.errors()[0]['msg']}: "
            f"gates.{'.'.join(map(str, error.errors()[0]['loc']))}); give --recipe or --set"
        ) from error
