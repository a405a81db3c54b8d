"""Which files of a repository are fetched: what a checkpoint or an adapter is loaded from, and what --include names.

The listing comes from outside. Weights are safetensors as the index names them; pickles and code are never among
the files, whatever a listing, an index or a pattern says.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from fetch.source import Listing, RemoteFile
from shipvlm.data_files import is_document, is_pickle, refused
from shipvlm.errors import InputError
from shipvlm.folder import SIDE_FILES, WEIGHTS, WEIGHTS_INDEX
from shipvlm.lock import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Lock, safe_path, some

CONVENTION = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors")


@dataclass(frozen=True)
class Needed:
    """What to fetch of one listing, the weights apart: which of them are needed is told by the index."""

    side: tuple[RemoteFile, ...]  # configs, tokenizer, processor, template, index; what --include named
    documents: tuple[RemoteFile, ...]
    weights: tuple[RemoteFile, ...]  # all that an index can mean
    asked: tuple[RemoteFile, ...]  # safetensors that --include or a lock names: fetched with the weights
    adapter: bool  # a LoRA adapter, no checkpoint


def needed(listing: Listing, include: Sequence[str] = ()) -> Needed:
    """What to fetch of `listing`, with the files that the patterns `include` name.

    Raises `InputError` for a repository without safetensors weights, a path that leaves the folder, and a pattern
    that fits nothing, or a file that is neither text, pictures nor safetensors.
    """
    top = {file.path: file for file in listing.files}
    adapter = ADAPTER_CONFIG in top and not {WEIGHTS, WEIGHTS_INDEX} & set(top)
    if adapter:
        weights = [ADAPTER_WEIGHTS]
    elif WEIGHTS_INDEX in top:
        weights = [path for path in top if "/" not in path and _is_weights(path)]
    else:
        weights = [WEIGHTS]
    if not weights or not set(weights) <= set(top):
        raise _no_weights(listing)
    named = included(listing, include)
    side = [path for path in (*SIDE_FILES, WEIGHTS_INDEX, ADAPTER_CONFIG) if path in top]
    documents = [path for path in top if is_document(path)]
    return Needed(
        side=_files(top, [*side, *(path for path in named if not _is_weights(path))]),
        documents=_files(top, [path for path in documents if path not in named]),
        weights=_files(top, weights),
        asked=_files(top, [path for path in named if _is_weights(path)]),
        adapter=adapter,
    )


def locked(listing: Listing, lock: Lock) -> Needed:
    """What to fetch of `listing` to get the files of `lock`, those that are there; the documents are those there."""
    top = {file.path: file for file in listing.files}
    files = _files(top, [path for path in lock.files if path in top])
    weights = tuple(file for file in files if _is_weights(file.path))
    return Needed(
        side=tuple(file for file in files if file not in weights),
        documents=_files(top, [path for path in top if is_document(path) and path not in lock.files]),
        weights=weights,
        asked=weights,
        adapter=ADAPTER_CONFIG in lock.files and not {WEIGHTS, WEIGHTS_INDEX} & set(lock.files),
    )


def included(listing: Listing, patterns: Iterable[str]) -> list[str]:
    """Paths that fit the patterns (`*` goes over slashes too). Raises `InputError` as `needed` does."""
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = [file.path for file in listing.files if fnmatchcase(file.path, pattern)]
        if not fitting:
            raise InputError(f"--include {pattern}: fits no file of {listing.repo}; see its files on its page")
        for path in fitting:
            if problem := refused(path) if _is_safe(path) else "does not stay inside the folder":
                raise InputError(f"--include {pattern}: {path!r} {problem}; give a pattern without it")
        found |= dict.fromkeys(fitting)
    return list(found)


def likely(choice: Needed) -> list[RemoteFile]:
    """The weights, as long as the index that names them is not there: those with the usual names."""
    return [file for file in choice.weights if file in choice.asked or CONVENTION.fullmatch(file.path)]


def chosen_weights(listing: Listing, choice: Needed, index: Path) -> tuple[RemoteFile, ...]:
    """The weights that the file `index` names; those of `choice` where there is no such file.

    Raises `InputError` when it is no index, or names what `listing` does not have: it is told before the download.
    """
    if choice.adapter or not index.is_file():
        return tuple(dict.fromkeys((*choice.weights, *choice.asked)))
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({*weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{listing.repo}: its {WEIGHTS_INDEX} has no weight_map; try another revision") from error
    there = {file.path: file for file in choice.weights}
    if absent := [ascii(str(name))[1:-1] for name in names if name not in there]:
        raise InputError(
            f"{listing.repo}: {WEIGHTS_INDEX} names {some(absent)}, which its list does not have as safetensors "
            f"(commit {listing.commit}): the repository is not complete there; try another --revision or --source"
        )
    if not names:
        raise InputError(f"{listing.repo}: its {WEIGHTS_INDEX} names no weights; try another revision")
    return tuple(dict.fromkeys((*_files(there, names), *choice.asked)))


def _is_weights(path: str) -> bool:
    return path.endswith(".safetensors") and _is_safe(path)


def _is_safe(path: str) -> bool:
    try:
        return safe_path(path) == path
    except ValueError:
        return False


def _no_weights(listing: Listing) -> InputError:
    pickles = [file.path for file in listing.files if is_pickle(file.path)]
    if pickles:
        return InputError(
            f"{listing.repo}: its weights are pickle files ({some(pickles)}), which can run code when they are "
            "loaded, and are never fetched; look for a repository or a revision with safetensors"
        )
    return InputError(
        f"{listing.repo}: has no safetensors weights ({WEIGHTS}, {WEIGHTS_INDEX} or {ADAPTER_WEIGHTS}); "
        "is it the repository of a checkpoint?"
    )


def _files(there: dict[str, RemoteFile], paths: Iterable[str]) -> tuple[RemoteFile, ...]:
    return tuple(there[path] for path in dict.fromkeys(paths))
