"""Rounds conducted over a socket: the worker's side, here in this process, and the line itself."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.measure.turns import TurnTaker
from harness.measure.wire import (
    Admitted,
    Again,
    Begin,
    Draw,
    Drawn,
    Dropped,
    Message,
    Over,
    Ready,
    Stop,
    Took,
    Turn,
    Warm,
    WarmUp,
    Wire,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.layer.contract import Forward, Layer
    from harness.records.record import Record

MS = 1e6
GATE_CALLS = 3
Ends = tuple[Wire, Wire]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The conductor's and the worker's end."""
    one, other = socket.socketpair()
    yield Wire(one), Wire(other)
    one.close()
    other.close()


class Conductor:
    """Gives orders, and waits for the reply to each."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def ask(self, order: Any) -> Any:
        self.wire.send(order)
        return self.hear()

    def hear(self) -> Any:
        return self.wire.receive(20)

    def round(self, number: int, *names: str) -> list[Any]:
        assert self.ask(Draw(number, 1)) == Drawn()
        return [self.ask(Turn(name, number, 1)) for name in names]


def conducted(
    kit: Any, ends: Ends, implementations: list[Any], orders: Callable[[Conductor], None], **around: Any
) -> dict[str, Record]:
    """Run a bout here, which ``orders`` conducts in a thread of its own."""
    trouble: list[BaseException] = []

    def conduct() -> None:
        try:
            orders(Conductor(ends[0]))
        except BaseException as error:
            trouble.append(error)
            ends[0].close()

    thread = threading.Thread(target=conduct)
    thread.start()
    try:
        surroundings = kit.around(conduct=TurnTaker(ends[1]), **around)
        found: dict[str, Record] = kit.bout(implementations, around=surroundings)
    finally:
        thread.join()
        assert not trouble, trouble
    return found


def costing(kit: Any, name: str, nanoseconds: Any = 2 * MS) -> Any:
    return kit.implementation(kit.costing(nanoseconds), name=name)


def lasting(kit: Any, name: str, number: int) -> Any:
    """Right for so many calls, then it raises."""

    def prepare(layer: Layer) -> Forward:
        count = iter(range(10**9))

        def forward(x: Any, routing: Any) -> Any:
            if next(count) >= number:
                raise ZeroDivisionError("five")
            kit.clock.advance(MS)
            return kit.experts(layer, x, routing)

        return forward

    return kit.implementation(prepare, name=name)


def test_samples_are_taken_as_told(kit: Any, ends: Ends) -> None:
    heard: list[Any] = []

    def orders(conductor: Conductor) -> None:
        heard.append(conductor.hear())
        heard.append(conductor.ask(WarmUp(4 * MS)))
        for number, first in ((0, 0), (1, 3), (5, 6)):
            assert conductor.ask(Draw(first, 3)) == Drawn()
            heard.extend(conductor.ask(Turn(name, number, calls)) for name, calls in (("b", 3), ("a", 1)))
            heard.append(conductor.ask(Turn("a", number, 1, control=True)))
        conductor.wire.send(Stop("budget"))

    found = conducted(kit, ends, [costing(kit, "a"), costing(kit, "b", 3 * MS)], orders)
    assert isinstance(heard[0], Admitted)
    assert heard[0].names == ["a", "b"]
    assert heard[1] == Warm({"a": 2 * MS, "b": 3 * MS})
    assert heard[2:5] == [Took(3 * MS), Took(2 * MS), Took(2 * MS)]
    a, b = found["a"].timing, found["b"].timing
    assert a is not None
    assert b is not None
    assert (a.rounds, b.rounds) == ([0, 1, 5], [0, 1, 5])
    assert (a.calls_per_sample, b.calls_per_sample) == (1, 3)
    assert (a.control_ns, b.control_ns) == ([2 * MS] * 3, None)
    assert (a.stopped, a.warmup_calls) == ("budget", 3)
    assert found["a"].memory is not None


def test_each_turn_begins_with_a_call_that_is_not_timed(kit: Any, ends: Ends) -> None:
    """It costs ten times as much, as after a long sleep; no sample shows it. What is timed is asked once only."""
    seen: list[tuple[float, ...]] = []

    def prepare(layer: Layer) -> Forward:
        def forward(x: Any, routing: Any) -> Any:
            seen.append(tuple(x[0, :4].tolist()))
            in_rounds = len(seen) > GATE_CALLS + 3
            kit.clock.advance(20 * MS if in_rounds and len(seen) % 2 == 1 else 2 * MS)
            return kit.experts(layer, x, routing)

        return forward

    def orders(conductor: Conductor) -> None:
        conductor.hear()
        conductor.ask(WarmUp(4 * MS))
        for number in range(5):
            conductor.round(number, "a")
        conductor.wire.send(Stop("rounds"))

    around: dict[str, Any] = {"metered": False}
    found = conducted(kit, ends, [kit.implementation(prepare, name="a")], orders, **around)
    assert found["a"].timing is not None
    assert found["a"].timing.samples_ns == [2 * MS] * 5
    timed = seen[GATE_CALLS + 3 + 1 :: 2]
    assert len(timed) == 5
    assert {Counter(seen)[x] for x in timed} == {1}


def test_both_workers_make_the_same_inputs(kit: Any) -> None:
    def inputs() -> list[tuple[float, ...]]:
        seen: list[tuple[float, ...]] = []

        def prepare(layer: Layer) -> Forward:
            def forward(x: Any, routing: Any) -> Any:
                seen.append(tuple(x.flatten().tolist()))
                kit.clock.advance(2 * MS)
                return kit.experts(layer, x, routing)

            return forward

        def orders(conductor: Conductor) -> None:
            conductor.hear()
            conductor.ask(WarmUp(4 * MS))
            conductor.round(0, "a")
            conductor.round(1, "a")
            conductor.wire.send(Stop("rounds"))

        one, other = socket.socketpair()
        with one, other:
            conducted(kit, (Wire(one), Wire(other)), [kit.implementation(prepare, name="a")], orders, metered=False)
        return seen

    assert inputs() == inputs()


def test_without_meters_there_is_neither_memory_nor_energy(kit: Any, ends: Ends) -> None:
    def orders(conductor: Conductor) -> None:
        conductor.hear()
        conductor.ask(WarmUp(4 * MS))
        for number in range(3):
            conductor.round(number, "a")
        conductor.wire.send(Stop("rounds"))

    record = conducted(kit, ends, [costing(kit, "a")], orders, metered=False)["a"]
    assert record.status == "ok"
    assert (record.memory, record.energy) == (None, None)


@pytest.mark.parametrize("when", ["warm-up", "rounds"])
def test_who_fails_is_reported_and_the_rest_begin_again(kit: Any, ends: Ends, when: str) -> None:
    heard: list[Any] = []

    def orders(conductor: Conductor) -> None:
        conductor.hear()
        if when == "rounds":
            conductor.ask(WarmUp(4 * MS))
            heard.extend(conductor.round(0, "a", "b"))
        else:
            heard.append(conductor.ask(WarmUp(4 * MS)))
        heard.append(conductor.hear())
        conductor.ask(WarmUp(4 * MS))
        for number in range(3):
            conductor.round(number, "a")
        conductor.wire.send(Stop("budget"))

    calls = GATE_CALLS + (5 if when == "rounds" else 1)  # the warm-up takes four of 1 ms
    found = conducted(kit, ends, [costing(kit, "a"), lasting(kit, "b", calls)], orders)
    assert heard[-2] == Dropped("b")
    assert isinstance(heard[-1], Admitted)
    assert heard[-1].names == ["a"]
    assert (found["b"].status, found["b"].timing) == ("error", None)
    assert "five" in found["b"].reason
    assert found["a"].timing is not None
    assert found["a"].timing.rounds == [0, 1, 2]


def test_another_side_lost_somebody(kit: Any, ends: Ends) -> None:
    names: list[list[str]] = []

    def orders(conductor: Conductor) -> None:
        names.append(conductor.hear().names)
        conductor.ask(WarmUp(4 * MS))
        conductor.round(0, "a", "b")
        names.append(conductor.ask(Again()).names)
        conductor.ask(WarmUp(4 * MS))
        for number in range(3):
            conductor.round(number, "b", "a")
        conductor.wire.send(Stop("budget"))

    found = conducted(kit, ends, [costing(kit, "a"), costing(kit, "b")], orders)
    assert names == [["a", "b"], ["a", "b"]]
    for record in found.values():
        assert record.timing is not None
        assert record.timing.rounds == [0, 1, 2]


def test_nobody_admitted_asks_for_no_orders(kit: Any, ends: Ends) -> None:
    wrong = kit.implementation(lambda layer: lambda x, routing: x * 2, name="wrong")
    found = conducted(kit, ends, [wrong], lambda conductor: None)
    assert found["wrong"].status == "disagrees"


def test_what_is_announced_between_turns_is_nobodys(kit: Any, ends: Ends) -> None:
    def orders(conductor: Conductor) -> None:
        conductor.hear()
        conductor.ask(WarmUp(4 * MS))
        for number in range(3):
            conductor.round(number, "a")
            assert kit.notes[-1] == ("", f"round {number}")
            assert kit.notes[-2] == ("a", f"round {number}")
        conductor.wire.send(Stop("budget"))

    conducted(kit, ends, [costing(kit, "a")], orders)


def test_a_conductor_that_is_gone_ends_the_bout(kit: Any, ends: Ends) -> None:
    def orders(conductor: Conductor) -> None:
        conductor.hear()
        conductor.wire.close()

    with pytest.raises(EOFError):
        conducted(kit, ends, [costing(kit, "a")], orders)


def test_case_after_case_until_the_conductor_hangs_up(ends: Ends) -> None:
    taker = TurnTaker(ends[1])
    ends[0].send(Begin("c1"))
    ends[0].send(Begin("c2"))
    assert [taker.next_case(), taker.next_case()] == ["c1", "c2"]
    ends[0].send(Again())
    with pytest.raises(RuntimeError, match="Again"):
        taker.next_case()
    ends[0].close()
    assert taker.next_case() is None


def test_messages_arrive_as_they_were_sent(ends: Ends) -> None:
    said: list[Message] = [
        Begin("c"),
        WarmUp(1.5),
        Draw(3, 2),
        Turn("a", 3, 4, control=True),
        Again(),
        Stop("rounds"),
        Ready({"m": "ImportError"}, {"n": "/else/where.py"}),
        Admitted(["a"], 0.5),
        Warm({"a": 2.0}),
        Drawn(),
        Took(17.25),
        Dropped("a\n"),
        Over(),
    ]
    for message in said:
        ends[0].send(message)
    assert [ends[1].receive() for _ in said] == said


def test_a_line_that_comes_in_pieces() -> None:
    one, other = socket.socketpair()
    with one, other:
        wire = Wire(other)
        assert wire.receive(0.01) is None
        line = msgspec.json.encode(Took(1.0)) + b"\n"
        one.sendall(line + line[:5])
        assert wire.receive(5) == Took(1.0)
        assert wire.receive(0.01) is None
        one.sendall(line[5:])
        assert wire.receive(5) == Took(1.0)
        one.close()
        with pytest.raises(EOFError):
            wire.receive(5)
