"""Other ways to run a checkpoint: what they must not change, what they do, and what they refuse."""

from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from shipvlm.errors import ExecutionError, InputError, SetupError
from shipvlm.runtime import clock, engines
from shipvlm.runtime.checkpoint import Checkpoint, load
from shipvlm.runtime.clock import CudaClock, HostClock
from shipvlm.runtime.generate import generate
from shipvlm.runtime.inputs import encode
from shipvlm.runtime.model import Engine, open_model
from shipvlm.runtime.probe import forced_batch
from shipvlm.runtime.sampling import Sampling
from tests.shipvlm.made_requests import REQUESTS

ANSWERS = [[7, 8, 9], [20], [30, 31], [5, 6], [40]]
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the package bitsandbytes")


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path) -> Checkpoint:
    return load(tiny_checkpoint)


def test_a_checkpoint_says_what_its_weights_take(plain: Checkpoint, tiny_checkpoint: Path) -> None:
    weights = sum(parameter.numel() for parameter in plain.model.parameters()) * 4
    assert 0 <= plain.weight_bytes - weights < 10_000  # and a few buffers
    half = open_model(tiny_checkpoint, dtype="bfloat16").weight_bytes
    assert half is not None
    assert half == pytest.approx(plain.weight_bytes / 2, rel=0.02)


@needs_bitsandbytes
@pytest.mark.parametrize(("engine", "share", "far"), [("bnb-int8", 0.25, 0.1), ("bnb-nf4", 0.125, 1.0)])
def test_bitsandbytes_takes_the_linears_of_the_decoder(
    plain: Checkpoint, tiny_checkpoint: Path, engine: Engine, share: float, far: float
) -> None:
    """It has a backend for a CPU: its numbers are real, only slow."""
    model = open_model(tiny_checkpoint, engine=engine)
    assert isinstance(model, Checkpoint)
    linears = [
        module.weight.nbytes
        for name, module in plain.model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.language_model.")
    ]
    assert model.weight_bytes is not None
    saved = (plain.weight_bytes - model.weight_bytes) / sum(linears)
    assert 1 - share - 0.08 < saved < 1 - share  # the scales take the rest
    np.testing.assert_array_equal(
        model.model.model.visual.state_dict()["blocks.0.attn.qkv.weight"],
        plain.model.model.visual.state_dict()["blocks.0.attn.qkv.weight"],
    )
    for found, wanted in zip(
        forced_batch(model, REQUESTS, ANSWERS), forced_batch(plain, REQUESTS, ANSWERS), strict=True
    ):
        error = np.abs(found - wanted).mean() / np.abs(wanted).mean()
        assert 0 < error < far


