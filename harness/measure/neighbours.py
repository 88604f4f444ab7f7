"""Who else had the CPUs while something was measured."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import psutil

from harness.records.record import Neighbours
from harness.records.trials import CpuTime

if TYPE_CHECKING:
    from harness.measure.meters.nvml import Board

IDLE = ("idle", "iowait")
INSIDE_OTHERS = ("guest", "guest_nice")
"""Fields that the kernel counts within ``user`` and ``nice`` as well."""


class CpuCount(NamedTuple):
    """Seconds of all CPUs since the machine started, and of this process since it did."""

    fields: dict[str, float]
    own_s: float


def count_cpu() -> CpuCount:
    """Read the kernel's counters, whose steps are of 10 ms."""
    fields = psutil.cpu_times()._asdict()
    return CpuCount({name: s for name, s in fields.items() if name not in INSIDE_OTHERS}, time.process_time())


def cpu_time(before: CpuCount, after: CpuCount) -> CpuTime:
    """Say who had the CPUs between two counts."""
    spent = {name: after.fields[name] - before.fields[name] for name in after.fields}
    own = after.own_s - before.own_s
    stolen = spent.get("steal")
    busy = sum(seconds for name, seconds in spent.items() if name not in {*IDLE, "steal"})
    return CpuTime(capacity_s=sum(spent.values()), own_s=own, others_s=max(0.0, busy - own), steal_s=stolen)


def neighbours(before: CpuCount, after: CpuCount, board: Board | None) -> Neighbours:
    """Say who else was at work between two counts, and how many others have a context on the GPU."""
    spent = cpu_time(before, after)
    listed = board.process_ids() if board else None
    shares: dict[str, float | None] = {}
    if spent.capacity_s > 0:
        shares["others_share"] = spent.others_s / spent.capacity_s
        shares["steal_share"] = None if spent.steal_s is None else spent.steal_s / spent.capacity_s
    # In a container the list may show the host's process ids, so this process is one of them, whichever.
    return Neighbours(**shares, gpu_processes=None if listed is None else max(0, len(listed) - 1))
