"""The machines the records come from, side by side: one row a property, one column a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report import units
from harness.report.calibrations import in_short
from harness.report.escape import Markdown, markdown_table
from harness.report.labels import run_labels, used_devices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.records.environment import Ceilings, Device, Environment
    from harness.records.store import Run


def machines_table(runs: Sequence[Run]) -> Markdown:
    """Hosts, software and the devices that were used."""
    return by_run(runs, [_host(run.environment) | _software(run.environment) | _devices(run) for run in runs])


def ceilings_table(runs: Sequence[Run]) -> Markdown:
    """Best that the devices were seen to do, measured at the start of each run; empty when nowhere measured."""
    columns = [_all_ceilings(run) for run in runs]
    return by_run(runs, columns) if any(columns) else Markdown("")


def by_run(runs: Sequence[Run], columns: Sequence[dict[str, str]]) -> Markdown:
    """Table of properties: a row for every key that any column has a value for."""
    keys = dict.fromkeys(key for column in columns for key, value in column.items() if value)
    rows = [[key, *(column.get(key) or units.ABSENT for column in columns)] for key in keys]
    return markdown_table(["", *run_labels(runs)], rows)


def _host(environment: Environment) -> dict[str, str]:
    dirty = " with uncommitted changes" if environment.git_dirty else ""
    return {
        "host": environment.hostname,
        "system": f"{environment.system}, kernel {environment.kernel}",
        "container": environment.container or "",
        "CPU governor": environment.governor or "",
        "load at the start": "" if environment.load_average is None else f"{environment.load_average:.2f}",
        "moebench revision": f"{environment.git_sha}{dirty}" if environment.git_sha else "",
    }


def _software(environment: Environment) -> dict[str, str]:
    variables = ", ".join(f"{name}={value}" for name, value in sorted(environment.variables.items()))
    versions = {name: version or "not installed" for name, version in environment.versions.items()}
    return {"Python": environment.python} | versions | {"variables": variables}


def _devices(run: Run) -> dict[str, str]:
    described: dict[str, str] = {}
    for word in used_devices(run):
        device = run.environment.devices.get(word)
        if device is not None:
            described |= {f"{word}: {key}": value for key, value in _device(device).items()}
            described[f"{word}: verdicts"] = in_short(run.environment.calibrations.get(word))
    return described


def _device(device: Device) -> dict[str, str]:
    mig = {None: "", True: "on", False: "off"}[device.mig]
    return {
        "device": device.name,
        "memory": units.size(device.memory_bytes),
        "last-level cache": units.size(device.cache_bytes),
        "cores or SMs": str(device.cores or ""),
        "threads used": str(device.threads or ""),
        "compute capability": device.capability or "",
        "driver": device.driver or "",
        "power limit": f"{device.power_limit_watts:g} W" if device.power_limit_watts else "",
        "MIG": mig,
        "datasheet": device.datasheet or "",
    }


def _all_ceilings(run: Run) -> dict[str, str]:
    measured = run.environment.ceilings
    return {f"{word}: {key}": value for word in measured for key, value in _ceilings(measured[word]).items()}


def _ceilings(ceilings: Ceilings) -> dict[str, str]:
    def rate(value: float) -> str:
        return f"{units.digits(value / 1e9)} GB/s"

    gemm = {f"GEMM {dtype}": f"{units.digits(v / 1e12)} TFLOP/s" for dtype, v in ceilings.gemm_flops_per_second.items()}
    return {
        "read": rate(ceilings.read_bytes_per_second),
        "read from cache": rate(ceilings.cached_read_bytes_per_second),
        "copy, both ways counted": rate(ceilings.copy_bytes_per_second),
        **gemm,
        "launch of an empty kernel": units.time(ceilings.launch_ns),
    }
