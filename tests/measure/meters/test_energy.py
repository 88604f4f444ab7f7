from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.measure.meters.energy import CHUNKS, LEAD_CHUNKS, idle_watts, measure_energy
from harness.measure.meters.nvml import Board, open_board

if TYPE_CHECKING:
    from harness.records.record import Energy


@pytest.fixture
def board(nvml: Any, uuid: str) -> Board:
    return open_board(uuid, nvml)


def measure(simulation: Any, board: Board | None, **options: Any) -> Energy:
    options.setdefault("estimate_s", simulation.call_s)
    return measure_energy(simulation.call, simulation.synchronise, board, clock=simulation.clock(), **options)


def test_joules_of_a_call(simulation: Any, board: Board) -> None:
    energy = measure(simulation, board, idle_watts=100.0)
    assert energy.status == "ok", energy.reason
    assert energy.joules is not None
    assert energy.calls
    assert energy.joules / energy.calls == pytest.approx(500 * 0.010, rel=0.02)
    assert energy.window_s == pytest.approx(5.0, abs=0.15)
    assert energy.idle_watts == 100.0
    assert energy.temperature_c == (61, 61)
    assert energy.sm_clock_mhz == (1755, 1755)
    assert energy.power_limit_watts == 700.0
    assert energy.throttle_reasons == []


def test_a_clock_that_fell_within_the_window_is_seen(simulation: Any, board: Board, nvml: Any) -> None:
    nvml.nvmlDeviceGetClockInfo = lambda *_: 1755 if simulation.now_s < 14 else 1410
    energy = measure(simulation, board)
    assert energy.sm_clock_mhz == (1410, 1755)


def test_nothing_synchronises_inside_the_window_and_the_gpu_never_waits(simulation: Any, board: Board) -> None:
    energy = measure(simulation, board)
    assert energy.calls
    assert simulation.synchronisations == 2
    window = simulation.busy[-energy.calls :]
    gaps = [after - end for (_, end), (after, _) in pairwise(window)]
    assert max(gaps) == pytest.approx(0, abs=1e-9)


def test_the_queue_stays_short(simulation: Any, board: Board) -> None:
    deepest = []

    def synchronise() -> None:
        deepest.append(simulation.deepest_s)
        simulation.deepest_s = 0.0
        simulation.synchronise()

    measure_energy(simulation.call, synchronise, board, estimate_s=0.010, clock=simulation.clock())
    _warming_up, measuring = deepest
    assert measuring <= 5.0 * (LEAD_CHUNKS + 2) / CHUNKS


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call_s=st.floats(0.004, 2.0), wrong=st.floats(0.1, 10))
def test_a_wrong_estimate_is_corrected(simulation: Any, board: Board, call_s: float, wrong: float) -> None:
    simulation.__init__()
    simulation.call_s, simulation.launch_s = call_s, call_s / 100
    energy = measure(simulation, board, estimate_s=call_s * wrong)
    assert energy.joules is not None
    assert energy.calls
    assert energy.window_s is not None
    assert 5.0 <= energy.window_s + 0.3 <= 5.6 + call_s
    assert energy.joules / energy.calls == pytest.approx(500 * call_s, rel=0.05)


def test_calls_that_slow_down_end_the_window_early(simulation: Any, board: Board) -> None:
    calls = 0

    def slower() -> None:
        nonlocal calls
        calls += 1
        simulation.launch_s = 0.001 if calls <= 2000 else 1.0
        simulation.call_s = 0.0
        simulation.call()

    energy = measure_energy(slower, simulation.synchronise, board, estimate_s=0.001, clock=simulation.clock())
    assert energy.calls is not None
    assert energy.calls <= 5000 / CHUNKS


def test_a_short_window_is_unreliable_and_says_by_how_much(simulation: Any, board: Board) -> None:
    energy = measure(simulation, board, window_s=0.5)
    assert energy.status == "unreliable"
    assert energy.joules is not None
    assert "20%" in energy.reason or "17%" in energy.reason


