"""Named cases, and how records become their requests."""

from typing import get_args

import numpy as np
import pytest

from bench.salt import salted
from bench.workloads import CASES, ask, batches, lengthened, requests
from calib_data.records import picture
from shipvlm.families.qwen3_vl.processor import load_processor
from shipvlm.recipe import Workload
from shipvlm.runtime.inputs import encode
from tests.bench.made_jobs import PAIR, SMALL
from tests.bench.made_records import records


@pytest.fixture(scope="module")
def processor(tiny_checkpoint):
    return load_processor(tiny_checkpoint)


def test_a_recipe_can_ask_for_each_case_by_its_name():
    assert set(get_args(Workload)) == set(CASES)
    assert all(case.name == name for name, case in CASES.items())
    assert all(case.width % 32 == case.height % 32 == 0 for case in CASES.values())  # no processor resizes


@pytest.mark.parametrize("case", [SMALL, PAIR])
def test_every_request_of_a_case_is_of_its_shape(processor, case):
    data = records(6)
    asked = requests(case, data, processor.tokenizer, "s")
    batch = encode(processor, asked)
    assert {grids for grids in batch.grids} == {((1, case.height // 16, case.width // 16),)}
    words = [len(processor.tokenizer(request.prompt)["input_ids"]) for request in asked]
    assert all(case.prompt_tokens <= count <= case.prompt_tokens + 2 for count in words)
    assert asked[0].prompt.startswith(data[0].prompt[:4])


def test_pictures_of_one_batch_are_salted_apart(processor):
    same = [records(1)[0]] * 3
    asked = requests(SMALL, same, processor.tokenizer, "s")
    assert len({request.images[0].tobytes() for request in asked}) == 3
    resized = picture(same[0]).resize((64, 64), 3)
    assert asked[1].images[0].tobytes() == salted(resized, "s/1").tobytes()


@pytest.mark.parametrize("tokens", [1, 4, 30, 200])
def test_a_prompt_is_cut_or_continued_to_a_number_of_tokens(processor, tokens):
    found = lengthened("what is the total", tokens, processor.tokenizer)
    assert tokens <= len(processor.tokenizer(found)["input_ids"]) <= tokens + 2


def test_a_record_is_asked_as_it_is():
    record = records(1)[0]
    request = ask(record)
    assert request.prompt == record.prompt
    np.testing.assert_array_equal(np.asarray(request.images[0]), np.asarray(picture(record)))


def test_batches_are_of_pictures_of_similar_size():
    data = records(20)
    found = batches(data, 6)
    assert [len(batch) for batch in found] == [6, 6, 6, 2]
    assert sorted(record.id for batch in found for record in batch) == sorted(record.id for record in data)
    sizes = [np.prod(picture(record).size) for batch in found for record in batch]
    assert sizes == sorted(sizes)
    assert batches(list(reversed(data)), 6) == found
