"""Who is timed when: the parent's side of turns, against workers made up here."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from harness.measure.wire import (
    Admitted,
    Again,
    Begin,
    Draw,
    Drawn,
    Dropped,
    Over,
    Stop,
    Took,
    Turn,
    Warm,
    WarmUp,
)
from harness.records.estimates import MIN_ROUNDS
from harness.running.versus.rounds import MAX_ROUNDS, CaseRounds, lines_of
from harness.running.versus.workers import LostError

MS = 1e6


@dataclass(eq=False)
class SideWorker:
    """A worker made up. ``fails`` says at which of its turns which contestant drops out; ``calls_ns`` are its times."""

    side: str
    calls_ns: dict[str, float]
    fails: dict[int, str] = field(default_factory=dict)
    refuses: tuple[str, ...] = ()
    admitted: list[str] = field(default_factory=list)
    replies: list[Any] = field(default_factory=list)
    turns: int = 0

    def carry_out(self, order: Any) -> None:
        match order:
            case Begin():
                for name in self.refuses:
                    del self.calls_ns[name]
                self.admit()
            case Again():
                self.admit()
            case WarmUp():
                self.replies.append(Warm(dict(self.calls_ns)))
            case Draw():
                self.replies.append(Drawn())
            case Turn(owner):
                self.turns += 1
                if self.turns in self.fails:
                    name = self.fails[self.turns]
                    del self.calls_ns[name]
                    self.replies.append(Dropped(name))
                    self.admit()
                else:
                    self.replies.append(Took(self.calls_ns[owner]))
            case Stop():
                self.replies.append(Over())

    def admit(self) -> None:
        self.replies.append(Admitted(list(self.calls_ns), 0.0) if self.calls_ns else Over())


class WorkerPair:
    """Carries orders to made-up workers and keeps them."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []

    def ask(self, worker: SideWorker, order: Any, kind: type) -> Any:
        assert not worker.replies, "an order before the last one was carried out"
        self.said.append((worker.side, order))
        worker.carry_out(order)
        return self.hear(worker, kind)

    def hear(self, worker: SideWorker, kind: type) -> Any:
        reply = worker.replies.pop(0)
        if isinstance(reply, kind):
            return reply
        raise LostError(worker, out=isinstance(reply, Over))  # type: ignore[arg-type]

    def turns(self) -> list[tuple[str, Turn]]:
        return [(side, order) for side, order in self.said if isinstance(order, Turn)]


def rounds(
    plans: Any, *workers: SideWorker, share_s: float = 0.0, shortest: dict[str, float] | None = None
) -> WorkerPair:
    pair: Any = WorkerPair()
    held: Any = workers
    CaseRounds(pair, plans.case(), share_s, {} if shortest is None else shortest, {"dense"}, random.Random(3)).run(held)
    return pair  # type: ignore[no-any-return]


def both(**calls_ns: float) -> tuple[SideWorker, SideWorker]:
    return SideWorker("base", dict(calls_ns)), SideWorker("new", dict(calls_ns))


def test_both_sides_take_the_sample_of_a_round_one_right_after_the_other(plans: Any) -> None:
    pair = rounds(plans, *both(a=5 * MS, b=2 * MS, dense=3 * MS))
    turns = pair.turns()
    assert len(turns) == MIN_ROUNDS * 4 * 2
    for (side, turn), (other_side, other) in zip(turns[::2], turns[1::2], strict=True):
        assert {side, other_side} == {"base", "new"}
        assert turn == other
    first = [(side, turn) for side, turn in turns[::2]]
    assert {side for side, _ in first} == {"base", "new"}, "which side goes first is decided by lot"
    orders = [tuple((turn.owner, turn.control) for _, turn in first[4 * n : 4 * n + 4]) for n in range(MIN_ROUNDS)]
    assert len(set(orders)) > 1, "and so is the order of the implementations"
    for order in orders:
        assert sorted(order) == [("a", False), ("b", False), ("dense", False), ("dense", True)]


def test_rounds_and_draws_are_counted_alike(plans: Any) -> None:
    pair = rounds(plans, *both(a=0.3 * MS, b=2 * MS))
    draws = [(side, order) for side, order in pair.said if isinstance(order, Draw)]
    assert draws[:4] == [(side, Draw(first, 4)) for first in (0, 4) for side in ("base", "new")]
    assert {turn.calls for _, turn in pair.turns() if turn.owner == "a"} == {4}
    assert {turn.calls for _, turn in pair.turns() if turn.owner == "b"} == {1}
    assert sorted({turn.round for _, turn in pair.turns()}) == list(range(MIN_ROUNDS))
    assert pair.said[-2:] == [("base", Stop("budget")), ("new", Stop("budget"))]


