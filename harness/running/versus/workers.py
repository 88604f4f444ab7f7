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
    from harness.running.blackbox import Announcement
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

    def __init__(self, worker: SideWorker, *, out: bool) -> None:
        super().__init__(worker.side)
        self.worker = worker
        self.out = out


@dataclass
class SideWorker:
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


class WorkerPair:
    """The workers of one pair. ``show`` is told several times a second what the one that is busy announced.

    Use as a context manager: nobody is left behind.
    """

    def __init__(self, show: Callable[[str, Announcement], None]) -> None:
        self.workers: dict[str, SideWorker] = {}
        self._show = show
        self._looked_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.workers:
            _, worker = self.workers.popitem()
            worker.wire.close()
            worker.child.end("itself", worker.heard)

    def start(self, side: str, job: jobs.TurnsJob, limits: Limits, outfit: Outfit) -> None:
        """Start a side's worker. The line is put into its job and outfit here."""
        ours, theirs = socket.socketpair()
        with theirs:
            job = msgspec.structs.replace(job, wire=theirs.fileno())
            spin = {name: value for name, value in SHORT_SPIN.items() if name not in os.environ}
            outfit = replace(outfit, descriptors=(theirs.fileno(),), variables={**spin, **outfit.variables})
            self.workers[side] = SideWorker(side, Child(job, limits, outfit), Wire(ours))

    def ready(self) -> dict[str, Ready]:
        """Wait until all workers have imported everything; return what they found, by side."""
        return {side: self.hear(worker, Ready) for side, worker in self.workers.items()}

    def ask(self, worker: SideWorker, order: Order, kind: type[M]) -> M:
        """Give an order and wait for the reply to it; raises as ``hear`` does."""
        try:
            worker.wire.send(order)
        except OSError:
            self._fallen(worker)
        return self.hear(worker, kind)

    def hear(self, worker: SideWorker, kind: type[M]) -> M:
        """Wait for a reply of one kind.

        Raises
        ------
        FallenError
            when a worker dies, this one or the other; or this one is silent for too long.
        LostError
            when a contestant failed instead.
        """
        while not (reply := self._reply(worker)):
            pass
        if isinstance(reply, kind):
            return reply
        if isinstance(reply, (Dropped, Over)):
            raise LostError(worker, out=isinstance(reply, Over))
        raise RuntimeError(f"{reply} where a {kind.__name__} was due")

    def _reply(self, worker: SideWorker) -> Reply | None:
        """Return what a worker replied, if it did so by the next look at all of them."""
        try:
            reply = worker.wire.receive(POLL_S)
        except EOFError:
            self._fallen(worker)
        if time.monotonic() - self._looked_s >= POLL_S:
            self._look(busy=worker)
            self._looked_s = time.monotonic()
        return reply  # type: ignore[return-value]

    def _look(self, busy: SideWorker) -> None:
        """See that everybody is alive; only who is busy may be asked for a sign of life."""
        self._show(busy.side, busy.child.last())
        for worker in list(self.workers.values()):
            ended = worker.child.look(worker.heard, may_be_silent=worker is not busy)
            if ended:
                self._fall(worker, ended)

    def _fallen(self, worker: SideWorker) -> NoReturn:
        """Say how a worker died that hung up."""
        worker.child.wait(CLOSING_S)
        self._fall(worker, worker.child.look(worker.heard, may_be_silent=True) or "itself")

    def _fall(self, worker: SideWorker, by: By) -> NoReturn:
        del self.workers[worker.side]
        worker.wire.close()
        death = worker.child.end(by, worker.heard)
        assert death, "a worker is done only when its line is closed"
        raise FallenError(worker.side, death)
