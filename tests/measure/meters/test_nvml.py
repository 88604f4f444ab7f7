from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from harness.measure.meters import nvml as meter
from harness.measure.meters.nvml import EVENT_REASONS, NvmlUnavailable, load_nvml, open_board


def test_a_board_answers_in_units_people_use(nvml: Any, uuid: str) -> None:
    board = open_board(uuid, nvml)
    assert board.power_watts() == 100.0
    assert board.power_limit_watts == 700.0
    assert (board.sm_clock_mhz(), board.max_sm_clock_mhz) == (345, 1980)
    assert board.temperature_c() == 40
    assert board.driver == "580.1"
    assert board.mig is False
    assert board.process_ids() == [42]
    assert board.total_energy_mj() == pytest.approx(100 * 10_000, rel=0.01)


def test_the_prefix_of_the_uuid_does_not_matter(nvml: Any, uuid: str) -> None:
    assert open_board(uuid, nvml).driver == open_board(f"GPU-{uuid}", nvml).driver


def test_a_mig_instance_opens_its_board_and_says_so(nvml: Any, uuid: str) -> None:
    nvml.known = {f"MIG-{uuid}": "slice"}
    board = open_board(uuid, nvml)
    assert board.mig is True
    assert board._handle == "parent of slice"


def test_a_board_in_mig_mode_says_so(nvml: Any, uuid: str) -> None:
    nvml.mig_mode = [1, 1]
    assert open_board(uuid, nvml).mig is True


def test_an_unknown_uuid_is_a_reason(nvml: Any) -> None:
    with pytest.raises(NvmlUnavailable, match="no GPU with this UUID"):
        open_board("GPU-of-somebody-else", nvml)


@pytest.mark.parametrize(
    ("code", "words"), [(12, "install the NVIDIA driver"), (9, "kernel driver"), (18, "restart"), (999, "error 999")]
)
def test_why_nvml_does_not_start(monkeypatch: pytest.MonkeyPatch, nvml: Any, code: int, words: str) -> None:
    nvml.refuse("nvmlInit", code)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with pytest.raises(NvmlUnavailable, match=words):
        load_nvml()


def test_the_wrong_package_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", ModuleType("pynvml"))
    with pytest.raises(NvmlUnavailable, match="pip uninstall pynvml"):
        load_nvml()


def test_a_missing_package_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NvmlUnavailable, match="pip install nvidia-ml-py"):
        load_nvml()


def test_the_right_package_is_accepted(monkeypatch: pytest.MonkeyPatch, nvml: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert load_nvml() is nvml


def test_the_installed_package_has_every_function_asked_for() -> None:
    import inspect
    import re

    pynvml = pytest.importorskip("pynvml")
    source = inspect.getsource(meter)
    names = set(re.findall(r"\"(nvml[A-Z]\w+)\"", source)) | {
        f"NVML_{name}" for name in re.findall(r"_constant\(\"(\w+)\"\)", source)
    }
    assert len(names) > 15
    assert {name for name in names if not hasattr(pynvml, name)} == set()


def test_the_bits_of_the_reasons_are_those_of_the_installed_package() -> None:
    pynvml = pytest.importorskip("pynvml")
    bits = {
        "gpu_idle": pynvml.nvmlClocksEventReasonGpuIdle,
        "application_clocks": pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
        "sw_power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
        "hw_slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
        "sync_boost": pynvml.nvmlClocksEventReasonSyncBoost,
        "sw_thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
        "hw_thermal": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        "hw_power_brake": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
        "display_clock": pynvml.nvmlClocksEventReasonDisplayClockSetting,
    }
    assert {word: bit for bit, word in EVENT_REASONS.items()} == bits


def test_reasons_are_words(nvml: Any, uuid: str) -> None:
    nvml.reasons = 4 | 64
    assert open_board(uuid, nvml).event_reasons() == ["sw_power_cap", "hw_thermal"]


@pytest.mark.parametrize("how", ["absent from the package", "absent from the driver"])
def test_reasons_are_asked_by_their_old_name_too(nvml: Any, uuid: str, how: str) -> None:
    if how == "absent from the package":
        del nvml.nvmlDeviceGetCurrentClocksEventReasons
    else:
        nvml.refuse("nvmlDeviceGetCurrentClocksEventReasons", 13)
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda _handle: 8
    assert open_board(uuid, nvml).event_reasons() == ["hw_slowdown"]


def test_power_falls_back_to_the_average(nvml: Any, uuid: str) -> None:
    nvml.nvmlDeviceGetFieldValues = lambda *_: [SimpleNamespace(nvmlReturn=3, value=SimpleNamespace(uiVal=0))]
    nvml.nvmlDeviceGetPowerUsage = lambda *_: 90_000
    assert open_board(uuid, nvml).power_watts() == 90.0


def test_what_is_not_supported_is_none_except_energy(nvml: Any, uuid: str) -> None:
    for name in [name for name in vars(nvml) if name.startswith(("nvmlDeviceGet", "nvmlSystem"))]:
        nvml.refuse(name, 3)
    board = open_board(uuid, nvml)
    figures = [board.power_watts(), board.power_limit_watts, board.temperature_c(), board.sm_clock_mhz()]
    assert [*figures, board.event_reasons(), board.process_ids(), board.driver] == [None] * 7
    assert board.mig is False
    with pytest.raises(NvmlUnavailable, match="does not offer it"):
        board.total_energy_mj()


@pytest.mark.cuda
def test_a_real_board_counts_energy() -> None:
    import torch

    try:
        board = open_board(str(torch.cuda.get_device_properties(0).uuid))
    except NvmlUnavailable as error:
        pytest.skip(error.reason)
    assert board.total_energy_mj() > 0
    power = board.power_watts()
    assert power is not None
    assert 1 < power < 3000
