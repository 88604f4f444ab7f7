"""What a case's calls had to do, and the least time this device could do it in."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

import torch

from harness.cases.cost import floor, min_bytes, useful_flops
from harness.records.record import CACHE_MARGIN, Work

if TYPE_CHECKING:
    from torch import Tensor

    from harness.cases.case import Case
    from harness.cases.datasheet import Datasheet
    from harness.layer.contract import Routing
    from harness.records.environment import Ceilings


class Traversed:
    """What the timed calls' routings did: tokens per expert, summed up so that the device is asked only at the end."""

    def __init__(self, case: Case, cache_bytes: int) -> None:
        self._case = case
        self._cache_bytes = cache_bytes
        self._counts: list[Tensor] = []
        self.has_router = True

    def add(self, routing: Routing) -> None:
        """Count one call's routing. Does not wait for the device."""
        ids = routing.expert_ids.flatten()
        counts = torch.zeros(self._case.shape.experts + 1, dtype=torch.int64, device=ids.device)
        self._counts.append(counts.scatter_add_(0, ids, torch.ones_like(ids))[:-1])

    def of_baseline(self) -> Traversed:
        """Return what the dense baseline does in the same calls: every token passes through experts 0..k-1."""
        baseline = Traversed(self._case, self._cache_bytes)
        shape, tokens = self._case.shape, self._case.traffic.tokens
        counts = torch.zeros(shape.experts, dtype=torch.int64)
        counts[: shape.active_experts] = tokens
        baseline._counts, baseline.has_router = [counts], False
        return baseline

    @functools.cached_property
    def _table(self) -> Tensor:
        """(calls, E) tokens per expert; asked for when the last call was added."""
        return torch.stack(self._counts).cpu()

    @property
    def distinct_experts(self) -> float:
        """Mean number of experts that got a token."""
        return float((self._table > 0).sum(1).double().mean())

    @property
    def routed_slots(self) -> float:
        """Mean number of (token, expert) pairs that were not dropped."""
        return float(self._table.sum(1).double().mean())

    @property
    def cache(self) -> Literal["hot", "cold"]:
        """Whether the weights could stay in the last-level cache from one call to the next."""
        touched = int((self._table.sum(0) > 0).sum())
        bytes_touched = touched * self._case.shape.expert_params * self._case.dtype_bytes
        return "cold" if bytes_touched >= CACHE_MARGIN * self._cache_bytes else "hot"


def work_of(case: Case, traversed: Traversed, ceilings: Ceilings | None, datasheet: Datasheet | None) -> Work:
    """FLOPs, bytes and floors of a case's mean call.

    Hot weights are held against the bandwidth of the cache, cold ones against that of memory.
    """
    flops = useful_flops(case, traversed.routed_slots, has_router=traversed.has_router)
    bytes_moved = min_bytes(case, traversed.distinct_experts, has_router=traversed.has_router)
    work = Work(distinct_experts=traversed.distinct_experts, useful_flops=flops, min_bytes=bytes_moved)
    gemm = ceilings.gemm_flops_per_second.get(case.dtype) if ceilings else None
    hot = traversed.cache == "hot"
    if ceilings and gemm:
        bandwidth = ceilings.cached_read_bytes_per_second if hot else ceilings.read_bytes_per_second
        measured = floor(flops, bytes_moved, gemm, max(bandwidth, ceilings.read_bytes_per_second))
        work.floor_ns, work.bound = measured.time_ns, measured.bound
    peak = datasheet.flops_per_second(case.dtype) if datasheet else None
    if datasheet and peak:
        from_memory = 0.0 if hot else bytes_moved  # no datasheet tells a cache's bandwidth
        work.floor_datasheet_ns = floor(flops, from_memory, peak, datasheet.bytes_per_second).time_ns
    return work
