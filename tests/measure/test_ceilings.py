from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from harness.measure import ceilings
from harness.measure.ceilings import Bench, bench_for, measure_ceilings
from harness.measure.clocks import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class ScriptedClock:
    """Gives the durations it was told to, one a sample, the last one for ever; each also passes. Calls nothing."""

    name = "wall"

    def __init__(self, *durations_ns: int) -> None:
        self.script = list(durations_ns)
        self.at_ns = 0
        self.groups: list[int] = []

    def now_ns(self) -> int:
        return self.at_ns

    def synchronise(self) -> None:
        raise AssertionError("the clock synchronises by itself")

    def time(self, calls: Sequence[Callable[[], Any]]) -> Sample:
        self.groups.append(len(calls))
        wall = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.at_ns += wall
        return Sample(wall, None, None)


def bench(clock: ScriptedClock) -> Bench:
    return Bench("cpu", "cpu", clock, cache_bytes=1 << 16, far_bytes=1 << 20)


def test_the_best_median_of_five_counts_and_no_single_sample() -> None:
    warm, estimate = 900_000, 100_000
    first, second = [100_000, 1, 100_000, 100_000, 900_000], [80_000, 1, 1, 80_000, 90_000]
    clock = ScriptedClock(warm, estimate, *first, *second)
    seconds = bench(clock).best_s(lambda: None, budget_s=(warm + estimate + sum(first) + 1) / 1e9)
    assert seconds == pytest.approx(80_000e-9)
    assert len(clock.groups) == 12


def test_one_median_is_taken_whatever_the_budget() -> None:
    clock = ScriptedClock(10**9)
    assert bench(clock).best_s(lambda: None, budget_s=0) == pytest.approx(1.0)
    assert len(clock.groups) == 7


def test_short_calls_are_timed_in_groups() -> None:
    clock = ScriptedClock(1000, 1000, 50_000)
    assert bench(clock).best_s(lambda: None, budget_s=0) == pytest.approx(1000e-9)
    assert clock.groups[2:] == [50] * 5


def test_slow_products_are_passed_over_but_never_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ceilings.GEMM_SIZES, "cpu", ((8, 8, 8), (16, 16, 16), (32, 32, 32)))
    clock = ScriptedClock(10**8)
    rate = ceilings._gemm_rate(bench(clock), torch.float32, budget_s=0.1)
    assert rate == pytest.approx(2 * 8**3 / 0.1)
    assert len(clock.groups) == 7


def test_the_fastest_size_is_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ceilings.GEMM_SIZES, "cpu", ((8, 8, 8), (32, 32, 32), (16, 16, 16)))
    clock = ScriptedClock(100_000)
    rate = ceilings._gemm_rate(bench(clock), torch.float32, budget_s=0.1)
    assert rate == pytest.approx(2 * 32**3 / 1e-4)


def test_bytes_of_a_copy_count_twice() -> None:
    assert ceilings._copy_rate(bench(ScriptedClock(1_000_000)), 0) == pytest.approx(2 * (1 << 20) / 1e-3)


def test_read_bytes_count_once() -> None:
    assert ceilings._read_rate(bench(ScriptedClock(1_000_000)), 1 << 20, 0) == pytest.approx((1 << 20) / 1e-3)


@pytest.mark.parametrize("place", range(4))
def test_the_best_reader_wins_whichever_it_is(place: int) -> None:
    """A sum, and a product in each of three dtypes, of seven samples each."""
    slow, fast = [1_000_000] * 7, [500_000] * 7
    clock = ScriptedClock(*slow * place, *fast, *slow * (3 - place))
    assert ceilings._read_rate(bench(clock), 1 << 20, 0) == pytest.approx((1 << 20) / 5e-4)
    assert len(clock.groups) == 4 * 7


@pytest.mark.parametrize("elements", [1, 1000, ceilings.SEED_ELEMENTS + 7])
def test_data_is_random_and_leaves_the_global_state_alone(elements: int) -> None:
    before = torch.get_rng_state()
    numbers = bench(ScriptedClock(1)).random(elements, torch.float32)
    assert torch.equal(before, torch.get_rng_state())
    assert len(numbers) == elements
    if elements > 1:
        assert float(numbers.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("cache", "far"), [(1 << 20, 256 << 20), (1 << 30, 4 << 30)])
def test_far_memory_is_four_caches_at_least(monkeypatch: pytest.MonkeyPatch, cache: int, far: int) -> None:
    monkeypatch.setattr(ceilings, "cache_bytes", lambda _device: cache)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1 << 40}))
    assert bench_for("cpu").far_bytes == far


def test_far_memory_is_never_more_than_a_quarter_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "cache_bytes", lambda _device: 1 << 16)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1 << 20}))
    assert bench_for("cpu").far_bytes == 1 << 18


def test_what_would_be_read_from_the_cache_is_not_called_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "cache_bytes", lambda _device: 1 << 30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1 << 30}))
    with pytest.raises(MemoryError, match="1024 MiB free on cpu: too little"):
        bench_for("cpu")


def test_ceilings_of_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ceilings.FAR_BYTES, "cpu", 1 << 22)
    monkeypatch.setattr(ceilings, "cache_bytes", lambda _device: 1 << 20)
    monkeypatch.setitem(ceilings.GEMM_SIZES, "cpu", ((64, 64, 64), (128, 128, 128)))
    measured = measure_ceilings("cpu", ["fp32", "bf16"], seconds=0.1)
    assert measured.copy_bytes_per_second > 0
    assert measured.cached_read_bytes_per_second >= measured.read_bytes_per_second > 0
    assert set(measured.gemm_flops_per_second) == {"fp32", "bf16"}
    assert min(measured.gemm_flops_per_second.values()) > 0
    assert measured.cache_bytes == 1 << 20
    assert measured.launch_ns > 0
    assert measured.seconds > 0


@pytest.mark.parametrize(
    ("device", "dtypes", "key"), [("tpu", ["fp32"], "device = 'tpu'"), ("cpu", ["fp8"], "dtype = 'fp8'")]
)
def test_unknown_words_are_refused(device: str, dtypes: list[str], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        measure_ceilings(device, dtypes)


@pytest.mark.cuda
def test_ceilings_of_a_gpu() -> None:
    measured = measure_ceilings("cuda:0", ["fp32", "bf16", "fp16"])
    assert measured.gemm_flops_per_second["bf16"] > measured.gemm_flops_per_second["fp32"] > 1e11
    assert measured.cached_read_bytes_per_second >= measured.read_bytes_per_second > 1e10
    assert measured.launch_ns < 1e6
