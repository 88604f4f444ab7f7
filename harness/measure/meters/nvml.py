"""The one door to NVML, NVIDIA's management library: energy, power, clocks, temperature. Opened lazily, never required.

The Python package is ``nvidia-ml-py``, imported as ``pynvml``. Another, abandoned package on PyPI is itself called
``pynvml`` and hides it; it is recognised and refused. Boards are found by UUID, because NVML counts them in PCI order
and CUDA does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

V = TypeVar("V")

EVENT_REASONS: dict[int, str] = {
    1: "gpu_idle",
    2: "application_clocks",
    4: "sw_power_cap",
    8: "hw_slowdown",
    16: "sync_boost",
    32: "sw_thermal",
    64: "hw_thermal",
    128: "hw_power_brake",
    256: "display_clock",
}
"""Bits of NVML's clocks event reasons (called throttle reasons before driver 535), as plain words."""

_SUCCESS, _NOT_SUPPORTED, _NO_PERMISSION, _FUNCTION_NOT_FOUND = 0, 3, 4, 13
_ADVICE: dict[int, str] = {
    _NOT_SUPPORTED: "this GPU, or the virtual machine it is lent through, does not offer it",
    _NO_PERMISSION: "no permission: the driver or the container withholds it from this user",
    6: "no GPU with this UUID: the container shows NVML other GPUs than CUDA",
    9: "the NVIDIA kernel driver is not loaded",
    12: "libnvidia-ml.so.1 not found: install the NVIDIA driver, or give the container the driver capability 'utility'",
    _FUNCTION_NOT_FOUND: "the driver is too old for it",
    15: "the GPU is lost: reset it or restart the machine",
    18: "driver and library versions differ: the driver was updated and not reloaded, restart the machine",
}


class NvmlUnavailable(Exception):  # noqa: N818 (an answer that callers record, rather than a fault)
    """NVML does not answer. ``reason`` says what was asked, why there is no answer, and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def load_nvml() -> ModuleType:
    """Import and initialise NVML. Repeated calls are cheap: NVML counts them.

    Raises
    ------
    NvmlUnavailable
        when the package is missing or the wrong one, or the driver does not answer.
    """
    try:
        module = importlib.import_module("pynvml")
    except ImportError:
        raise NvmlUnavailable("the package nvidia-ml-py is not installed: pip install nvidia-ml-py") from None
    if not hasattr(module, "_nvmlGetFunctionPointer"):
        raise NvmlUnavailable(
            "the package pynvml hides nvidia-ml-py: pip uninstall pynvml; pip install --force-reinstall nvidia-ml-py"
        )
    _call(module, "nvmlInit")
    return module


def open_board(uuid: str, nvml: ModuleType | None = None) -> Board:
    """Open the GPU with this UUID, with or without its prefix ``GPU-`` or ``MIG-``.

    The UUID of a MIG instance opens the whole board it is a slice of; ``board.mig`` is then true.

    Raises
    ------
    NvmlUnavailable
        when NVML or the board cannot be reached.
    """
    module = nvml or load_nvml()
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    try:
        return Board(module, _call(module, "nvmlDeviceGetHandleByUUID", f"GPU-{bare}"))
    except NvmlUnavailable as error:
        try:
            instance = _call(module, "nvmlDeviceGetHandleByUUID", f"MIG-{bare}")
        except NvmlUnavailable:
            raise error from None
    return Board(module, _call(module, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", instance), mig_instance=True)


class Board:
    """One GPU board. What it does not report is None, except the energy counter, whose absence has a reason."""

    def __init__(self, nvml: ModuleType, handle: object, *, mig_instance: bool = False) -> None:
        self._nvml = nvml
        self._handle = handle
        self._mig_instance = mig_instance

    def total_energy_mj(self) -> int:
        """Millijoules the whole board has used since the driver was loaded; ticks about every 100 ms.

        Raises
        ------
        NvmlUnavailable
            before Volta, without permission, or when the board is gone.
        """
        return int(_call(self._nvml, "nvmlDeviceGetTotalEnergyConsumption", self._handle))

    def power_watts(self) -> float | None:
        """Power now; where the driver does not say, its average over a second (on Ampere and newer)."""
        instant = self._maybe(self._instant_watts, "nvmlDeviceGetFieldValues", [self._constant("FI_DEV_POWER_INSTANT")])
        if instant is not None:
            return instant
        usage = self._maybe(int, "nvmlDeviceGetPowerUsage")
        return None if usage is None else usage / 1e3

    @staticmethod
    def _instant_watts(fields: Any) -> float | None:  # noqa: ANN401 (an array of C structs)
        answered = fields[0].nvmlReturn == _SUCCESS and fields[0].value.uiVal > 0
        return float(fields[0].value.uiVal / 1e3) if answered else None

    @property
    def power_limit_watts(self) -> float | None:
        """The cap the board enforces."""
        milliwatts = self._maybe(int, "nvmlDeviceGetEnforcedPowerLimit")
        return None if milliwatts is None else milliwatts / 1e3

    def sm_clock_mhz(self) -> int | None:
        """Clock of the multiprocessors now."""
        return self._maybe(int, "nvmlDeviceGetClockInfo", self._constant("CLOCK_SM"))

    @property
    def max_sm_clock_mhz(self) -> int | None:
        """The highest clock the multiprocessors can boost to."""
        return self._maybe(int, "nvmlDeviceGetMaxClockInfo", self._constant("CLOCK_SM"))

    def temperature_c(self) -> int | None:
        """Temperature of the chip."""
        return self._maybe(int, "nvmlDeviceGetTemperature", self._constant("TEMPERATURE_GPU"))

    def event_reasons(self) -> list[str] | None:
        """Why the clocks are not at their highest, as words of ``EVENT_REASONS``; asked by its new and its old name."""
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            bits = self._maybe(int, name)
            if bits is not None:
                return [word for bit, word in EVENT_REASONS.items() if bits & bit]
        return None

    @property
    def mig(self) -> bool:
        """Whether the board is cut into MIG instances; then its counters do not belong to one of them."""
        return self._mig_instance or bool(self._maybe(lambda modes: modes[0] == 1, "nvmlDeviceGetMigMode"))

    @property
    def driver(self) -> str | None:
        """Version of the driver."""
        try:
            version = _call(self._nvml, "nvmlSystemGetDriverVersion")
        except NvmlUnavailable:
            return None
        return version.decode() if isinstance(version, bytes) else str(version)

    def process_ids(self) -> list[int] | None:
        """List processes with a compute context on the board, this one too; None where the list is withheld.

        In a container these may be the host's numbers.
        """
        return self._maybe(
            lambda found: [int(one.pid) for one in found],
            "nvmlDeviceGetComputeRunningProcesses",
        )

    def _constant(self, name: str) -> int:
        return int(getattr(self._nvml, f"NVML_{name}", 0))

    def _maybe(self, convert: Callable[[Any], V], name: str, *arguments: object) -> V | None:
        try:
            return convert(_call(self._nvml, name, self._handle, *arguments))
        except NvmlUnavailable:
            return None


def _call(nvml: ModuleType, name: str, *arguments: object) -> Any:  # noqa: ANN401 (every function answers another type)
    """Call one NVML function; whatever goes wrong becomes ``NvmlUnavailable``."""
    function = getattr(nvml, name, None)
    if function is None:
        raise NvmlUnavailable(f"{name}: the installed nvidia-ml-py is too old for it")
    try:
        return function(*arguments)
    except nvml.NVMLError as error:
        code = getattr(error, "value", None)
        raise NvmlUnavailable(f"{name}: {_ADVICE.get(code or _SUCCESS, str(error))}") from None
