"""What the doctor judges by: facts from torch, by way of the child, and what the parent sees for itself."""

from __future__ import annotations

import os
import shutil
import time
from itertools import pairwise
from pathlib import Path

import msgspec

from harness.measure.caches import cpu_cache
from harness.running.environment import container_cpus

CLOCKSOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
COARSE_CLOCK_NS = 1000


class BoardFacts(msgspec.Struct, kw_only=True):
    """What NVML says about one GPU. ``why_not`` and ``no_energy`` are reasons; empty means that it answers.

    ``processes`` are the ids of others with a context on the board; None where the list is withheld.
    """

    why_not: str = ""
    no_energy: str = ""
    mig: bool = False
    sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    reasons: list[str] | None = None
    processes: list[int] | None = None


class Facts(msgspec.Struct, kw_only=True):
    """What torch says about the machine. ``grouped_mm`` holds, by device, why it does not run, or an empty string."""

    torch: str | None = None
    cuda_build: str | None = None
    gpus: int = 0
    threads: int | None = None
    memory_events: bool = False
    resident_peak: bool = False
    boards: dict[str, BoardFacts] = {}
    grouped_mm: dict[str, str] = {}


class Local(msgspec.Struct, kw_only=True):
    """What the parent process can see for itself right now."""

    clock_step_ns: int
    clocksource: str | None
    free_disk_bytes: int
    compiler: str | None
    root: bool
    allowed_cpus: float | None
    cache_known: bool


def look_around() -> Local:
    """Collect what the parent can see: clock, disk, compiler, rights, CPU quota."""
    try:
        clocksource: str | None = CLOCKSOURCE.read_text().strip()
    except OSError:
        clocksource = None
    found = (shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++", "c++"))
    return Local(
        clock_step_ns=clock_step_ns(),
        clocksource=clocksource,
        free_disk_bytes=shutil.disk_usage(Path.cwd()).free,
        compiler=next(filter(None, found), None),
        root=hasattr(os, "geteuid") and os.geteuid() == 0,
        allowed_cpus=container_cpus(),
        cache_known=cpu_cache().known,
    )


def clock_step_ns(reads: int = 2000) -> int:
    """Return the smallest step between two readings of ``perf_counter_ns`` that differ, reading costs included."""
    readings = [time.perf_counter_ns() for _ in range(reads)]
    return min((b - a for a, b in pairwise(readings) if b > a), default=COARSE_CLOCK_NS)
