"""The doctor: what this machine can measure and what it cannot, why, and what to do about it. Runs nothing, no torch.

What only torch can tell arrives as ``probe`` from ``harness.running.worker.devices.probe_facts``; an empty probe means
that torch could not be asked.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import msgspec

from harness.running.facts import COARSE_CLOCK_NS, Facts, look_around

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.records.environment import Environment
    from harness.running.facts import BoardFacts, Local

SLOW_CLOCKSOURCES = {"hpet", "acpi_pm", "jiffies", "refined-jiffies"}
BUSY_SHARE = 0.25
LEAST_FREE_BYTES = 1 << 30


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing the doctor looked at. ``what`` is the state, ``why`` it matters, ``advice`` what to do about it."""

    topic: str
    status: Literal["ok", "limited", "missing"]
    what: str
    why: str = ""
    advice: str = ""


def diagnose(environment: Environment, probe: dict[str, object], local: Local | None = None) -> list[Finding]:
    """Judge the machine, topic by topic, always in the same order.

    Raises
    ------
    msgspec.ValidationError
        when ``probe`` does not come from ``probe_facts``.
    """
    facts = msgspec.convert(probe, Facts)
    local = local or look_around()
    return [
        *_clock(local),
        *_processor(environment, facts, local),
        *_memory(facts),
        *_cuda(environment, facts),
        *(finding for name, board in facts.boards.items() for finding in _board(name, board, local)),
        *_software(environment, facts, local),
        *_disk(local),
    ]


def _clock(local: Local) -> Iterator[Finding]:
    slow = local.clocksource in SLOW_CLOCKSOURCES or local.clock_step_ns >= COARSE_CLOCK_NS
    yield Finding(
        topic="clock",
        status="limited" if slow else "ok",
        what=f"steps of {local.clock_step_ns} ns, kernel clock source {local.clocksource or 'unknown'}",
        why="reading a slow clock costs as much as a small call takes" if slow else "",
        advice="boot with a TSC clock source, or trust only calls well above 10 us" if slow else "",
    )


def _processor(environment: Environment, facts: Facts, local: Local) -> Iterator[Finding]:
    device = environment.devices.get("cpu")
    cores = (device.cores if device else None) or os.cpu_count() or 1
    load = environment.load_average
    busy = load is not None and load > BUSY_SHARE * cores
    yield Finding(
        topic="cpu load",
        status="limited" if busy or load is None else "ok",
        what="load average unknown" if load is None else f"load average {load:.1f} on {cores} cores",
        why="other work takes cores and cache, and widens every interval" if busy else "",
        advice="wait until it is done; the A/A control shows how much noise is left" if busy else "",
    )
    steady = environment.governor == "performance"
    yield Finding(
        topic="cpu governor",
        status="ok" if steady else "limited",
        what=environment.governor or "not visible (a virtual machine or a container)",
        why="" if steady else "the clock frequency may change between calls",
        advice="" if steady else "on your own machine: cpupower frequency-set -g performance",
    )
    if facts.threads is not None:
        yield _threads(facts.threads, cores, local.allowed_cpus)
    yield Finding(
        topic="cpu cache",
        status="ok" if local.cache_known else "limited",
        what=f"last-level cache {(device.cache_bytes if device else 0) / 2**20:.0f} MiB"
        + ("" if local.cache_known else " (assumed)"),
        why="" if local.cache_known else "whether weights are read from cache or memory is a guess",
        advice="" if local.cache_known else "mount /sys into the container",
    )
    yield Finding(
        topic="cpu energy",
        status="missing",
        what="not measured",
        why="the CPU's counters (RAPL) cover the whole package, need root, and are absent in most machines for rent",
        advice="energy is measured on NVIDIA GPUs",
    )


def _threads(threads: int, cores: int, quota: float | None) -> Finding:
    cut = quota is not None and quota < threads
    granted = "" if quota is None else f", the container grants {quota:g} CPUs"
    return Finding(
        topic="cpu threads",
        status="limited" if cut else "ok",
        what=f"torch uses {threads} threads, {cores} cores{granted}",
        why="threads above the quota are put to sleep in the middle of a call" if cut else "",
        advice=f"set OMP_NUM_THREADS={max(1, int(quota or 1))}" if cut else "",
    )


def _memory(facts: Facts) -> Iterator[Finding]:
    if not facts.torch:
        return
    views = {"allocations": facts.memory_events, "the kernel's peak": facts.resident_peak}
    lacking = [word for word, there in views.items() if not there]
    advice = "" if facts.resident_peak else "allow writing /proc/self/clear_refs, on Linux"
    yield Finding(
        topic="cpu memory",
        status="missing" if not facts.memory_events else "limited" if lacking else "ok",
        what="no " + " and no ".join(lacking) if lacking else "exact allocations and the kernel's peak",
        why="" if facts.memory_events else "torch's profiler reports no allocations on this machine",
        advice=advice if facts.memory_events else "use an official build of torch, which has kineto",
    )


