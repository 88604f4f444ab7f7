"""Ceilings: the best this device was seen to do. A floor under the time of a layer follows from them.

A ceiling that a kernel can beat would call honest results impossible, so each is the best of several ways of doing the
same, over several sizes, and of several medians. Data is random: constant data draws less power and runs faster.
GEMMs run under the precision settings of the process.
"""

from __future__ import annotations

import math
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import psutil
import torch
from torch.nn.functional import linear

from harness.cases.shape import require
from harness.layer.weights import TORCH_DTYPES
from harness.measure.caches import cache_bytes
from harness.measure.clocks import clock_for
from harness.records.environment import Ceilings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from harness.measure.clocks import Clock

SAMPLES = 5
LEAST_SAMPLE_NS = {"cpu": 50_000, "cuda": 1_000_000}
MOST_REPEATS = 1000
FAR_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}
LEAST_FAR = 2
"""Below so many times the last-level cache, what is read comes from there."""
SEED_ELEMENTS = 1 << 20
ROW = 1024
CACHE_PARTS = (3, 12, 48)
GEMM_SIZES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "cpu": (
        (256, 256, 256),
        (512, 512, 512),
        (1024, 1024, 1024),
        (1024, 2048, 512),
        (4096, 1024, 1024),
        (2048, 2048, 2048),
    ),
    "cuda": (
        (1024, 1024, 1024),
        (2048, 2048, 2048),
        (4096, 3072, 2048),
        (4096, 4096, 4096),
        (8192, 8192, 8192),
    ),
}
"""M, N, K: small ones that stay in cache and large ones that fill the device, squares and the shapes of experts."""
SHARES = {"copy": 0.1, "read": 0.25, "cached": 0.15, "gemm": 0.45, "launch": 0.05}
"""How the time is divided."""


@dataclass(frozen=True)
class Bench:
    """A device to measure on, its clock, and how much memory counts as far from and as inside its last-level cache."""

    device: str
    kind: str
    clock: Clock
    cache_bytes: int
    far_bytes: int

    def best_s(self, call: Callable[[], object], budget_s: float, *, launches: bool = False) -> float:
        """Seconds of one call: the least of several medians of five, at least one, until the budget is spent.

        On CUDA the calls are replayed from a graph, so that gaps between launches do not count, unless ``launches``
        asks for exactly those.
        """
        deadline_ns = self.clock.now_ns() + int(budget_s * 1e9)
        self.clock.time([call])
        estimate_ns = max(self._sample_ns([call]), 1.0)
        repeats = min(MOST_REPEATS, math.ceil(LEAST_SAMPLE_NS[self.kind] / estimate_ns))
        calls = [call] * repeats
        group = calls if launches or self.kind == "cpu" else [_graph_of(calls)]
        best_ns = math.inf
        while best_ns == math.inf or self.clock.now_ns() < deadline_ns:
            best_ns = min(best_ns, statistics.median(self._sample_ns(group) for _ in range(SAMPLES)))
        return best_ns / repeats / 1e9

    def _sample_ns(self, calls: Sequence[Callable[[], object]]) -> float:
        sample = self.clock.time(calls)
        return sample.wall_ns if sample.device_ns is None else sample.device_ns

    def random(self, elements: int, dtype: torch.dtype) -> Tensor:
        """Make normal numbers, a megaelement over and over; the process's own random state is left alone."""
        generator = torch.Generator(self.device).manual_seed(0)
        seed = torch.randn(min(elements, SEED_ELEMENTS), generator=generator, device=self.device).to(dtype)
        return seed.repeat(math.ceil(elements / len(seed)))[:elements]


