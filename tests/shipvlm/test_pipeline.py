"""Which records a stage is given."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib_data.records import TASKS, Record
from shipvlm.cli.pipeline import spread
from shipvlm.errors import InputError


def record(number: int, task: str) -> Record:
    fields = {"id": str(number), "task": task, "image": b"x", "prompt": "p", "answers": ("a",), "source": "s"}
    return Record.model_validate(fields | {"licence": "l"})


@given(st.lists(st.sampled_from(TASKS), min_size=1, max_size=60), st.data())
def test_records_are_spread_over_the_tasks(tasks: list[str], data: st.DataObject) -> None:
    records = [record(number, task) for number, task in enumerate(tasks)]
    count = data.draw(st.integers(1, len(records)))
    chosen = spread(records, count)
    assert len({one.id for one in chosen}) == len(chosen) == count
    there = Counter(tasks)
    for task, found in Counter(one.task for one in chosen).items():
        assert abs(found - count * there[task] / len(tasks)) <= 1
    assert spread(records, None) == records
    with pytest.raises(InputError, match=f"{len(records) + 1} records are asked for"):
        spread(records, len(records) + 1)
