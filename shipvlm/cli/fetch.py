"""shipvlm fetch: a checkpoint from a hub, a mirror, ModelScope or a folder, pinned and verified."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError

from shipvlm.cli.common import AsJson, app, print_json
from shipvlm.errors import InputError, Interrupted
from shipvlm.lock import LOCK, files_digest
from shipvlm.recipe import ModelSection, Source
from shipvlm.repo import is_repo

if TYPE_CHECKING:
    from fetch.stage import Fetched


@app.command()
def fetch(
    context: typer.Context,
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on a hub, or a folder of this machine.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder; checkpoints/NAME when left out.")] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; the default branch when left out.")
    ] = None,
    source: Annotated[Source, typer.Option(help="auto asks both; the Hub says what the bytes are.")] = "auto",
    endpoint: Annotated[
        str | None, typer.Option(help="Address of a mirror; HF_ENDPOINT or MODELSCOPE_ENDPOINT when left out.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Further files, as a pattern such as 'docs/*'; may be repeated.")
    ] = None,
    lock: Annotated[
        Path | None, typer.Option(help=f"A {LOCK}: exactly these files, wherever they come from, or none.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a token; HF_TOKEN or the stored login when left out.")
    ] = None,
    allow_token_to_endpoint: Annotated[
        bool, typer.Option("--allow-token-to-endpoint", help="Send the token to a mirror too: it can use it.")
    ] = False,
    lang: Annotated[
        Literal["en", "zh"] | None, typer.Option(help="Language of what a source's refusal means; that of the locale.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a checkpoint or a LoRA adapter: pinned to a commit, every byte hashed, no pickles, no code.

    A run that was broken off goes on where it was. A second run verifies what is there and fetches only what is wrong.
    """
    from fetch.access import AccessError, commands
    from fetch.existing import part_of_another
    from fetch.stage import fetch as fetch_repo
    from fetch.stage import fetch_folder
    from shipvlm.cli.progress import bytes_shown

    context.ensure_object(dict)["lang"] = lang
    patterns = tuple(include or ())
    folder = _folder(repo, source)
    target = out or Path("checkpoints") / (folder.resolve().name if folder else repo.partition("/")[2])
    try:
        with bytes_shown() as (progress, say):
            if folder:
                if revision or endpoint or token_file or allow_token_to_endpoint:
                    raise InputError(f"{repo}: is a folder: give it without the options of hubs")
                done = fetch_folder(folder, target, progress, say, patterns, lock)
            else:
                section = _section(
                    path=target,
                    repo=repo,
                    revision=revision,
                    source=source,
                    endpoint=endpoint,
                    include=patterns,
                    lock=lock,
                )
                done = fetch_repo(section, progress, say, token_file, allow_token_to_endpoint)
    except AccessError as error:
        raise error.also(
            **commands(
                repo,
                out,
                revision,
                source,
                endpoint,
                patterns,
                lock,
                token_file,
                allow_token_to_endpoint,
                part=target if part_of_another(target, "modelscope", lock) else None,
            )
        ) from error
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped; what came is kept in {target}, the same command goes on from there") from error
    if as_json:
        print_json(_facts(done))
    else:
        _print(done)


def _folder(repo: str, source: Source) -> Path | None:
    """The folder that `repo` names, None when it is a repository. Raises `InputError` when it is neither, or both."""
    path, named = Path(repo), is_repo(repo)
    if path.is_dir() and source == "auto":
        if named and not repo.startswith((".", "/")):
            raise InputError(f"{repo}: is a folder here, and may be a repository: give ./{repo}, or --source hf")
        return path
    if not named or repo.startswith("."):
        raise InputError(f"{repo}: no such folder, and no OWNER/NAME of a hub such as Qwen/Qwen3-VL-8B-Instruct")
    return None


def _section(**values: Any) -> ModelSection:
    try:
        return ModelSection(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{first['loc'][0]}: {first['input']!r} is none; leave it out, or give one") from error


def _facts(done: "Fetched") -> dict[str, Any]:
    lock = done.lock
    sizes = [file.bytes for file in (*lock.files.values(), *lock.documents.values())]
    return {
        "folder": str(done.folder),
        **lock.model_dump(mode="json", include={"repo", "revision", "commit", "source", "endpoint", "licence"}),
        "terms": done.terms,
        "adapter": done.adapter,
        "kept": done.kept,
        "state": done.state,
        "from": done.label,
        "files": len(sizes),
        "bytes": sum(sizes),
        "fetched_bytes": done.bytes,
        "seconds": round(done.seconds, 3),
        "lock": str(done.folder / LOCK),
        "digest": files_digest(lock),
    }


def _print(done: "Fetched") -> None:
    from rich.filesize import decimal

    from fetch.card import licence_line

    facts, lock = _facts(done), done.lock
    what = f"{facts['files']} files, {decimal(facts['bytes'])}"
    if done.kept:
        print(f"{done.folder}: {lock.repo}, kept: {what}, verified; {done.state}")
    else:
        named = f" ({lock.revision})" if lock.revision not in (None, lock.commit) else ""
        at = f" at {lock.commit}{named}" if lock.commit else named
        rate = f", {decimal(int(done.bytes / done.seconds))}/s"
        print(f"{done.folder}: {lock.repo}{at}: {what}, verified")
        print(f"from {done.label}: {decimal(done.bytes)} in {done.seconds:.1f} s{rate}")
        print(licence_line(lock.licence, list(lock.documents), done.folder))
    if done.terms:
        print(f"terms: {done.terms}")
    print(f"lock: {facts['lock']}")
    if done.adapter:
        print(f"next: a LoRA adapter: name it in a recipe's model.adapters, as {done.folder}")
    else:
        print(f"next: shipvlm plan recipes/int8-cpu.yaml --set {shlex.quote(f'model.path={done.folder}')}")
