"""What a fetched folder may consist of: data that nothing runs. One rule for lists, for patterns and for locks."""

import re
from pathlib import PurePosixPath

from shipvlm.folder import GRAPHS, MANIFEST

DATA = (
    *(".safetensors", ".json", ".jsonl", ".jinja", ".yaml", ".yml", ".csv", ".tsv", ".parquet", ".model", ".tiktoken"),
    *(".md", ".txt", ".rst", ".pdf", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4"),
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
DOCUMENT = re.compile(r"readme\.md|(licen[cs]e|notice|use_policy)([._-][a-z0-9._-]*)?", re.IGNORECASE)
TEXT = ("", ".md", ".txt", ".rst")
OURS = (MANIFEST, GRAPHS)  # files by which a folder says that shipvlm built it


def refused(path: str) -> str | None:
    """Why a file is not fetched though a pattern or a lock names it, None when it may be."""
    if is_pickle(path):
        return "is a format that can run code when it is loaded (pickle and the like), and is never fetched"
    if path.casefold() in OURS:
        return "has a name by which a folder says that shipvlm built it"
    if PurePosixPath(path).suffix.lower() not in DATA and not is_document(PurePosixPath(path).name):
        return f"is none of the data that is fetched ({', '.join(DATA)})"
    return None


def is_pickle(path: str) -> bool:
    """Whether a file has the suffix of a format that can run code when it is loaded."""
    return PurePosixPath(path).suffix.lower() in PICKLES


def is_document(path: str) -> bool:
    """Whether `path` is the model card, a licence or a notice, at the top of a repository."""
    return bool(DOCUMENT.fullmatch(path)) and PurePosixPath(path).suffix.lower() in TEXT
