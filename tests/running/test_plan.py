"""What a run will do: which implementations of which case, in which order, within which budget."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases.case import Case, PlannedCase
from harness.cases.cost import memory_estimate_bytes
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.running.plan import (
    BOUT_SECONDS,
    CEILINGS_SECONDS,
    GFLOP_SECONDS,
    LEAST_BOUT_SECONDS,
    WORKER_START_SECONDS,
    Plan,
    absences,
    check_only,
    make_plan,
    remaining,
)
from harness.running.runner import chunks


def made(plans: Any, *planned: Any, names: tuple[str, ...] = ("einsum", "loop"), **options: Any) -> Plan:
    machine = plans.machine(*names, devices=("cpu", "cuda:0"), broken="theirs.bad")
    return make_plan("s", "what for", list(planned), machine, **options)


def test_without_names_everything_usable_is_planned(plans: Any) -> None:
    (one,) = made(plans, plans.planned(names=None)).planned
    assert one.implementations == ("einsum", "loop")


def test_a_case_keeps_its_own_names_in_its_order(plans: Any) -> None:
    (one,) = made(plans, plans.planned(names=("loop", "einsum"))).planned
    assert one.implementations == ("loop", "einsum")


def test_only_keeps_some_and_drops_cases_left_without(plans: Any) -> None:
    plan = made(plans, plans.planned(1, None), plans.planned(2, ("loop",)), plans.planned(3, None), only=("einsum",))
    assert [one.case.traffic.tokens for one in plan.planned] == [1, 3]
    assert {one.implementations for one in plan.planned} == {("einsum",)}


def test_a_plan_of_nothing_is_refused(plans: Any) -> None:
    with pytest.raises(ValueError, match="--impl = 'einsum': s asks for none of these"):
        made(plans, plans.planned(names=("loop",)), only=("einsum",))


@pytest.mark.parametrize("name", ["nope", "theirs.bad", ""])
def test_an_unknown_name_is_refused_wherever_it_comes_from(plans: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"^--impl = '{name}': one of einsum, loop$"):
        made(plans, plans.planned(), only=("loop", name))
    with pytest.raises(ValueError, match=f"^implementation = '{name}': one of einsum, loop$"):
        made(plans, plans.planned(names=(name,)))


def test_check_only_lets_known_names_and_nothing_pass(plans: Any) -> None:
    check_only(None, plans.machine("loop"))
    check_only(("loop",), plans.machine("loop"))


def test_a_device_that_is_not_there_is_refused(plans: Any) -> None:
    made(plans, plans.planned(device="cuda:0"))
    with pytest.raises(ValueError, match=r"^device = 'cuda:1': one of cpu, cuda:0$"):
        made(plans, plans.planned(device="cuda:1"))


def test_cases_of_one_layer_come_together_in_the_order_of_the_first(plans: Any) -> None:
    order = [(8, 64), (8, 32), (4, 64), (2, 32), (1, 64)]
    plan = made(plans, *(plans.planned(tokens, hidden=hidden) for tokens, hidden in order))
    found = [(one.case.traffic.tokens, one.case.shape.hidden) for one in plan.planned]
    assert found == [(8, 64), (4, 64), (1, 64), (8, 32), (2, 32)]


def test_the_budget_is_the_given_one_or_follows_from_the_devices(plans: Any) -> None:
    both = plans.planned(1), plans.planned(2), plans.planned(3, device="cuda:0")
    assert made(plans, *both, budget_s=7.0).budget_s == 7.0
    assert made(plans, *both).budget_s == 2 * BOUT_SECONDS["cpu"] + BOUT_SECONDS["cuda"]


def test_what_a_plan_expects(plans: Any) -> None:
    """Two layers on one device and one on another: three workers, two measurements of ceilings."""
    on_cpu = plans.planned(1), plans.planned(2), plans.planned(1, hidden=64)
    plan = made(plans, *on_cpu, plans.planned(3, device="cuda:0"), budget_s=9.0)
    assert plan.devices == ("cpu", "cuda:0")
    assert plan.expected_s == 3 * WORKER_START_SECONDS + 2 * CEILINGS_SECONDS + 9.0
    assert plan.memory_bytes == max(memory_estimate_bytes(one.case) for one in plan.planned)


def test_what_comes_before_the_clock_counts_where_the_budget_is_too_small_for_it(plans: Any) -> None:
    """However small the budget, weights are made and the oracle answers; timing keeps a quarter of it."""
    many = made(plans, *(plans.planned(tokens) for tokens in range(1, 101)), budget_s=4.0)
    ahead_s = 100 * LEAST_BOUT_SECONDS + 0.25 * 4.0
    least_s = WORKER_START_SECONDS + CEILINGS_SECONDS + ahead_s
    assert least_s <= many.expected_s < least_s + 1.0


def test_the_oracle_and_every_implementation_compute_before_the_clock(plans: Any) -> None:
    """10,000 tokens of 2 experts of 3 * 32 * 16 weights: 0.06 GFLOP a call."""
    few, many = (
        made(plans, plans.planned(tokens, ("einsum", "loop")), budget_s=0.0).expected_s for tokens in (1, 10_001)
    )
    gflop = 6 * 10_000 * 2 * 32 * 16 / 1e9
    assert many - few == pytest.approx(3 * GFLOP_SECONDS * gflop)


def test_training_and_every_implementation_take_their_time_before_the_clock(plans: Any) -> None:
    """Two fp32 training cases of 64 experts of 2048 x 1024 once took 81 s and 111 s before their clocks started."""
    names = ("a", "b", "c", "d", "e")
    shape = Shape(hidden=2048, expert_hidden=1024, experts=64, top_k=8)

    def expected_s(pass_: str, several: int) -> float:
        cases = [Case(shape=shape, traffic=Traffic(tokens=t), dtype="fp32", pass_=pass_) for t in (16, 64)]  # type: ignore[arg-type]
        planned = tuple(PlannedCase(case=case, implementations=names[:several]) for case in cases)
        return Plan("s", "", planned, budget_s=1.0).expected_s

    assert 150 < expected_s("training", 5) < 300
    assert expected_s("forward", 5) < 60
    assert expected_s("training", 1) < 0.5 * expected_s("training", 5)


def test_chunks_are_neighbours_that_share_a_layer(plans: Any) -> None:
    planned = [plans.planned(1, hidden=32), plans.planned(2, hidden=32), plans.planned(1, hidden=64)]
    assert chunks(planned, one_worker=False) == [planned[:2], planned[2:]]
    assert chunks(planned, one_worker=True) == [planned]
    assert chunks([], one_worker=True) == chunks([], one_worker=False) == []


@given(st.data())
def test_remaining_is_what_has_no_record(plans: Any, data: st.DataObject) -> None:
    names = ("a", "b", "c")
    planned = [plans.planned(tokens, names) for tokens in range(1, 5)]
    pairs = [(one.case.case_id, name) for one in planned for name in names]
    done = data.draw(st.sets(st.sampled_from(pairs)))
    left = remaining(planned, done | {("another case", "a")})
    assert [(one.case.case_id, name) for one in left for name in one.implementations or ()] == [
        pair for pair in pairs if pair not in done
    ]
    assert all(one.implementations for one in left)


def test_what_is_not_here_is_left_out_and_named(plans: Any) -> None:
    machine = plans.machine("loop", missing=("far", "off"))
    planned = [plans.planned(1, ("far", "loop")), plans.planned(2, ("off",)), plans.planned(3, None)]
    plan = make_plan("s", "", planned, machine)
    assert [(one.case.traffic.tokens, one.implementations) for one in plan.planned] == [(1, ("loop",)), (3, ("loop",))]
    assert absences(plan.not_here) == "not here: far needs pip install far; off needs pip install off"
    assert make_plan("s", "", planned[2:], machine).not_here == {}, "nobody asked for those"


def test_a_suite_of_nothing_that_is_here_is_refused(plans: Any) -> None:
    machine = plans.machine("loop", missing=("far",))
    with pytest.raises(ValueError, match=r"^suite = 's': not here: far needs pip install far, and it asks for nothing"):
        make_plan("s", "", [plans.planned(1, ("far",))], machine)


def test_asking_for_what_is_not_here_by_name_is_refused(plans: Any) -> None:
    machine = plans.machine("loop", missing=("far",))
    with pytest.raises(ValueError, match=r"^--impl = 'far': not here, needs pip install far$"):
        check_only(("loop", "far"), machine)
