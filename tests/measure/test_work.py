"""What the timed calls had to do, held against counting by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from harness.cases.cost import floor, min_bytes, useful_flops
from harness.cases.datasheet import Datasheet
from harness.layer.contract import Routing
from harness.measure.work import Traversed, work_of
from harness.records.environment import Ceilings
from harness.records.record import CACHE_MARGIN


def routing(*rows: list[int]) -> Routing:
    ids = torch.tensor(rows)
    return Routing(ids, torch.ones(ids.shape))


def ceilings(**given: Any) -> Ceilings:
    values: dict[str, Any] = {
        "copy_bytes_per_second": 1e10,
        "read_bytes_per_second": 2e10,
        "cached_read_bytes_per_second": 8e10,
        "gemm_flops_per_second": {"fp32": 1e11},
        "cache_bytes": 1,
        "launch_ns": 1.0,
    }
    return Ceilings(**{**values, **given})


def test_counts_are_means_over_calls_without_dropped_slots(kit: Any) -> None:
    traversed = Traversed(kit.case(2), cache_bytes=0)
    traversed.add(routing([0, 1], [1, 4]))
    traversed.add(routing([2, 3], [0, 1]))
    assert traversed.routed_slots == (3 + 4) / 2
    assert traversed.distinct_experts == (2 + 4) / 2


def test_no_token_hits_no_expert(kit: Any) -> None:
    traversed = Traversed(kit.case(0), cache_bytes=0)
    traversed.add(Routing(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2)))
    assert (traversed.routed_slots, traversed.distinct_experts) == (0, 0)


def test_adding_keeps_no_hold_of_the_routing(kit: Any) -> None:
    one = routing([0, 1], [1, 4])
    traversed = Traversed(kit.case(2), cache_bytes=0)
    traversed.add(one)
    one.expert_ids.fill_(3)
    assert traversed.distinct_experts == 2


def test_weights_are_hot_when_those_of_all_calls_together_fit(kit: Any) -> None:
    case = kit.case(1)
    expert_bytes = case.shape.expert_params * case.dtype_bytes
    margin = 2 * expert_bytes // CACHE_MARGIN
    for cache_bytes, calls, cache in [
        (margin, [[0, 1]], "cold"),
        (margin + 1, [[0, 1]], "hot"),
        (margin + 1, [[0, 1], [1, 0]], "hot"),
        (margin + 1, [[0, 1], [1, 2]], "cold"),
    ]:
        traversed = Traversed(case, cache_bytes)
        for ids in calls:
            traversed.add(routing(ids))
        assert traversed.cache == cache


def test_the_baseline_reads_its_own_experts_whatever_the_routing(kit: Any) -> None:
    """Held against the D experts the others hit, a dense FFN would look faster than this device can be."""
    case = kit.case(3, experts=4, top_k=1)
    traversed = Traversed(case, cache_bytes=case.shape.expert_params * case.dtype_bytes // CACHE_MARGIN + 1)
    traversed.add(routing([0], [1], [2]))
    assert traversed.cache == "cold"
    baseline = traversed.of_baseline()
    assert (baseline.distinct_experts, baseline.routed_slots, baseline.cache) == (1, 3, "hot")
    assert work_of(case, baseline, None, None).min_bytes < work_of(case, traversed, None, None).min_bytes
    layer = msgspec.structs.replace(case, scope="layer")
    assert work_of(layer, baseline, None, None) == work_of(case, baseline, None, None), "it has no router to run"


@pytest.mark.parametrize(("cache_bytes", "bandwidth"), [(0, 2e10), (1 << 40, 8e10)])
def test_floors_follow_from_the_ceilings_of_where_the_weights_are(kit: Any, cache_bytes: int, bandwidth: float) -> None:
    case = kit.case(2)
    traversed = Traversed(case, cache_bytes)
    traversed.add(routing([0, 1], [1, 4]))
    work = work_of(case, traversed, ceilings(), None)
    assert work.useful_flops == useful_flops(case, 3)
    assert work.min_bytes == min_bytes(case, 2)
    expected = floor(work.useful_flops, work.min_bytes, 1e11, bandwidth)
    assert (work.floor_ns, work.bound) == expected
    assert work.floor_datasheet_ns is None


def test_a_cache_that_was_measured_slower_than_memory_does_not_lower_the_floor(kit: Any) -> None:
    traversed = Traversed(kit.case(1), cache_bytes=1 << 40)
    traversed.add(routing([0, 1]))
    slow = work_of(kit.case(1), traversed, ceilings(cached_read_bytes_per_second=1e3), None)
    assert slow.floor_ns == work_of(kit.case(1), traversed, ceilings(cached_read_bytes_per_second=2e10), None).floor_ns


def test_without_a_ceiling_of_this_dtype_there_is_no_floor(kit: Any) -> None:
    case = kit.case(1, dtype="bf16")
    traversed = Traversed(case, 0)
    traversed.add(routing([0, 1]))
    for known in (None, ceilings()):
        work = work_of(case, traversed, known, None)
        assert (work.floor_ns, work.bound) == (None, None)
    assert work.useful_flops > 0


SHEET = Datasheet(
    name="G", match=(), memory_gib=1, tflops={"fp32": 1.0}, tbytes_per_second=1e-3, tdp_watts=1, source="made up"
)


def test_weights_in_the_cache_are_not_held_against_a_datasheets_memory(kit: Any) -> None:
    case = kit.case(1)
    traversed = Traversed(case, 1 << 40)
    traversed.add(routing([0, 1]))
    work = work_of(case, traversed, None, SHEET)
    assert traversed.cache == "hot"
    assert work.floor_datasheet_ns == pytest.approx(work.useful_flops / 1e12 * 1e9)


def test_a_datasheet_gives_a_floor_of_its_own(kit: Any) -> None:
    case = kit.case(1)
    traversed = Traversed(case, 0)
    traversed.add(routing([0, 1]))
    work = work_of(case, traversed, None, SHEET)
    assert work.floor_datasheet_ns == floor(work.useful_flops, work.min_bytes, 1e12, 1e9).time_ns
    assert work.floor_ns is None
