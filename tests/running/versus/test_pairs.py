"""How pairs of workers share a budget and take turns. No worker runs here, and time passes as told."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.records.environment import Ceilings
from harness.running import jobs
from harness.running.child import Limits
from harness.running.plan import Plan
from harness.running.versus import pairs
from harness.running.versus.pairs import Pairs
from harness.running.versus.side import Side

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Self

    from harness.cases.case import Case

CEILINGS = Ceilings(
    copy_bytes_per_second=1.0,
    read_bytes_per_second=1.0,
    cached_read_bytes_per_second=1.0,
    gemm_flops_per_second={},
    cache_bytes=1,
    launch_ns=1.0,
)
NAMES = ("loop", "dense")


@dataclass
class Stage:
    """What was asked of the workers. Each bout takes the next of ``takes`` seconds, the last one for ever."""

    takes: list[float]
    found: Ceilings | None = None
    now_s: float = 100.0
    started: list[tuple[str, jobs.TurnsJob]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    visits: list[list[str]] = field(default_factory=list)
    baselines: list[Collection[str]] = field(default_factory=list)

    def bout(self, share_s: float, baselines: Collection[str], workers: Sequence[Any]) -> None:
        self.shares.append(share_s)
        self.baselines.append(baselines)
        self.visits.append([worker.side for worker in workers])
        self.now_s += self.takes.pop(0) if len(self.takes) > 1 else self.takes[0]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Workers are replaced by ones that do nothing, rounds by ones that take their time."""
    made = Stage([1.0])

    class Workers:
        def __init__(self, _show: object) -> None:
            self.workers: dict[str, Any] = {}

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def start(self, side: str, job: jobs.TurnsJob, *_: object) -> None:
            made.started.append((side, msgspec.structs.replace(job, ceilings=dict(job.ceilings))))  # as of now
            over = jobs.BoutOutcome(case_id="", records=[], measuring_s=0.0, wall_s=0.0, ceilings=made.found)
            self.workers[side] = SimpleNamespace(side=side, outcome=lambda: over)

        def ready(self) -> dict[str, Any]:
            return {}

    class Rounds:
        def __init__(self, _pair: object, _case: Case, share_s: float, _ns: object, baselines: Any, _lots: Any) -> None:
            self.run = lambda workers: made.bout(share_s, baselines, workers)

    monkeypatch.setattr(pairs, "WorkerPair", Workers)
    monkeypatch.setattr(pairs, "CaseRounds", Rounds)
    monkeypatch.setattr(pairs, "measure_ceilings", lambda *_: CEILINGS)
    monkeypatch.setattr(pairs, "time", SimpleNamespace(monotonic=lambda: made.now_s))
    monkeypatch.setattr(Side, "keep", lambda *_: None)
    return made


def measured(plans: Any, number: int, budget_s: float, tokens: Sequence[int] = (8, 16)) -> Pairs:
    """So many pairs over cases of one layer."""
    planned = tuple(plans.planned(each, NAMES) for each in tokens)
    machine = plans.machine(*NAMES)
    machine.listed["dense"] = msgspec.structs.replace(machine.listed["dense"], family="dense")
    sides = (
        Side("base", machine, {one.case.case_id: one for one in planned}, {}),
        Side("new", machine, {one.case.case_id: one for one in planned}, {}),
    )
    made = Pairs(sides, Plan("s", "", planned, budget_s), Limits(stage_s=5.0), SimpleNamespace())
    made.run(number)
    return made


def test_each_pair_has_its_share_of_what_is_left_and_so_has_each_case(stage: Stage, plans: Any) -> None:
    """Of 12 s, three pairs; bouts take a second each: 4 s, then 10 s for two, then 8 s."""
    made = measured(plans, 3, 12.0)
    assert stage.shares == pytest.approx([2.0, 3.0, 2.5, 4.0, 4.0, 7.0])
    assert made.wall_s == pytest.approx(6.0)


def test_after_a_bout_that_took_too_long_there_is_nothing_left_but_no_debt(stage: Stage, plans: Any) -> None:
    stage.takes = [50.0, 1.0]
    measured(plans, 2, 12.0)
    assert stage.shares == pytest.approx([3.0, 0.0, 0.0, 0.0])


def test_sides_take_turns_in_going_first(stage: Stage, plans: Any) -> None:
    measured(plans, 3, 12.0, tokens=(8,))
    turns = [["base", "new"], ["new", "base"], ["base", "new"]]
    assert stage.visits == turns
    assert [side for side, _ in stage.started] == [side for turn in turns for side in turn]


def test_memory_is_metered_in_the_first_pair_and_the_control_is_a_baseline(stage: Stage, plans: Any) -> None:
    measured(plans, 2, 12.0)
    assert [job.metered for _, job in stage.started] == [True, True, False, False]
    assert stage.baselines == [{"dense"}] * 4


def test_a_ceiling_that_a_bout_raised_holds_for_the_next_pair(stage: Stage, plans: Any) -> None:
    stage.found = msgspec.structs.replace(CEILINGS, read_bytes_per_second=2.0)
    made = measured(plans, 2, 12.0)
    assert [job.ceilings["cpu"].read_bytes_per_second for _, job in stage.started] == [1.0, 1.0, 2.0, 2.0]
    assert made.ceilings["cpu"].read_bytes_per_second == 2.0
