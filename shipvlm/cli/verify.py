"""shipvlm verify: is a folder still what was built, or what was fetched?"""

from pathlib import Path
from typing import Annotated

import typer

from shipvlm.cli.common import AsJson, app, megabytes, print_json


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Any folder that shipvlm run, quantize, convert or fetch wrote.")],
    as_json: AsJson = False,
) -> None:
    """Hash every file again and compare with manifest.json, of a fetched folder with checkpoint.lock.json.

    Exits with 1 when one changed, is missing or is not in it. The digest printed stands for the whole folder: it is
    the sha256 of the manifest, of a fetched folder that of the table of its files, the same from every source.
    """
    from shipvlm.artifact import MANIFEST, folder_digest, verify
    from shipvlm.cli.progress import bars_shown
    from shipvlm.lock import LOCK, check_finished, files_digest, verify_lock

    check_finished(folder)
    if (folder / LOCK).is_file() and not (folder / MANIFEST).is_file():
        with bars_shown(not as_json) as progress:
            lock = verify_lock(folder, progress)
        sizes = [file.bytes for file in (*lock.files.values(), *lock.documents.values())]
        state, digest = f"as locked: {lock.repo}" + (f" at {lock.commit}" if lock.commit else ""), files_digest(lock)
    else:
        with bars_shown(not as_json) as progress:
            sizes = [file["bytes"] for file in verify(folder, progress)["files"].values()]
        state, digest = "as built", folder_digest(folder)
    if as_json:
        print_json({"folder": str(folder), "files": len(sizes), "bytes": sum(sizes), "digest": digest})
    else:
        print(f"{folder}: {len(sizes)} files, {megabytes(sum(sizes))}, {state}; digest {digest}")
