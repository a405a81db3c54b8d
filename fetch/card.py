"""The licence of a fetched model, as its card says it: the front matter of README.md, in words that may be printed."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import metadata_load

from shipvlm.words import plain

CARD = "README.md"
LONGEST = 200  # characters of what a card says


def licence(folder: Path) -> str | None:
    """The licence that the model card in `folder` names, such as `apache-2.0` or `other: name (link)`.

    None without a card, without front matter that can be read, and where that names none.
    """
    if not (folder / CARD).is_file():
        return None
    try:
        card: dict[str, Any] = metadata_load(folder / CARD) or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    said, name, link = (_words(card.get(key)) for key in ("license", "license_name", "license_link"))
    if said == "other" or not said:
        said = ": ".join(part for part in (said, name) if part)
    return (f"{said} ({link})" if said and link else said) or None


def licence_line(said: str | None, documents: list[str], folder: Path) -> str:
    """What is printed once after a fetch."""
    kept = f"{', '.join(sorted(documents))} kept in {folder}"
    if said:
        return f"licence: {said} ({kept})" if documents else f"licence: {said}; the source has no text of it"
    if documents:
        return f"licence: none named; read {kept}"
    return "licence: none, and no model card: nothing says that you may use it"


def _words(value: object) -> str:
    """A word or a list of words, as one."""
    words = value if isinstance(value, list) else [value]
    text = ", ".join(str(word) for word in words if isinstance(word, str | int | float))
    return plain(text, LONGEST)
