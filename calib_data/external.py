"""Public evaluation sets by name: a file in tasks/ says where one is and how its rows become records.

    chartqa            from the hub, through `datasets`
    chartqa@FOLDER     from a copy of the data set's repository

The prompts are one line beside the question. Their wording is the one under which scores are usually published.
"""

import ast
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict

from calib_data.records import Task
from shipvlm.errors import InputError

TASKS = Path(__file__).parent / "tasks"
NAMES = tuple(sorted(path.stem for path in TASKS.glob("*.yaml")))
Row = tuple[int, Mapping[str, Any] | str]  # number from 1; a text is the reason why the row cannot be read
log = logging.getLogger(__name__)


class External(BaseModel):
    """One file of tasks/. `image`, `question`, `choices`, `answers` and `id` name columns.

    `rule` is the task of its records, and so how they are scored; `exceptions` is {column: {value: another rule}}.
    `only` is {column: value} of the rows that are taken, `empty` the columns that must hold nothing in them. `replace`
    is done in question and choices. `prompt` has {question} and {choices}, the choices as `A. text`, a line each.
    `covers` says in words which part of the set this is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    config: str | None = None
    split: str
    page: str
    licence: str
    covers: str
    rule: Task
    exceptions: dict[str, dict[str, Task]] = {}
    id: str | None = None
    image: str
    question: str
    choices: str | None = None
    answers: str
    answers_are: Literal["text", "letter", "index"] = "text"
    only: dict[str, str] = {}
    empty: tuple[str, ...] = ()
    replace: dict[str, str] = {}
    prompt: str


class Source(NamedTuple):
    """Where a set is read from: `place` is an id of the hub, or the folder of a copy."""

    name: str
    place: str
    task: External


def find(spec: str) -> Source | None:
    """The set that `spec` names; None where its name is none of NAMES.

    Raises InputError for a copy that is not there.
    """
    name, at, folder = spec.partition("@")
    if name not in NAMES:
        return None
    task = External.model_validate(yaml.safe_load((TASKS / f"{name}.yaml").read_text(encoding="utf-8")))
    if at and not Path(folder).is_dir():
        raise InputError(f"{spec}: there is no folder {folder!r} with a copy of {task.dataset}")
    return Source(name, folder or task.dataset, task)


def as_records(source: Source, rows: Iterable[Row]) -> Iterator[Row]:
    """The fields of a record for each row that is taken; how many were left out is logged as a warning at the end."""
    left: Counter[str] = Counter()
    taken = 0
    for number, row in rows:
        made: Mapping[str, Any] | str = row
        try:
            if not isinstance(row, str):
                if reason := _left_out(source.task, row):
                    left[reason] += 1
                    continue
                made = _fields(source, row)
        except InputError as error:
            made = str(error)
        taken += 1
        yield number, made
    if left:
        reasons = "; ".join(f"{count} {reason}" for reason, count in sorted(left.items()))
        log.warning("%s: %d of %d rows are left out: %s", source.name, left.total(), taken + left.total(), reasons)


def _left_out(task: External, row: Mapping[str, Any]) -> str | None:
    for column, value in task.only.items():
        if _cell(row, column) != value:
            return f"are not {value} ({column})"
    if any(_cell(row, column) is not None for column in task.empty):
        return "have several pictures"
    return None


def _fields(source: Source, row: Mapping[str, Any]) -> dict[str, Any]:
    task = source.task
    rule = task.rule
    for column, values in task.exceptions.items():
        rule = values.get(_cell(row, column), rule)
    choices = _choices(_cell(row, task.choices)) if task.choices else []
    answers = _cell(row, task.answers)
    if task.answers_are != "text":
        answers = _right_choice(str(answers), choices, task.answers_are)
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))
    question = str(_cell(row, task.question)).strip()
    for before, after in task.replace.items():
        question, lines = question.replace(before, after), lines.replace(before, after)
    return {
        **({"id": str(_cell(row, task.id))} if task.id else {}),
        "task": rule,
        "image": _cell(row, task.image),
        "prompt": task.prompt.format(question=question, choices=lines),
        "answers": answers,
        "source": source.name,
        "licence": task.licence,
    }


def _cell(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise InputError(f"the column {column!r} is missing: it has {', '.join(map(repr, row))}")
    return row[column]


def _choices(cell: Any) -> list[str]:
    """A list, or the text of one."""
    try:
        found = ast.literal_eval(cell) if isinstance(cell, str) else cell
    except (ValueError, SyntaxError) as error:
        raise InputError(f"the choices {cell!r} are no list") from error
    if not isinstance(found, list) or not 2 <= len(found) <= len(ascii_uppercase):
        raise InputError(f"the choices {cell!r} are no list of 2 to {len(ascii_uppercase)}")
    return [str(choice).strip() for choice in found]


def _right_choice(answer: str, choices: list[str], kind: str) -> list[str]:
    """The letter of the right choice, and its text."""
    index = ascii_uppercase.find(answer) if kind == "letter" else int(answer) if answer.isdecimal() else -1
    if len(answer) == 0 or not 0 <= index < len(choices):
        raise InputError(f"the answer {answer!r} is none of the {len(choices)} choices")
    return [ascii_uppercase[index], *filter(None, [choices[index]])]
