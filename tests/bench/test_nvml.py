"""Which GPUs are shown, and what their driver does not say. The functions that miss are those of pynvml itself."""

import os
from types import SimpleNamespace

import pynvml
import pytest

from bench import nvml
from shipvlm.errors import SetupError
from tests.bench.made_driver import Driver, installed

THREE = ("first", "second", "third")


@pytest.fixture
def driver(monkeypatch):
    yield from installed(monkeypatch, Driver(THREE))


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["first", "second", "third"]),
        ("2, 0", ["third", "first"]),
        ("GPU-bbbb,MIG-cccc", ["second", "third"]),
        ("0,2,-1,1", ["first", "third"]),  # as the CUDA Programming Guide has it
        ("1,GPU-gone,0", ["second"]),
    ],
)
def test_the_gpus_are_those_that_cuda_would_show(driver, monkeypatch, visible, names):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert nvml.names() == names
    assert nvml.Device().name == names[0]


@pytest.mark.parametrize("visible", ["", "-1", "3", "GPU-gone", "none"])
def test_where_cuda_would_show_no_gpu_there_is_none(driver, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert nvml.names() == []
    with pytest.raises(SetupError, match=f"CUDA_VISIBLE_DEVICES='{visible}' shows no device"):
        nvml.Device()


def test_a_driver_without_a_device_is_a_setup_error(monkeypatch):
    monkeypatch.setattr(nvml, "_library", lambda: Driver(()))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert nvml.names() == []
    with pytest.raises(SetupError, match="no NVIDIA GPU"):
        nvml.Device()


def test_who_was_on_the_device_is_asked_once(driver):
    driver.processes = {7: 100}
    device = nvml.device()
    driver.processes = {7: 100, 9: 300}
    assert nvml.device() is device
    assert device.before == {7}
    assert device.processes() == {7: 100, 9: 300}


def test_this_process_is_known_by_its_id_or_by_being_new(driver):
    driver.processes = {1: 2}
    device, own = nvml.device(), os.getpid()
    assert device.own({1: 2, own: 5, 8: 3}) == own
    assert device.own({1: 2, 8: 3}) == 8  # in a container
    assert device.own({1: 2, 8: 3, 9: 4}) is None
    assert device.own({1: 2}) is None


def test_use_is_the_most_of_each_process_none_where_nobody_used_it_and_unknown_where_it_is_not_told(driver):
    driver.use = {77: (3, 9), 88: (95,)}
    assert nvml.device().busy(0) == {77: 9, 88: 95}
    driver.use = {}
    assert nvml.device().busy(0) == {}
    driver.use = None
    assert nvml.device().busy(0) is None


def test_processes_that_are_not_told_are_not_none_at_all(driver):
    driver.processes = None
    assert nvml.device().processes() is None
    assert nvml.device().before == set()


@pytest.mark.parametrize(
    ("functions", "held"),
    [
        ({"nvmlDeviceGetCurrentClocksEventReasons": 0x40 | 0x4 | 0x1}, {"hw-thermal", "sw-power-cap"}),
        ({"nvmlDeviceGetCurrentClocksThrottleReasons": 0x20}, {"sw-thermal"}),  # an older driver
        ({"nvmlDeviceGetCurrentClocksEventReasons": 0x1, "nvmlDeviceGetCurrentClocksThrottleReasons": 0x8}, set()),
        ({}, None),
    ],
)
def test_what_holds_the_clock_down_is_unknown_where_no_function_says_it(driver, monkeypatch, functions, held):
    def function(bits):
        def read(handle, reasons):
            reasons._obj.value = bits
            return pynvml.NVML_SUCCESS

        return read

    library = SimpleNamespace(**{name: function(bits) for name, bits in functions.items()})
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    device = nvml.device()
    device._nvml = pynvml
    assert device.throttled() == held


def test_an_older_pynvml_has_the_old_name_alone(driver, monkeypatch):
    monkeypatch.delattr(Driver, "nvmlDeviceGetCurrentClocksEventReasons")
    monkeypatch.setattr(Driver, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda self, handle: 0x8, raising=False)
    assert nvml.device().throttled() == {"hw-slowdown"}


def test_what_nvml_calls_not_found_is_the_error_that_is_caught():
    assert isinstance(pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND), pynvml.NVMLError_NotFound)


def test_without_a_driver_there_are_no_gpus(monkeypatch):
    def absent():
        raise SetupError("no driver")

    monkeypatch.setattr(nvml, "_library", absent)
    nvml.device.cache_clear()
    assert nvml.names() == []
    with pytest.raises(SetupError, match="no driver"):
        nvml.device()