def test_the_shorter_call_so_far_says_how_many_make_a_sample(plans: Any) -> None:
    shortest: dict[str, float] = {}
    slow, fast = SideWorker("base", {"a": 1.0 * MS}), SideWorker("new", {"a": 0.5 * MS})
    pair = rounds(plans, slow, fast, shortest=shortest)
    assert {turn.calls for _, turn in pair.turns()} == {2}
    assert shortest == {"a": 0.5 * MS}
    shortest["a"] = 0.25 * MS
    assert {turn.calls for _, turn in rounds(plans, *both(a=1 * MS), shortest=shortest).turns()} == {4}


def test_a_large_budget_ends_at_the_most_rounds(plans: Any) -> None:
    pair = rounds(plans, *both(a=2 * MS), share_s=1e6)
    assert max(turn.round for _, turn in pair.turns()) == MAX_ROUNDS - 1
    assert pair.said[-1] == ("new", Stop("rounds"))


def test_who_drops_out_on_one_side_goes_on_alone_on_the_other(plans: Any) -> None:
    base, new = both(a=2 * MS, b=2 * MS)
    new.fails = {9: "a"}
    pair = rounds(plans, base, new)
    again = pair.said.index(("base", Again()))
    assert ("new", Again()) not in pair.said, "who lost somebody knows"
    rest = [(side, turn) for side, turn in pair.said[again:] if isinstance(turn, Turn)]
    assert {turn.round for _, turn in rest} == set(range(MIN_ROUNDS)), "from the start"
    assert sum(1 for side, turn in rest if turn.owner == "a") == MIN_ROUNDS
    assert {side for side, turn in rest if turn.owner == "a"} == {"base"}
    assert {(side, turn.owner) for side, turn in rest if turn.control} == {("base", "b"), ("new", "b")}
    assert pair.said[-2:] == [("base", Stop("budget")), ("new", Stop("budget"))]


def test_one_side_loses_everybody(plans: Any) -> None:
    base, new = both(a=2 * MS)
    base.fails = {3: "a"}
    pair = rounds(plans, base, new)
    assert pair.said[-1] == ("new", Stop("budget"))
    assert ("base", Stop("budget")) not in pair.said
    alone = [side for side, _ in pair.turns()][-2 * MIN_ROUNDS :]
    assert set(alone) == {"new"}


def test_who_is_not_admitted_anywhere_ends_the_case(plans: Any) -> None:
    base, new = both(a=2 * MS)
    base.refuses = new.refuses = ("a",)
    pair = rounds(plans, base, new)
    assert [order for _, order in pair.said] == [Begin(plans.case().case_id)] * 2


def test_a_side_that_runs_alone(plans: Any) -> None:
    pair = rounds(plans, SideWorker("new", {"a": 2 * MS}))
    assert {side for side, _ in pair.said} == {"new"}
    assert len(pair.turns()) == 2 * MIN_ROUNDS


def test_everything_that_is_timed_alternates(plans: Any) -> None:
    """No side is given an order before the other has carried out its own, which the made-up pair sees to."""
    pair = rounds(plans, *both(a=2 * MS, b=3 * MS))
    warm = [side for side, order in pair.said if isinstance(order, WarmUp)]
    assert warm == ["base", "new"]
    assert all(one != other for (one, _), (other, _) in list(pairwise(pair.turns()))[::2])


@pytest.mark.parametrize(
    ("base", "new", "controls"),
    [
        (["a", "dense"], ["a", "dense"], [("dense", 2)]),
        (["a", "b", "dense"], ["b", "a"], [("a", 2)]),
        (["a", "dense"], ["b"], [("dense", 1), ("b", 1)]),
        (["a"], [], [("a", 1)]),
    ],
)
def test_the_control_is_one_that_both_sides_have(
    base: list[str], new: list[str], controls: list[tuple[str, int]]
) -> None:
    workers: Any = [SideWorker(side, {}, admitted=names) for side, names in (("base", base), ("new", new)) if names]
    lines = lines_of(workers, {"dense"})
    assert [(line.owner, len(line.workers)) for line in lines if line.control] == controls
    assert [line.owner for line in lines if not line.control] == list(dict.fromkeys(base + new))