def measure_ceilings(device: str, dtypes: Sequence[str], *, seconds: float = 4.0) -> Ceilings:
    """Measure bandwidths, the GEMM rate of every dtype, and the launch floor, in about ``seconds``.

    Raises
    ------
    ValueError
        for an unknown device or dtype.
    """
    require(device.partition(":")[0] in FAR_BYTES, "device", device, "cpu, cuda or cuda:N")
    for dtype in dtypes:
        require(dtype in TORCH_DTYPES, "dtype", dtype, "one of " + ", ".join(TORCH_DTYPES))
    started = time.perf_counter()
    bench = bench_for(device)
    with torch.no_grad(), torch.cuda.device(device) if bench.kind == "cuda" else nullcontext():
        read = _read_rate(bench, bench.far_bytes, seconds * SHARES["read"])
        copy = _copy_rate(bench, seconds * SHARES["copy"])
        share_s = seconds * SHARES["cached"] / len(CACHE_PARTS)
        cached = max(_read_rate(bench, bench.cache_bytes // part, share_s) for part in CACHE_PARTS)
        gemm_s = seconds * SHARES["gemm"] / max(1, len(dtypes))
        gemm = {dtype: _gemm_rate(bench, TORCH_DTYPES[dtype], gemm_s) for dtype in dtypes}
        launch_s = _launch_s(bench, seconds * SHARES["launch"])
    return Ceilings(
        copy_bytes_per_second=copy,
        read_bytes_per_second=read,
        cached_read_bytes_per_second=max(cached, read),
        gemm_flops_per_second=gemm,
        cache_bytes=bench.cache_bytes,
        launch_ns=launch_s * 1e9,
        seconds=time.perf_counter() - started,
    )


def bench_for(device: str) -> Bench:
    """Set up a device: far memory is 4 x the last-level cache, at least 256 MiB (CUDA: 1 GiB), if that much is free.

    Raises
    ------
    MemoryError
        when less is free than it takes to read past the cache.
    """
    kind = device.partition(":")[0]
    cache = cache_bytes(device)
    if kind == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for itself does not count as free
    free_bytes = torch.cuda.mem_get_info(device)[0] if kind == "cuda" else psutil.virtual_memory().available
    far_bytes = min(max(4 * cache, FAR_BYTES[kind]), free_bytes // 4)
    if far_bytes < max(LEAST_FAR * cache, ROW * 4):
        raise MemoryError(f"{free_bytes >> 20} MiB free on {device}: too little to measure its memory, not its cache")
    return Bench(device, kind, clock_for(device), cache, far_bytes)


def _graph_of(calls: Sequence[Callable[[], object]]) -> Callable[[], None]:
    """Capture calls, which have run before, one after another in a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph.replay


def _copy_rate(bench: Bench, budget_s: float) -> float:
    """Bytes per second of a copy, read and written both counted."""
    source = bench.random(bench.far_bytes // 4, torch.float32)
    target = torch.empty_like(source)
    return 2 * source.nbytes / bench.best_s(lambda: target.copy_(source), budget_s)


def _read_rate(bench: Bench, nbytes: int, budget_s: float) -> float:
    """Bytes per second of reading ``nbytes``, the best of a sum and of matrix times vector, as experts read weights.

    Which reader is fastest depends on the library: on some CPUs a half-precision product outruns a plain sum.
    """
    rates = []
    rows = max(1, nbytes // 4 // ROW)
    numbers = bench.random(rows * ROW, torch.float32)
    share_s = budget_s / (1 + len(TORCH_DTYPES))
    rates.append(numbers.nbytes / bench.best_s(numbers.sum, share_s))
    del numbers
    for dtype in TORCH_DTYPES.values():
        weight = bench.random(max(1, nbytes // dtype.itemsize // ROW) * ROW, dtype).view(-1, ROW)
        x = bench.random(ROW, dtype).view(1, ROW)
        rates.append(weight.nbytes / bench.best_s(partial(linear, x, weight), share_s))
        del weight
    return max(rates)


def _gemm_rate(bench: Bench, dtype: torch.dtype, budget_s: float) -> float:
    """FLOPs per second of the best GEMM. Sizes too slow for the time left are passed over, the first never."""
    deadline_ns = bench.clock.now_ns() + int(budget_s * 1e9)
    sizes = GEMM_SIZES[bench.kind]
    best = 0.0
    for m, n, k in sizes:
        flops = 2 * m * n * k
        left_s = (deadline_ns - bench.clock.now_ns()) / 1e9
        if best and (SAMPLES + 2) * flops / best > left_s:
            continue
        x, weight = bench.random(m * k, dtype).view(m, k), bench.random(n * k, dtype).view(n, k)
        call_s = bench.best_s(partial(linear, x, weight), budget_s / len(sizes))
        best = max(best, flops / call_s)
    return best


def _launch_s(bench: Bench, budget_s: float) -> float:
    """Seconds of the smallest operation there is: one number added to one number."""
    one = torch.ones(1, device=bench.device)
    return bench.best_s(lambda: one.add_(1), budget_s, launches=True)
