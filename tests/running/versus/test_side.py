"""What a side is asked, what it loses and to whom it is charged. Nothing runs here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from harness.records.record import ImplInfo, Record, Timing
from harness.running import jobs
from harness.running.blackbox import Announcement
from harness.running.child import KILLS_FORGIVEN, Death, Limits
from harness.running.versus.side import Side, plan_sides

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.cases.case import Case
    from harness.running.machine import Machine

LIMITS = Limits(stage_s=5.0)


@pytest.fixture
def case(plans: Any) -> Case:
    made: Case = plans.case()
    return made


@pytest.fixture
def side(plans: Any) -> Side:
    """Three implementations in one case."""
    made = Side("new", plans.machine("a", "b", "c"), {}, {})
    made.planned[plans.case().case_id] = plans.planned(names=("a", "b", "c"))
    return made


def left(side: Side, case: Case) -> tuple[str, ...]:
    asked = side.asked(case)
    return (asked.implementations or ()) if asked else ()


def timing(*samples_ns: float) -> Timing:
    return Timing(
        clock="wall",
        cache="hot",
        samples_ns=list(samples_ns),
        rounds=list(range(len(samples_ns))),
        calls_per_sample=1,
        prepare_ns=1,
        first_call_ns=1,
        warmup_calls=3,
        warm=True,
        stopped="budget",
    )


def record(case: Case, name: str, status: Any = "ok", timed: Timing | None = None) -> Record:
    return Record(
        case=case,
        case_id=case.case_id,
        impl=ImplInfo(name=name, family="loop"),
        status=status,
        reason="" if status == "ok" else "because",
        environment_id="e",
        timing=timed,
    )


def outcome(case: Case, *records: Record) -> jobs.BoutOutcome:
    return jobs.BoutOutcome(case_id=case.case_id, records=list(records), measuring_s=1.5, wall_s=2.0)


def death(case_id: str, impl: str, stage: str = "gate", returncode: int = 3) -> Death:
    return Death("itself", returncode, Announcement(case_id, impl, stage), "last word")


def test_what_was_not_measured_is_not_asked_for_again(side: Side, case: Case) -> None:
    side.keep(case, outcome(case, record(case, "a", timed=timing(1.0, 2.0)), record(case, "b", "disagrees")))
    assert left(side, case) == ("a",)
    found = {one.impl.name: one for one in side.records({case.case_id: "id"}, {})}
    assert {name: one.status for name, one in found.items()} == {"b": "disagrees", "c": "error"}
    assert "no module registers it" in found["c"].reason
    assert {one.bout for one in found.values()} == {"id"}
    side.end_pair(0)
    side.keep(case, outcome(case, record(case, "a", timed=timing(3.0))))
    side.end_pair(1)
    (joined,) = (one for one in side.records({case.case_id: "id"}, {}) if one.impl.name == "a")
    assert joined.timing is not None
    assert (joined.timing.samples_ns, joined.timing.processes) == ([1.0, 2.0, 3.0], [0, 0, 1])
    assert side.measuring_s == 3.0


def test_a_pair_that_is_not_complete_does_not_count(side: Side, case: Case) -> None:
    side.keep(case, outcome(case, *(record(case, name, timed=timing(1.0)) for name in "abc")))
    assert side.records({case.case_id: "id"}, {}) == []
    assert left(side, case) == ("a", "b", "c")


def test_who_was_announced_is_charged(side: Side, case: Case) -> None:
    side.charge(death(case.case_id, "b"), case, LIMITS)
    assert left(side, case) == ("a", "c")
    (lost,) = side.lost.values()
    assert (lost.impl.name, lost.status, lost.log_tail) == ("b", "crashed", "last word")
    assert lost.reason == "the process exited with code 3 during 'gate'"


def test_who_is_killed_from_outside_is_charged_at_last(side: Side, case: Case) -> None:
    for _ in range(KILLS_FORGIVEN - 1):
        side.charge(death(case.case_id, "b", returncode=-9), case, LIMITS)
        assert left(side, case) == ("a", "b", "c")
    side.charge(death(case.case_id, "b", returncode=-9), case, LIMITS)
    assert left(side, case) == ("a", "c")


@pytest.mark.parametrize("last", [("", ""), ("another", "a"), ("this", "")])
def test_where_nobody_can_be_charged_all_are_at_last(side: Side, case: Case, last: tuple[str, str]) -> None:
    case_id = case.case_id if last[0] == "this" else last[0]
    for _ in range(KILLS_FORGIVEN - 1):
        side.charge(death(case_id, last[1], "round 3"), case, LIMITS)
        assert left(side, case) == ("a", "b", "c")
    side.charge(death(case_id, last[1], "round 3"), case, LIMITS)
    assert side.asked(case) is None


def test_a_module_that_is_killed_on_import_is_forgiven_a_few_times(side: Side, case: Case) -> None:
    for _ in range(KILLS_FORGIVEN - 1):
        side.charge(death("", "pack.bad", "import", returncode=-9), case, LIMITS)
        assert not side.skip
    side.charge(death("", "pack.bad", "import", returncode=-9), case, LIMITS)
    assert list(side.skip) == ["pack.bad"]
    assert left(side, case) == ("a", "b", "c")


def test_a_module_that_ends_the_worker_is_left_out(side: Side, case: Case) -> None:
    side.charge(death("", "pack.bad", "import"), case, LIMITS)
    assert side.skip == {"pack.bad": "the process exited with code 3 during 'import'"}
    assert left(side, case) == ("a", "b", "c")
    for _ in range(KILLS_FORGIVEN):  # it was skipped and is to blame all the same: no endless loop
        side.charge(death("", "pack.bad", "import"), case, LIMITS)
    assert side.asked(case) is None


@pytest.fixture
def sides(plans: Any) -> Callable[..., tuple[Side, Side]]:
    def make(base: Machine, new: Machine) -> tuple[Side, Side]:
        return Side("base", base, {}, {}), Side("new", new, {}, {})

    return make


def planned_names(side: Side) -> tuple[str, ...]:
    (one,) = side.planned.values()
    return one.implementations or ()


def test_each_side_is_asked_for_what_it_has(plans: Any, sides: Any) -> None:
    base, new = sides(plans.machine("a", "old"), plans.machine("a", "fresh"))
    plan_sides([plans.planned(names=("a", "fresh"))], base, new)
    assert planned_names(base) == ("a", "old"), "everybody was asked for, and the old one is one of them"
    assert planned_names(new) == ("a", "fresh")
    assert not base.lost
    assert not new.lost


def test_who_is_asked_by_name_is_asked_alone(plans: Any, sides: Any) -> None:
    base, new = sides(plans.machine("a", "old"), plans.machine("a", "fresh"))
    plan_sides([plans.planned(names=("a",))], base, new)
    assert planned_names(base) == planned_names(new) == ("a",)


@pytest.mark.parametrize("broken_side", ["base", "new"])
def test_a_module_that_cannot_be_imported_is_a_failure(plans: Any, sides: Any, broken_side: str) -> None:
    whole = plans.machine("a", "b")
    listed = {**plans.machine("a").listed, "impls.b": jobs.Listed(name="impls.b", broken="ImportError: no")}
    torn = replace(whole, listed=listed)
    base, new = sides(torn, whole) if broken_side == "base" else sides(whole, torn)
    plan_sides([plans.planned(names=("a", "b") if broken_side == "base" else ("a",))], base, new)
    broken, fine = (base, new) if broken_side == "base" else (new, base)
    assert planned_names(base) == planned_names(new) == ("a", "b")
    assert not fine.lost
    (lost,) = broken.lost.values()
    assert (lost.impl.name, lost.status) == ("b", "error")
    assert lost.reason == "its module impls.b could not be imported: ImportError: no"
