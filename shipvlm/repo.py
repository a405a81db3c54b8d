"""The name of a repository on a hub: owner/name, and nothing that means something else in a path or an address."""

import re

from shipvlm.errors import InputError

REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*")


def is_repo(repo: str) -> bool:
    """Whether `repo` is owner/name. Neither part is `..` or begins with a dash."""
    return REPO.fullmatch(repo) is not None


def checked_repo(repo: str) -> str:
    """`repo` when it is owner/name. Raises `InputError` otherwise."""
    if not is_repo(repo):
        raise InputError(f"{repo!r} is no repository; give owner/name, such as Qwen/Qwen3-VL-8B-Instruct")
    return repo
