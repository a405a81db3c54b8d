"""The loop against transformers' own `generate` and against the definition of greedy decoding, one by one and in
batches; where answers end; what is handed out as they grow; what the clock says."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText

from shipvlm.errors import ExecutionError, InputError
from shipvlm.runtime.checkpoint import Checkpoint, load, prepare
from shipvlm.runtime.generate import Answer, generate
from shipvlm.runtime.inputs import Request, encode
from shipvlm.runtime.model import open_model
from shipvlm.runtime.sampling import Sampling
from tests.shipvlm.made_requests import REQUESTS, picture, requests


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load(tiny_checkpoint)


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()


def tokens(answers: list[Answer]) -> list[list[int]]:
    return [answer.token_ids for answer in answers]


def transformers_tokens(model: Any, checkpoint: Checkpoint, batch: list[Request], **more: Any) -> list[list[int]]:
    """What transformers generates for a batch, each answer up to its end token."""
    inputs = prepare(checkpoint, batch)
    end, pad = checkpoint.end_ids, checkpoint.processor.tokenizer.pad_token_id
    rows = model.generate(**inputs, **{"do_sample": False, "eos_token_id": end, "pad_token_id": pad, **more})
    found = []
    for row in rows[:, inputs["input_ids"].shape[1] :].tolist():
        found.append(row[: next((place for place, token in enumerate(row) if token in end), len(row))])
    return found


def argmax_loop(model: torch.nn.Module, checkpoint: Checkpoint, request: Request, length: int) -> list[int]:
    """Greedy decoding by its definition: the whole sequence again for every token, no cache, no `generate`."""
    inputs = dict(prepare(checkpoint, [request]))
    found: list[int] = []
    with torch.inference_mode():
        while len(found) < length:
            token = model(**inputs, use_cache=False).logits[0, -1].argmax().item()
            if token in checkpoint.end_ids:
                break
            found.append(token)
            for name, value in (("input_ids", token), ("attention_mask", 1), ("mm_token_type_ids", 0)):
                inputs[name] = torch.cat([inputs[name], torch.tensor([[value]])], dim=1)
    return found


@pytest.fixture
def ends_early(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """The checkpoint with one more end token, which comes in the middle of some answers."""
    generation = checkpoint.model.generation_config
    whole = tokens(generate(checkpoint, REQUESTS, Sampling(6)))
    end = next(token for answer in whole for place, token in enumerate(answer) if place and token != answer[0])
    stored, generation.eos_token_id = generation.eos_token_id, [end, *generation.eos_token_id]
    yield checkpoint
    generation.eos_token_id = stored


def test_batches_answer_as_single_requests_and_as_the_definition(
    checkpoint: Checkpoint, plain: torch.nn.Module
) -> None:
    single = generate(checkpoint, REQUESTS, Sampling(8), batch_size=1)
    assert generate(checkpoint, REQUESTS, Sampling(8), batch_size=5) == single
    assert generate(checkpoint, REQUESTS, Sampling(8), batch_size=2) == single
    for request, answer in zip(REQUESTS, single, strict=True):
        assert answer.token_ids == argmax_loop(plain, checkpoint, request, 8)
        assert answer.text == checkpoint.processor.tokenizer.decode(answer.token_ids).strip()
    assert len({tuple(answer.token_ids) for answer in single}) > 1, "the answers must depend on the request"


@settings(max_examples=25, deadline=None)
@given(batch=st.lists(requests(), min_size=1, max_size=4), penalty=st.sampled_from([1.0, 1.3]))
def test_answers_are_those_of_transformers(
    checkpoint: Checkpoint, plain: torch.nn.Module, batch: list[Request], penalty: float
) -> None:
    ours = generate(checkpoint, batch, Sampling(6, repetition_penalty=penalty))
    # transformers also penalises its padding token, so with a penalty it is asked one by one.
    parts = [batch] if penalty == 1 else [[request] for request in batch]
    theirs = [
        row
        for part in parts
        for row in transformers_tokens(plain, checkpoint, part, max_new_tokens=6, repetition_penalty=penalty)
    ]
    assert tokens(ours) == theirs


def test_an_answer_ends_before_the_end_token(checkpoint: Checkpoint, ends_early: Checkpoint) -> None:
    end = ends_early.end_ids[0]
    whole = tokens(generate(checkpoint, REQUESTS, Sampling(6, ignore_end=True)))
    cut = generate(ends_early, REQUESTS, Sampling(6))
    assert tokens(cut) == [answer[: answer.index(end)] if end in answer else answer for answer in whole]
    assert [answer.finish for answer in cut] == ["end" if end in answer else "length" for answer in whole]
    assert {answer.finish for answer in cut} == {"end", "length"}
    assert generate(ends_early, REQUESTS, Sampling(6), batch_size=1) == cut  # rows that ended left the batch


def test_ignoring_the_end_makes_all_tokens(ends_early: Checkpoint) -> None:
    answers = generate(ends_early, REQUESTS, Sampling(7, ignore_end=True, stop=("e",)))
    assert {len(answer.token_ids) for answer in answers} == {7}
    assert {answer.finish for answer in answers} == {"length"}
    assert {len(answer.seconds.decode) for answer in answers} == {6}


def test_rows_that_ended_are_not_computed_on(ends_early: Checkpoint) -> None:
    ends = [answer.finish == "end" for answer in generate(ends_early, REQUESTS, Sampling(9))]
    early = [request for request, ended in zip(REQUESTS, ends, strict=True) if ended]
    chosen = [*early * 3, REQUESTS[ends.index(False)]]
    rows: list[int] = []
    embedding = ends_early.model.model.language_model.embed_tokens
    handle = embedding.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    answers = generate(ends_early, chosen, Sampling(9), batch_size=len(chosen))
    handle.remove()
    assert rows[0] == len(chosen)
    assert rows[-1] == 1
    assert len(rows) == 9, "one forward a token"
    assert answers[-1].finish == "length"


def test_a_stop_string_ends_the_text_before_it(checkpoint: Checkpoint) -> None:
    whole = generate(checkpoint, REQUESTS, Sampling(12))
    text = next(answer.text for answer in whole if len(answer.text) > 6)
    stop = (text[3:5], text[4:6])
    found = generate(checkpoint, REQUESTS, Sampling(12, stop=stop))
    for before, after in zip(whole, found, strict=True):
        places = [before.text.find(each) for each in stop if each in before.text]
        assert after.text == (before.text[: min(places)].strip() if places else before.text)
        assert after.finish == ("stop" if places else before.finish)
        assert after.token_ids == before.token_ids[: len(after.token_ids)]
    assert "stop" in {answer.finish for answer in found}


@pytest.mark.parametrize("stop", [(), ("e", "re", "\n")])
def test_what_is_streamed_is_the_text(checkpoint: Checkpoint, stop: tuple[str, ...]) -> None:
    pieces: dict[int, list[str]] = {place: [] for place in range(len(REQUESTS))}
    answers = generate(
        checkpoint, REQUESTS, Sampling(24, stop=stop), 2, on_text=lambda place, piece: pieces[place].append(piece)
    )
    assert ["".join(pieces[place]) for place in range(len(REQUESTS))] == [answer.text for answer in answers]
    assert all(piece for each in pieces.values() for piece in each)
    assert max(len(each) for each in pieces.values()) > 1
    assert answers == generate(checkpoint, REQUESTS, Sampling(24, stop=stop), 2)


def test_sampling_repeats_with_its_seed_whatever_the_batch(checkpoint: Checkpoint) -> None:
    hot = Sampling(8, temperature=1.5, top_p=0.95, top_k=50, seed=7)
    first = generate(checkpoint, REQUESTS, hot)
    assert generate(checkpoint, REQUESTS, hot, batch_size=2) == first
    assert generate(checkpoint, REQUESTS, replace(hot, seed=8)) != first
    same = generate(checkpoint, [REQUESTS[0]] * 4, hot)
    assert len({tuple(answer.token_ids) for answer in same}) > 1, "each request has its own random numbers"
    greedy = generate(checkpoint, REQUESTS, Sampling(8))
    assert generate(checkpoint, REQUESTS, replace(hot, top_k=1)) == greedy
    assert generate(checkpoint, REQUESTS, replace(hot, top_p=1e-9)) == greedy


def test_the_laps_add_up_to_the_time_it_took(checkpoint: Checkpoint) -> None:
    start = time.perf_counter()
    answers = generate(checkpoint, REQUESTS, Sampling(8, ignore_end=True), batch_size=len(REQUESTS))
    took = time.perf_counter() - start
    [seconds] = {answer.seconds for answer in answers}
    parts = [seconds.preprocess, seconds.vision, seconds.prefill, *seconds.decode, seconds.detokenise]
    assert len(parts) == 11
    assert all(part > 0 for part in parts)
    assert 0.8 * took < sum(parts) <= took


def test_an_early_answer_counts_only_its_own_steps(ends_early: Checkpoint) -> None:
    answers = generate(ends_early, REQUESTS, Sampling(6), batch_size=len(REQUESTS))
    for answer in answers:
        assert len(answer.seconds.decode) == len(answer.token_ids) - (answer.finish == "length")


def test_no_requests_no_answers(checkpoint: Checkpoint) -> None:
    assert generate(checkpoint, []) == []


def test_the_picture_and_its_place_matter(checkpoint: Checkpoint) -> None:
    both = (picture(1), picture(2))
    with torch.inference_mode():
        forth, back, none = (
            checkpoint.model(**prepare(checkpoint, [Request("what is red", images)])).logits[0, -1]
            for images in (both, both[::-1], ())
        )
    assert not torch.allclose(forth, back, atol=1e-3)
    assert not torch.allclose(forth, none, atol=1e-3)


def test_refuses_special_tokens_in_the_prompt(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"special token '<\|image_pad\|>'"):
        generate(checkpoint, [Request("look <|image_pad|>", (picture(0),))])


def test_refuses_a_picture_too_thin(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="aspect ratio"):
        generate(checkpoint, [Request("what", (Image.new("RGB", (1000, 2)),))])


def test_refuses_what_is_not_a_number(tiny_checkpoint: Path) -> None:
    broken = load(tiny_checkpoint)
    broken.model.model.language_model.norm.weight.data[0] = float("nan")
    with pytest.raises(ExecutionError, match="NaN"):
        generate(broken, REQUESTS[:1])


def test_refuses_words_that_are_no_text(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="the prompt is no valid Unicode"):
        generate(checkpoint, [Request("what \udcff")])


def test_what_the_processor_refuses_need_not_be_a_picture(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("too many words")

    monkeypatch.setattr(type(checkpoint.processor), "__call__", refuse)
    with pytest.raises(InputError, match="the processor refuses the prompt or a picture: too many words"):
        generate(checkpoint, REQUESTS[:1])


@pytest.mark.parametrize("name", ["tiny_checkpoint", "tiny_graphs"])
def test_refuses_more_tokens_than_the_model_has_positions(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = shutil.copytree(request.getfixturevalue(name), tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 100
    (folder / "config.json").write_text(json.dumps(config))
    model = open_model(folder)
    prompt = len(encode(model.processor, REQUESTS[1:2]).input_ids[0])
    [answer] = generate(model, REQUESTS[1:2], Sampling(100 - prompt, ignore_end=True))
    assert len(answer.token_ids) == 100 - prompt
    message = f"{prompt} tokens of prompt and {101 - prompt} new ones are more than the 100 .*max_new_tokens"
    with pytest.raises(InputError, match=message):
        generate(model, REQUESTS[1:2], Sampling(101 - prompt))


@pytest.mark.gpu
def test_cuda_answers_as_cpu(checkpoint: Checkpoint, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the patch embedding is a convolution
    on_gpu = load(tiny_checkpoint, device="cuda")
    assert generate(on_gpu, REQUESTS, Sampling(8)) == generate(checkpoint, REQUESTS, Sampling(8))