@pytest.mark.slow
def test_compiling_does_not_change_what_is_computed(
    plain: Checkpoint, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several pictures of several sizes and one alone: every form is captured whole. What was captured is run as it is:
    generating code for it takes minutes."""
    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: real(self, backend="aot_eager", **how))
    before = {name: getattr(torch._dynamo.config, name) for name in engines.COMPILING}
    torch._dynamo.utils.counters.clear()
    torch._dynamo.utils.clear_compilation_metrics()
    try:
        model = open_model(tiny_checkpoint, engine="compile")
        for requests in (REQUESTS[:1], REQUESTS[2:4]):
            settings = Sampling(4, ignore_end=True)
            found = generate(model, requests, settings, batch_size=len(requests))
            assert found == generate(plain, requests, settings, batch_size=len(requests))
        assert torch._dynamo.utils.counters["frames"]["ok"] >= 3
        again = [form.restart_reasons for form in torch._dynamo.utils.get_compilation_metrics()]
        assert "TensorifyScalar" not in str(again)  # every form would be read twice
    finally:
        for name, value in before.items():
            setattr(torch._dynamo.config, name, value)
        torch._dynamo.reset()


def test_decoding_finds_the_cache_as_it_will_leave_it(plain: Checkpoint) -> None:
    """Or its first step would be compiled for itself: Inductor leaves keys and values transposed in memory."""
    batch = encode(plain.processor, REQUESTS[2:4])
    features = plain.vision(batch)
    wanted, _ = plain.prefill(batch, features, 2)
    text = plain.model.model.language_model

    def transposed(module: object, given: object, found: Any) -> None:
        for layer in found.past_key_values.layers:
            layer.keys, layer.values = (
                states.transpose(1, 2).contiguous().transpose(1, 2) for states in (layer.keys, layer.values)
            )
            assert not layer.keys.is_contiguous()

    hook = text.register_forward_hook(transposed)
    try:
        found, decoding = plain.prefill(batch, features, 2)
    finally:
        hook.remove()
    np.testing.assert_array_equal(found, wanted)
    assert all(layer.keys.is_contiguous() and layer.values.is_contiguous() for layer in decoding._cache.layers)


def test_an_engine_that_is_not_installed_is_a_setup_error(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="bnb-nf4 needs the package bitsandbytes; install the extra cuda"):
        open_model(tiny_checkpoint, engine="bnb-nf4")


def test_a_quantized_checkpoint_is_not_quantized_again(tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="is quantized already; bnb-int8 takes the checkpoint that it was made from"):
        engines.on_loading("bnb-int8", tiny_checkpoint, {"quantization_config": {}}, torch.float32, "cpu")


def test_layers_that_bitsandbytes_left_out_are_an_error(plain: Checkpoint) -> None:
    with pytest.raises(ExecutionError, match=r"differs in model\.language_model\.layers\.0"):
        engines.after_loading("bnb-nf4", plain.model)


def test_a_clock_says_the_time_between_its_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(10.0, 0.5)
    monkeypatch.setattr(clock, "perf_counter", lambda: next(ticks))
    host = HostClock()
    assert host.laps() == []
    for _ in range(3):
        host.mark()
    assert host.laps() == [0.5, 0.5]


def test_events_stand_beside_the_hosts_clock_where_there_is_a_device(
    plain: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made-up device whose clock ticks 2 ms at every border."""

    class Device(HostClock):
        def laps(self) -> list[float]:
            return [0.002] * len(super().laps())

    monkeypatch.setattr(Checkpoint, "device_clock", lambda self: Device())
    [answer] = generate(plain, REQUESTS[:1], Sampling(3, ignore_end=True))
    assert answer.events is not None
    assert vars(answer.events) == {
        "preprocess": 0.002,
        "vision": 0.002,
        "prefill": 0.002,
        "decode": (0.002,) * 2,
        "detokenise": 0.002,
    }
    monkeypatch.undo()
    assert generate(plain, REQUESTS[:1], Sampling(3))[0].events is None


def test_a_cuda_clock_records_events_and_reads_them_when_all_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    times = iter([5.0, 7.5, 30.0])  # milliseconds, of each event

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.time = next(times)

        def record(self, stream: str) -> None:
            said.append(f"record on {stream}")

        def elapsed_time(self, other: "Event") -> float:
            assert said[-1] == "synchronize"
            return other.time - self.time

    cuda = SimpleNamespace(
        Event=Event,
        current_stream=lambda device: f"stream of {device}",
        synchronize=lambda device: said.append("synchronize"),
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    device = CudaClock("cuda:0")
    for _ in range(3):
        device.mark()
    assert device.laps() == pytest.approx([0.0025, 0.0225])
    assert said == ["record on stream of cuda:0"] * 3 + ["synchronize"]


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["transformers", "compile", "bnb-int8", "bnb-nf4"])
def test_both_clocks_agree_on_a_gpu(tiny_checkpoint: Path, engine: Engine) -> None:
    model = open_model(tiny_checkpoint, device="cuda", engine=engine)
    for _ in range(2):
        [answer] = generate(model, REQUESTS[:1], Sampling(8, ignore_end=True))
    assert answer.events is not None
    for name in ("vision", "prefill"):
        assert getattr(answer.events, name) == pytest.approx(getattr(answer.seconds, name), rel=0.3, abs=1e-3)
    assert sum(answer.events.decode) == pytest.approx(sum(answer.seconds.decode), rel=0.3, abs=2e-3)
