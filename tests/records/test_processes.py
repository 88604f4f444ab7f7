"""Records of several processes become one, of which nothing is invented and nothing lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.processes import join, with_common_floor
from harness.records.record import Agreement, Energy, Memory, Neighbours
from harness.records.rounds import samples_of
from harness.records.stats import noise_floor


def test_samples_follow_one_another_and_know_their_process(make: Any) -> None:
    first = make.timing([1.0, 2.0], prepare_ns=11, calls_per_sample=4, warmup_calls=3)
    second = make.timing([3.0, 4.0, 5.0], prepare_ns=12, calls_per_sample=5, warmup_calls=4)
    joined = join({2: make.record(timing=second), 0: make.record(timing=first)}, None, "id").timing
    assert joined is not None
    assert joined.samples_ns == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert joined.processes == [0, 0, 2, 2, 2]
    assert joined.rounds == [0, 1, 0, 1, 2]
    assert (joined.prepare_ns, joined.calls_per_sample, joined.warmup_calls) == (11, 5, 7)
    assert (joined.median_ns, joined.min_ns) == (3.0, 1.0)


@given(
    st.lists(st.lists(st.floats(1.0, 1e9), min_size=1, max_size=8), min_size=1, max_size=4),
)
def test_every_sample_is_found_again_by_process_and_round(samples: list[list[float]]) -> None:
    from tests.records.conftest import Maker

    make = Maker()
    joined = join({i: make.record(timing=make.timing(one)) for i, one in enumerate(samples)}, None, "id")
    assert joined.timing is not None
    expected = {(i, r): value for i, one in enumerate(samples) for r, value in enumerate(one)}
    assert samples_of(joined.timing) == expected


def test_what_follows_from_samples_is_derived_again(make: Any) -> None:
    """A process in a busy moment looked impossible; all together are not, and no flag of one process stays."""
    work = make.work(floor_ns=10.0)
    odd = make.record(
        status="impossible",
        reason="110% of what this device can do",
        timing=make.timing([9.0] * 3),
        work=work,
        flags=["drift"],
    )
    sound = make.record(timing=make.timing([12.0] * 20), work=make.work(floor_ns=8.0))
    joined = join({0: odd, 1: sound}, make.ceilings(), "id")
    assert (joined.status, joined.reason, joined.bout, joined.flags) == ("ok", "", "id", [])
    assert joined.work is not None
    assert joined.work.floor_ns == 8.0
    assert joined.work.share_of_floor == pytest.approx(8 / 12)
    every = join({0: odd, 1: odd}, make.ceilings(), "id")
    assert every.status == "impossible"


@pytest.mark.parametrize(("drifting", "flags"), [(0, []), (2, []), (3, ["drift"]), (4, ["drift"])])
def test_drift_is_that_of_processes_not_between_them(make: Any, drifting: int, flags: list[str]) -> None:
    records = {
        i: make.record(timing=make.timing([10.0 * (i + 1)] * 9), flags=["drift"] if i < drifting else [])
        for i in range(4)
    }
    assert join(records, None, "id").flags == flags


def test_the_first_failure_stands_for_all(make: Any) -> None:
    sound = make.record(timing=make.timing([1.0]))
    failed = make.record(status="error", reason="no")
    joined = join({0: sound, 1: failed, 2: make.record(status="oom", reason="full")}, None, "id")
    assert (joined.status, joined.reason, joined.timing, joined.bout) == ("error", "no", None, "id")


def test_parts_are_taken_from_whoever_has_them(make: Any) -> None:
    memory = Memory(status="ok", peak_bytes=7)
    energy = Energy(status="unavailable", reason="shared")
    agreements = [Agreement(passed=True, rule="r", checks=2, deterministic=d) for d in (True, None, False)]
    neighbours = [Neighbours(others_share=0.1, gpu_processes=0), Neighbours(others_share=0.3, gpu_processes=2), None]
    records = [
        make.record(
            timing=make.timing([1.0]),
            memory=memory if i == 1 else None,
            energy=energy if i == 1 else None,
            agreement=agreements[i],
            neighbours=neighbours[i],
            taken_at=f"t{i}",
        )
        for i in range(3)
    ]
    joined = join(dict(enumerate(records)), None, "id")
    assert (joined.memory, joined.energy, joined.taken_at) == (memory, energy, "t2")
    assert joined.agreement is not None
    assert (joined.agreement.checks, joined.agreement.deterministic) == (6, False)
    assert joined.neighbours is not None
    assert joined.neighbours.others_share == pytest.approx(0.2)
    assert (joined.neighbours.steal_share, joined.neighbours.gpu_processes) == (None, 2)


def test_the_work_is_that_of_the_process_with_most_calls_over_the_lowest_floor(make: Any) -> None:
    lengths_and_floors = ((2, 5.0), (6, 9.0), (4, 7.0))
    records = {
        i: make.record(
            timing=make.timing([100.0] * length), work=make.work(distinct_experts=float(length), floor_ns=floor)
        )
        for i, (length, floor) in enumerate(lengths_and_floors)
    }
    work = join(records, None, "id").work
    assert work is not None
    assert (work.distinct_experts, work.floor_ns) == (6.0, 5.0)


def test_how_it_was_taken_holds_for_all(make: Any) -> None:
    timings = [
        make.timing([1.0], warm=True, cache="hot", stopped="rounds", device_ns=[0.5]),
        make.timing([1.0], warm=False, cache="cold", stopped="budget", device_ns=[0.6]),
    ]
    joined = join({i: make.record(timing=timing) for i, timing in enumerate(timings)}, None, "id").timing
    assert joined is not None
    assert (joined.warm, joined.cache, joined.stopped) == (False, "cold", "budget")
    assert joined.device_ns == [0.5, 0.6]
    alike = join({i: make.record(timing=timings[0]) for i in range(2)}, None, "id").timing
    assert alike is not None
    assert (alike.warm, alike.cache, alike.stopped) == (True, "hot", "rounds")
    timings[0].device_ns = None
    joined = join({i: make.record(timing=timing) for i, timing in enumerate(timings)}, None, "id").timing
    assert joined is not None
    assert joined.device_ns is None


def test_the_floor_is_that_of_the_control_over_all_processes(make: Any) -> None:
    samples = [10.0, 11.0, 10.5, 10.0, 10.2, 10.4]
    owner = {
        i: make.record("dense", timing=make.timing(samples, control_ns=samples[::-1], noise_floor=0.5))
        for i in range(2)
    }
    other = {i: make.record("loop", timing=make.timing(samples, noise_floor=0.5)) for i in range(2)}
    failed = make.record("bad", status="error", reason="no")
    records = with_common_floor([join(owner, None, "id"), failed, join(other, None, "id")])
    expected = noise_floor(samples * 2, samples[::-1] * 2)
    assert [record.timing.noise_floor for record in records if record.timing] == [expected, expected]


def test_without_one_control_over_all_processes_the_largest_floor_stays(make: Any) -> None:
    timings = [make.timing([1.0], control_ns=[1.0], noise_floor=0.01), make.timing([1.0], noise_floor=0.03)]
    joined = join({i: make.record(timing=timing) for i, timing in enumerate(timings)}, None, "id")
    (record,) = with_common_floor([joined])
    assert record.timing is not None
    assert (record.timing.control_ns, record.timing.noise_floor) == (None, 0.03)
