"""Who had the CPUs: what the kernel counts, less what is this process's own."""

from __future__ import annotations

import time

import psutil
import pytest

from harness.measure.neighbours import CpuCount, count_cpu, cpu_time, neighbours
from harness.records.record import Neighbours


def test_what_is_neither_idle_nor_own_nor_stolen_was_others() -> None:
    before = CpuCount({"user": 10.0, "system": 5.0, "idle": 100.0, "iowait": 1.0, "steal": 0.0}, 2.0)
    after = CpuCount({"user": 12.0, "system": 6.0, "idle": 104.0, "iowait": 1.5, "steal": 0.5}, 4.0)
    spent = cpu_time(before, after)
    assert (spent.capacity_s, spent.own_s, spent.others_s, spent.steal_s) == (8.0, 2.0, 1.0, 0.5)


def test_coarse_steps_of_the_kernel_never_give_others_less_than_nothing() -> None:
    assert cpu_time(CpuCount({"user": 1.0}, 1.0), CpuCount({"user": 1.01}, 1.02)).others_s == 0.0


def test_a_kernel_without_a_word_for_theft() -> None:
    assert (
        cpu_time(CpuCount({"user": 1.0, "idle": 1.0}, 0.0), CpuCount({"user": 2.0, "idle": 1.0}, 1.0)).steal_s is None
    )


def test_guests_are_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    class Times:
        def _asdict(self) -> dict[str, float]:
            return {"user": 3.0, "idle": 1.0, "guest": 3.0, "guest_nice": 0.5}

    monkeypatch.setattr(psutil, "cpu_times", Times)
    monkeypatch.setattr(time, "process_time", lambda: 1.5)
    assert count_cpu() == CpuCount({"user": 3.0, "idle": 1.0}, 1.5)


def test_on_this_machine() -> None:
    before = count_cpu()
    sum(range(10**6))
    spent = cpu_time(before, count_cpu())
    assert spent.own_s > 0
    assert spent.capacity_s >= 0


class Listing:
    """A board that lists so many processes, or withholds the list."""

    def __init__(self, count: int | None) -> None:
        self._count = count

    def process_ids(self) -> list[object] | None:
        return None if self._count is None else [object()] * self._count


@pytest.mark.parametrize(("listed", "others"), [(None, None), (0, 0), (1, 0), (3, 2)])
def test_this_process_is_no_neighbour_of_itself(listed: int | None, others: int | None) -> None:
    before = CpuCount({"user": 10.0, "idle": 100.0, "steal": 0.0}, 2.0)
    after = CpuCount({"user": 12.0, "idle": 105.0, "steal": 1.0}, 3.0)
    found = neighbours(before, after, Listing(listed))  # type: ignore[arg-type]
    assert found == Neighbours(others_share=0.125, steal_share=0.125, gpu_processes=others)


def test_nothing_is_said_of_no_time_at_all() -> None:
    moment = CpuCount({"user": 1.0, "idle": 1.0}, 1.0)
    assert neighbours(moment, moment, None) == Neighbours()