def _cuda(environment: Environment, facts: Facts) -> Iterator[Finding]:
    if facts.torch is None:
        yield Finding(
            topic="torch",
            status="missing",
            what="the worker could not import torch",
            why="nothing can be measured without it",
            advice="python -c 'import torch' shows the error; pip install torch",
        )
        return
    yield Finding(topic="torch", status="ok", what=facts.torch)
    if facts.gpus == 0:
        built = facts.cuda_build is not None
        yield Finding(
            topic="cuda",
            status="missing",
            what=f"torch is built for CUDA {facts.cuda_build}, but sees no GPU"
            if built
            else "torch is built without CUDA",
            why="cases run on the CPU only; no GPU times, no energy",
            advice="check nvidia-smi, the driver and CUDA_VISIBLE_DEVICES"
            if built
            else "install a CUDA build of torch",
        )
        return
    for name, device in environment.devices.items():
        if device.kind == "cuda":
            known = device.datasheet is not None
            yield Finding(
                topic=name,
                status="ok" if known else "limited",
                what=f"{device.name}, {device.memory_bytes / 2**30:.0f} GiB, driver {device.driver or 'unknown'}",
                why="" if known else "no datasheet is known for it: floors come from measured ceilings alone",
                advice="" if known else "add its row to harness/cases/datasheet.toml",
            )


def _board(name: str, board: BoardFacts, local: Local) -> Iterator[Finding]:
    if board.why_not:
        yield Finding(
            topic=f"{name} nvml",
            status="missing",
            what=board.why_not,
            why="no energy, no clocks, no throttling, no sight of other processes",
            advice="times and memory are measured all the same",
        )
        return
    yield _energy(name, board)
    yield Finding(
        topic=f"{name} mig",
        status="limited" if board.mig else "ok",
        what="on: this is a slice of a GPU" if board.mig else "off",
        why="other slices share memory bandwidth and power" if board.mig else "",
        advice="nvidia-smi -mig 0, as root, for figures of the whole GPU" if board.mig else "",
    )
    yield _company(name, board)
    yield _clocks(name, board, local)


def _energy(name: str, board: BoardFacts) -> Finding:
    reason = "the counter is the whole board's, not the slice's" if board.mig else board.no_energy
    return Finding(
        topic=f"{name} energy",
        status="missing" if reason else "ok",
        what=reason or "total-energy counter, sustained windows of 5 s",
        why="joules per token stay empty" if reason else "",
        advice="use a GPU from Volta on, without MIG, with NVML let through" if reason else "",
    )


def _company(name: str, board: BoardFacts) -> Finding:
    others = board.processes
    if others is None:
        what = "the list of processes is withheld"
    else:
        what = f"{len(others)} other processes: {', '.join(map(str, others[:8]))}" if others else "none"
    return Finding(
        topic=f"{name} other processes",
        status="ok" if others == [] else "limited",
        what=what,
        why="" if others == [] else "others on the GPU take its time, memory, power and cache",
        advice="" if others == [] else "stop them; inside a container one may be this very process under another id",
    )


def _clocks(name: str, board: BoardFacts, local: Local) -> Finding:
    bad = sorted({"hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"} & set(board.reasons or []))
    locked = "application_clocks" in (board.reasons or [])
    what = f"SM {board.sm_clock_mhz or '?'} of {board.max_sm_clock_mhz or '?'} MHz, {board.temperature_c or '?'} C"
    if bad:
        why, advice = "the GPU slows itself down: " + ", ".join(bad), "check cooling and power before measuring"
    elif locked:
        why, advice = "", ""
    else:
        why = "clocks are not locked and follow load and temperature"
        rights = "" if local.root else " (needs root)"
        advice = f"nvidia-smi -lgc BASE,BASE{rights}; without it, trust ratios within a bout"
    return Finding(
        topic=f"{name} clocks",
        status="ok" if locked and not bad else "limited",
        what=what + (", set by hand" if locked else ""),
        why=why,
        advice=advice,
    )


def _software(environment: Environment, facts: Facts, local: Local) -> Iterator[Finding]:
    triton, transformers = environment.versions.get("triton"), environment.versions.get("transformers")
    yield Finding(
        topic="triton",
        status="ok" if triton else "missing",
        what=triton or "not installed",
        why="" if triton else "fused implementations and torch.compile on a GPU need it",
        advice="" if triton else "it comes with CUDA builds of torch; on a CPU nothing is lost",
    )
    yield Finding(
        topic="c++ compiler",
        status="ok" if local.compiler else "missing",
        what=local.compiler or "none found",
        why="" if local.compiler else "torch.compile on the CPU and triton's launchers are built with it",
        advice="" if local.compiler else "install g++, or point CXX at a compiler",
    )
    for device, refusal in facts.grouped_mm.items():
        yield Finding(
            topic=f"grouped_mm {device}",
            status="missing" if refusal else "ok",
            what=refusal or "runs in bf16",
            why="grouped implementations cannot run here" if refusal else "",
            advice="use a newer torch, and a GPU of capability 8.0 or higher" if refusal else "",
        )
    yield Finding(
        topic="transformers",
        status="ok" if transformers else "missing",
        what=transformers or "not installed",
        why="" if transformers else "its MoE layers are not among the peers",
        advice="" if transformers else "pip install 'transformers>=5.10'",
    )


def _disk(local: Local) -> Iterator[Finding]:
    short = local.free_disk_bytes < LEAST_FREE_BYTES
    yield Finding(
        topic="disk",
        status="limited" if short else "ok",
        what=f"{local.free_disk_bytes / 2**30:.1f} GiB free here",
        why="records and compiled kernels need room" if short else "",
        advice="free some, or write the run elsewhere" if short else "",
    )
