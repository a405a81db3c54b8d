import pytest
import torch

from bench.machine_rates import Bandwidth, Rate, Rates, RatesJob, measure, measure_rates
from shipvlm.errors import InputError


def test_rates_are_never_taken_too_low():
    table = [(10, 5.0), (100, 9.0), (1000, 2.0)]
    measured = Rates(
        device="cpu",
        name="made",
        bandwidth=tuple(Bandwidth(size=size, value=value, by="copy") for size, value in table),
        operations={"fp32": Rate(value=10.0, by="made"), "int8": Rate(value=4.0, by="made")},
        seconds=0.0,
    )
    assert [measured.bandwidth_of(size).value for size in (1, 10, 99, 100, 999, 1000, 10**6)] == [9, 9, 9, 9, 9, 2, 2]
    assert measured.operations_of("int8").value == 10.0  # it can be computed in FP32
    with pytest.raises(InputError, match="bf16 products was not measured: measured are fp32, int8"):
        measured.operations_of("bf16")


def test_a_type_that_a_cpu_is_not_measured_with():
    with pytest.raises(InputError, match="bf16 products are not measured on a CPU"):
        measure(RatesJob(device="cpu", kinds=("bf16",)))


def test_a_disturbed_measurement_says_so(monkeypatch):
    monkeypatch.setattr("bench.cpu_rates.bandwidth", lambda sizes, threads: [(1.0, "copy")] * len(sizes))
    monkeypatch.setattr("bench.conditions.disturbed", lambda found: ("a compiler ran",) if found.waited is None else ())
    assert measure(RatesJob(device="cpu", kinds=())).reasons == ("a compiler ran",)


def test_the_rates_of_this_machine():
    found = measure_rates("cpu", ("fp32", "int8", "fp32"))
    assert found.name and tuple(found.operations) == ("fp32", "int8")
    assert all(1e8 < each.value < 1e13 for each in found.bandwidth)
    assert all(1e8 < rate.value < 1e15 for rate in found.operations.values())


@pytest.mark.gpu
def test_the_rates_of_this_gpu():
    found = measure_rates("cuda", ("fp32", "fp16", "bf16", "int8"))
    assert found.name == torch.cuda.get_device_name()
    assert found.bandwidth[-1].value > 1e11
    assert found.operations["fp16"].value > found.operations["fp32"].value > 1e12
