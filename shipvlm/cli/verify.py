"""shipvlm verify: is a folder still what was built?"""

from pathlib import Path
from typing import Annotated

import typer

from shipvlm.cli.common import AsJson, app, megabytes, print_json


@app.command()
def verify(
    folder: Annotated[
        Path, typer.Argument(help="Artifact, or any folder that shipvlm run, quantize or convert wrote.")
    ],
    as_json: AsJson = False,
) -> None:
    """Hash every file again and compare with manifest.json. Exits with 1 when one changed, is missing or is not in it.

    The digest printed is the sha256 of the manifest: one number that stands for the whole folder.
    """
    from shipvlm.artifact import folder_digest, verify

    files = verify(folder)["files"]
    size = sum(file["bytes"] for file in files.values())
    if as_json:
        print_json({"folder": str(folder), "files": len(files), "bytes": size, "digest": folder_digest(folder)})
    else:
        print(f"{folder}: {len(files)} files, {megabytes(size)}, as built; digest {folder_digest(folder)}")
