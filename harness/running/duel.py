"""Two workers on one line each, seen from the parent: start them, speak to them, and notice who falls.

A worker that runs alone is spoken to in the same way.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn, TypeVar

import msgspec

from harness.measure.wire import Dropped, Over, Ready, Wire
from harness.running import jobs
from harness.running.child import POLL_S, Child

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from harness.measure.wire import Order, Reply
    from harness.running.blackbox import Entry
    from harness.running.child import By, Death, Limits, Outfit

SHORT_SPIN = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""Idle OpenMP threads look for work for milliseconds before they sleep, on cores that are the other worker's by then.
So they look for a third of a millisecond; within a call they wait for each other far shorter than that."""
CLOSING_S = 5.0
"""How long a worker that hung up is given to die, so that its exit code is its own."""

M = TypeVar("M", bound=msgspec.Struct)


class FallenError(Exception):
    """A worker died, or had to be ended."""

    def __init__(self, side: str, death: Death) -> None:
        super().__init__(side)
        self.side = side
        self.death = death


class LostError(Exception):
    """A contestant failed on one side, or, when the side is ``out``, all of them."""

    def __init__(self, corner: Corner, *, out: bool) -> None:
        super().__init__(corner.side)
        self.corner = corner
        self.out = out


@dataclass
class Corner:
    """One side's worker. ``admitted`` are those it may time in the current case."""

    side: str
    child: Child
    wire: Wire
    admitted: list[str] = field(default_factory=list)
    outcomes: list[jobs.BoutOutcome] = field(default_factory=list)

    def heard(self, outcome: jobs.Outcome) -> None:
        """Keep a bout's outcome."""
        if isinstance(outcome, jobs.BoutOutcome):
            self.outcomes.append(outcome)

    def outcome(self) -> jobs.BoutOutcome:
        """Return the outcome of the bout that is over."""
        self.child.look(self.heard, may_be_silent=True)
        return self.outcomes.pop()


class Duel:
    """The workers of one pair. ``show`` is told several times a second what the one that is busy announced.

    Use as a context manager: nobody is left behind.
    """

    def __init__(self, show: Callable[[str, Entry], None]) -> None:
        self.corners: dict[str, Corner] = {}
        self._show = show
        self._looked_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.corners:
            _, corner = self.corners.popitem()
            corner.wire.close()
            corner.child.end("itself", corner.heard)

    def start(self, side: str, job: jobs.TurnsJob, limits: Limits, outfit: Outfit) -> None:
        """Start a side's worker. The line is put into its job and outfit here."""
        ours, theirs = socket.socketpair()
        with theirs:
            job = msgspec.structs.replace(job, wire=theirs.fileno())
            spin = {name: value for name, value in SHORT_SPIN.items() if name not in os.environ}
            outfit = replace(outfit, descriptors=(theirs.fileno(),), variables={**spin, **outfit.variables})
            self.corners[side] = Corner(side, Child(job, limits, outfit), Wire(ours))

    def ready(self) -> dict[str, Ready]:
        """Wait until all workers have imported everything; return what they found, by side."""
        return {side: self.hear(corner, Ready) for side, corner in self.corners.items()}

    def ask(self, corner: Corner, order: Order, kind: type[M]) -> M:
        """Give an order and wait for the reply to it; raises as ``hear`` does."""
        try:
            corner.wire.send(order)
        except OSError:
            self._fallen(corner)
        return self.hear(corner, kind)

    def hear(self, corner: Corner, kind: type[M]) -> M:
        """Wait for a reply of one kind.

        Raises
        ------
        FallenError
            when a worker dies, this one or the other; or this one is silent for too long.
        LostError
            when a contestant failed instead.
        """
        while not (reply := self._reply(corner)):
            pass
        if isinstance(reply, kind):
            return reply
        if isinstance(reply, (Dropped, Over)):
            raise LostError(corner, out=isinstance(reply, Over))
        raise RuntimeError(f"{reply} where a {kind.__name__} was due")

    def _reply(self, corner: Corner) -> Reply | None:
        """Return what a worker replied, if it did so by the next look at all of them."""
        try:
            reply = corner.wire.receive(POLL_S)
        except EOFError:
            self._fallen(corner)
        if time.monotonic() - self._looked_s >= POLL_S:
            self._look(busy=corner)
            self._looked_s = time.monotonic()
        return reply  # type: ignore[return-value]

    def _look(self, busy: Corner) -> None:
        """See that everybody is alive; only who is busy may be asked for a sign of life."""
        self._show(busy.side, busy.child.last())
        for corner in list(self.corners.values()):
            ended = corner.child.look(corner.heard, may_be_silent=corner is not busy)
            if ended:
                self._fall(corner, ended)

    def _fallen(self, corner: Corner) -> NoReturn:
        """Say how a worker died that hung up."""
        corner.child.wait(CLOSING_S)
        self._fall(corner, corner.child.look(corner.heard, may_be_silent=True) or "itself")

    def _fall(self, corner: Corner, by: By) -> NoReturn:
        del self.corners[corner.side]
        corner.wire.close()
        death = corner.child.end(by, corner.heard)
        assert death, "a worker is done only when its line is closed"
        raise FallenError(corner.side, death)