def test_a_stuck_counter_is_never_zero_joules(simulation: Any, board: Board) -> None:
    simulation.stuck = True
    energy = measure(simulation, board)
    assert energy.status == "unreliable"
    assert energy.joules is None
    assert "did not change" in energy.reason
    assert "0 J" in energy.reason


def test_a_counter_that_disagrees_with_the_power_readings_is_unreliable(
    simulation: Any, board: Board, nvml: Any
) -> None:
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda _handle: simulation.energy_mj() // 3
    energy = measure(simulation, board)
    assert energy.status == "unreliable"
    assert "power readings say 500 W" in energy.reason


@pytest.mark.parametrize("fails_from_s", [0.0, 12.5, 14.0, 17.05])
def test_losing_permission_is_a_reason_and_no_exception(simulation: Any, board: Board, fails_from_s: float) -> None:
    simulation.fails_from_s = fails_from_s
    energy = measure(simulation, board)
    assert energy.status == "unavailable"
    assert "no permission" in energy.reason
    assert energy.joules is None


def test_throttling_is_seen_and_idling_is_not_called_throttling(simulation: Any, board: Board, nvml: Any) -> None:
    nvml.nvmlDeviceGetCurrentClocksEventReasons = lambda _handle: 4 | (64 if 14 < simulation.now_s < 15 else 1)
    energy = measure(simulation, board)
    assert energy.status == "ok"
    assert energy.throttle_reasons == ["sw_power_cap", "hw_thermal"]


def test_a_board_that_tells_nothing_else_still_counts_energy(simulation: Any, board: Board, nvml: Any) -> None:
    for name in ("FieldValues", "PowerUsage", "ClockInfo", "Temperature", "EnforcedPowerLimit"):
        nvml.refuse(f"nvmlDeviceGet{name}", 3)
    nvml.refuse("nvmlDeviceGetCurrentClocksEventReasons", 3)
    energy = measure(simulation, board)
    assert energy.status == "ok"
    assert [energy.temperature_c, energy.sm_clock_mhz, energy.power_limit_watts] == [None] * 3


def test_mig_is_refused_before_anything_runs(simulation: Any, board: Board, nvml: Any) -> None:
    nvml.mig_mode = [1, 1]
    energy = measure(simulation, board)
    assert energy.status == "unavailable"
    assert "MIG" in energy.reason
    assert simulation.busy == []


@pytest.mark.parametrize("why_not", ["", "the driver is on holiday"])
def test_no_board_has_a_reason(simulation: Any, why_not: str) -> None:
    energy = measure(simulation, None, why_not=why_not)
    assert energy.status == "unavailable"
    assert energy.reason.startswith(why_not or "no energy counter")


@pytest.mark.parametrize("key", ["estimate_s", "window_s"])
def test_times_must_be_positive(simulation: Any, board: Board, key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} = 0"):
        measure(simulation, board, **{key: 0})


def test_what_the_call_raises_is_passed_on(simulation: Any, board: Board) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure_energy(broken, simulation.synchronise, board, estimate_s=1.0, clock=simulation.clock())


def test_idle_power(simulation: Any, board: Board) -> None:
    assert idle_watts(board, 5.0, simulation.clock()) == pytest.approx(100.0, rel=0.01)


def test_idle_power_without_a_counter_is_none(simulation: Any, board: Board) -> None:
    simulation.stuck = True
    assert idle_watts(board, 5.0, simulation.clock()) is None
    simulation.fails_from_s = 0.0
    assert idle_watts(board, 5.0, simulation.clock()) is None


@pytest.mark.cuda
def test_a_real_board_uses_energy() -> None:
    import torch

    from harness.measure.meters.nvml import NvmlUnavailable

    try:
        real = open_board(str(torch.cuda.get_device_properties(0).uuid))
    except NvmlUnavailable as error:
        pytest.skip(error.reason)
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    energy = measure_energy(lambda: x @ x, torch.cuda.synchronize, real, estimate_s=3e-4, window_s=2.0)
    if energy.status == "unavailable":
        pytest.skip(energy.reason)
    assert energy.joules is not None
    assert energy.window_s is not None
    assert 20 < energy.joules / energy.window_s < 3000
