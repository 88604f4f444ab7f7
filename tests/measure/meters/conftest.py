"""A machine with a GPU that is not there: simulated time, a work queue, a counter that ticks, an NVML to ask."""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from harness.measure.meters.energy import HostClock

UUID = "1b8e9a52-0000-1111-2222-333344445555"


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class Simulation:
    """Time passes only when somebody sleeps, launches or asks NVML. The GPU works its queue off in the background."""

    def __init__(self) -> None:
        self.now_s = 10.0
        self.busy: list[tuple[float, float]] = []
        self.free_at_s = 0.0
        self.call_s = 0.010
        self.launch_s = 0.0001
        self.ask_s = 0.001
        self.tick_s = 0.1
        self.idle_watts, self.busy_watts = 100.0, 500.0
        self.deepest_s = 0.0
        self.synchronisations = 0
        self.fails_from_s = math.inf
        self.failure = 4
        self.stuck = False

    def clock(self) -> HostClock:
        return HostClock(now_s=self.read, sleep_s=self.sleep)

    def read(self) -> float:
        self.now_s += 1e-7
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += seconds

    def call(self) -> None:
        self.now_s += self.launch_s
        start = max(self.now_s, self.free_at_s)
        self.free_at_s = start + self.call_s
        self.busy.append((start, self.free_at_s))
        self.deepest_s = max(self.deepest_s, self.free_at_s - self.now_s)

    def synchronise(self) -> None:
        self.synchronisations += 1
        self.now_s = max(self.now_s, self.free_at_s)

    def energy_mj(self) -> int:
        if self.stuck:
            return 7_000
        ticked = math.floor(self.now_s / self.tick_s) * self.tick_s
        worked = sum(min(end, ticked) - start for start, end in self.busy if start < ticked)
        return round(1e3 * (self.idle_watts * ticked + (self.busy_watts - self.idle_watts) * worked))

    def is_busy(self) -> bool:
        return self.now_s < self.free_at_s

    def ask(self) -> None:
        self.now_s += self.ask_s
        if self.now_s >= self.fails_from_s:
            raise NVMLError(self.failure)


class FakeNvml(ModuleType):
    """What ``pynvml`` offers, as far as it is used. A test takes functions away or replaces them."""

    NVMLError = NVMLError
    NVML_FI_DEV_POWER_INSTANT = 186
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, simulation: Simulation) -> None:
        super().__init__("pynvml")
        sim = simulation
        self.known = {f"GPU-{UUID}": "board"}
        self.mig_mode = [0, 0]
        self.reasons = 0
        self._nvmlGetFunctionPointer = lambda name: name

        def asked(answer: Any) -> Any:
            def function(*_arguments: Any) -> Any:
                sim.ask()
                return answer()

            return function

        def power() -> float:
            return sim.busy_watts if sim.is_busy() else sim.idle_watts

        field = SimpleNamespace
        self.nvmlInit = lambda: None
        self.nvmlSystemGetDriverVersion = asked(lambda: "580.1")
        self.nvmlDeviceGetTotalEnergyConsumption = asked(sim.energy_mj)
        self.nvmlDeviceGetPowerUsage = asked(lambda: round(power() * 1e3))
        self.nvmlDeviceGetFieldValues = asked(lambda: [field(nvmlReturn=0, value=field(uiVal=round(power() * 1e3)))])
        self.nvmlDeviceGetEnforcedPowerLimit = asked(lambda: 700_000)
        self.nvmlDeviceGetClockInfo = asked(lambda: 1755 if sim.is_busy() else 345)
        self.nvmlDeviceGetMaxClockInfo = asked(lambda: 1980)
        self.nvmlDeviceGetTemperature = asked(lambda: 40 if not sim.busy else 61)
        self.nvmlDeviceGetCurrentClocksEventReasons = asked(lambda: self.reasons)
        self.nvmlDeviceGetMigMode = asked(lambda: self.mig_mode)
        self.nvmlDeviceGetComputeRunningProcesses = asked(lambda: [field(pid=42, usedGpuMemory=1024)])

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802 (NVML's own name)
        if uuid not in self.known:
            raise NVMLError(6)
        return self.known[uuid]

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, instance: str) -> str:  # noqa: N802 (NVML's own name)
        return f"parent of {instance}"

    def refuse(self, name: str, code: int) -> None:
        def function(*_arguments: Any) -> None:
            raise NVMLError(code)

        setattr(self, name, function)


@pytest.fixture
def simulation() -> Simulation:
    return Simulation()


@pytest.fixture
def nvml(simulation: Simulation) -> FakeNvml:
    return FakeNvml(simulation)


@pytest.fixture
def uuid() -> str:
    return UUID
