"""The table of what runs where, and the advice that is drawn from it."""

import pytest

from shipvlm.schemes import DEVICES, GPUS, RUNTIMES, SCALES, SCHEMES, TABLE, lookup, nearest

PLACES = [(scheme, runtime, device) for scheme in SCHEMES for runtime in RUNTIMES for device in DEVICES]


@pytest.mark.parametrize(("scheme", "runtime", "device"), PLACES)
def test_every_question_has_one_answer_with_a_reason(scheme, runtime, device) -> None:
    lines = [line for line in TABLE if (line.scheme, line.runtime) == (scheme, runtime) and device in line.devices]
    assert len(lines) <= 1
    line = lookup(scheme, runtime, device)
    assert line.reason
    assert (line.scheme, line.runtime) == (scheme, runtime)
    assert lines or line.verdict == "refused"


@pytest.mark.parametrize(("scheme", "runtime", "device"), PLACES)
def test_advice_is_never_slow_or_refused(scheme, runtime, device) -> None:
    better = nearest(scheme, runtime, device)
    assert better is not None
    assert better.verdict in ("fast", "unmeasured")
    assert device in better.devices
    good = ("fast", "unmeasured")
    if any(lookup(other, runtime, device).verdict in good for other in SCHEMES):
        assert better.runtime == runtime


def test_what_was_measured_decides() -> None:
    assert lookup("w8a8-static", "onnxruntime", "cpu").verdict == "fast"
    assert all(lookup("w8a8-static", "onnxruntime", device).verdict == "slow" for device in GPUS)
    assert lookup("w4a16", "vllm", "hopper").verdict == "fast"
    assert lookup("w8a8-static", "tensorrt-rtx", "hopper").verdict == "refused"
    assert {line.verdict for line in TABLE if line.runtime == "transformers"} == {"slow"}
    assert set(SCALES) == set(SCHEMES)
