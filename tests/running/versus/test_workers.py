"""Two workers on a line each: who falls, who is silent, and that nothing of them is left. They run no torch."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.measure.wire import Again, Begin, Draw, Drawn, Ready, Warm
from harness.running import jobs
from harness.running.child import NOTHING_MORE, Limits
from harness.running.versus.workers import SHORT_SPIN, FallenError, LostError, WorkerPair

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.running.blackbox import Announcement

WORKER = """
from socket import socket
from harness.measure import wire as w
line = w.Wire(socket(fileno=job.wire))
line.send(w.Ready({'pid': str(os.getpid()), 'spin': os.environ.get('GOMP_SPINCOUNT', '')}))
while True:
    try:
        order = line.receive()
    except EOFError:
        break
    self.note('case', 'loop', type(order).__name__)
    """
JOB = jobs.TurnsJob(planned=[], environment_id="e", wire=-1)


@pytest.fixture
def shown() -> list[tuple[str, Announcement]]:
    return []


@pytest.fixture
def pair(worker_does: Callable[[str], None], shown: list[tuple[str, Announcement]]) -> Callable[..., WorkerPair]:
    """Start both sides, which do some lines of Python at each ``order`` they get."""

    def start(body: str, limits: Limits | None = None, sides: tuple[str, ...] = ("base", "new")) -> WorkerPair:
        worker_does(WORKER + body.strip().replace("\n", "\n    "))
        made = WorkerPair(lambda side, entry: shown.append((side, entry)))
        for side in sides:
            made.start(side, JOB, limits or Limits(), NOTHING_MORE)
        return made

    return start


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_orders_and_replies(pair: Callable[..., WorkerPair]) -> None:
    with pair("line.send(w.Drawn() if isinstance(order, w.Draw) else w.Dropped('a'))") as made:
        ready = made.ready()
        assert set(ready) == {"base", "new"}
        pids = [int(one.broken["pid"]) for one in ready.values()]
        assert len(set(pids)) == 2
        base, new = made.workers["base"], made.workers["new"]
        assert made.ask(base, Draw(0, 1), Drawn) == made.ask(new, Draw(0, 1), Drawn) == Drawn()
        with pytest.raises(LostError) as lost:
            made.ask(new, Begin("c"), Drawn)
        assert (lost.value.worker, lost.value.out) == (new, False)
        with pytest.raises(RuntimeError, match=r"Drawn.* where a Warm was due"):
            made.ask(base, Draw(1, 1), Warm)
    assert all(gone(pid) for pid in pids)


def test_idle_threads_sleep_soon_unless_told_otherwise(
    pair: Callable[..., WorkerPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SHORT_SPIN:
        monkeypatch.delenv(name, raising=False)
    with pair("pass", sides=("base",)) as made:
        assert made.ready()["base"].broken["spin"] == SHORT_SPIN["GOMP_SPINCOUNT"]
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    with pair("pass", sides=("base",)) as made:
        assert made.ready()["base"].broken["spin"] == "77"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ("os._exit(3)", "crashed", "the process exited with code 3 during 'Draw'"),
        ("os.kill(os.getpid(), 11)", "crashed", "died of SIGSEGV during 'Draw'"),
        ("os.close(job.wire); time.sleep(600)", "crashed", "SIGKILL"),
    ],
)
def test_who_falls_is_charged(
    pair: Callable[..., WorkerPair], monkeypatch: pytest.MonkeyPatch, body: str, status: str, reason: str
) -> None:
    monkeypatch.setattr("harness.running.versus.workers.CLOSING_S", 0.5)
    with pair(f"print('last word'); {body}") as made:
        other = int(made.ready()["base"].broken["pid"])
        with pytest.raises(FallenError) as fallen:
            made.ask(made.workers["new"], Draw(0, 1), Drawn)
        assert fallen.value.side == "new"
        death = fallen.value.death
        assert death.status == status
        assert reason in death.reason(Limits())
        assert (death.last.case_id, death.last.impl) == ("case", "loop")
        assert "last word" in death.log_tail
        assert not gone(other)
    assert gone(other)


def test_one_that_falls_out_of_turn_is_noticed(pair: Callable[..., WorkerPair]) -> None:
    with pair("time.sleep(600)") as made:
        idle = int(made.ready()["base"].broken["pid"])
        os.kill(idle, signal.SIGKILL)
        with pytest.raises(FallenError) as fallen:
            made.ask(made.workers["new"], Draw(0, 1), Drawn)
        assert fallen.value.side == "base"
        assert fallen.value.death.killed_from_outside


def test_an_order_to_one_that_is_dead(pair: Callable[..., WorkerPair]) -> None:
    with pair("line.send(w.Drawn()); os._exit(5)", sides=("new",)) as made:
        made.ready()
        worker = made.workers["new"]
        made.ask(worker, Draw(0, 1), Drawn)
        worker.child.wait(10)
        with pytest.raises(FallenError) as fallen:
            made.ask(worker, Again(), Drawn)
        assert fallen.value.death.returncode == 5


def test_only_who_is_busy_may_not_be_silent(
    pair: Callable[..., WorkerPair], shown: list[tuple[str, Announcement]]
) -> None:
    """The idle one announced something long ago; it has nothing to say."""
    body = """
line.send(w.Drawn())
if isinstance(order, w.Begin): time.sleep(600)
"""
    with pair(body, Limits(stage_s=3.0)) as made:
        made.ready()
        base, new = made.workers["base"], made.workers["new"]
        made.ask(base, Draw(0, 1), Drawn)
        end = time.monotonic() + 3.5
        while time.monotonic() < end:
            made.ask(new, Draw(0, 1), Drawn)
        made.ask(new, Begin("c"), Drawn)
        with pytest.raises(FallenError) as fallen:
            made.hear(new, Drawn)
        assert (fallen.value.side, fallen.value.death.status) == ("new", "timeout")
    assert {side for side, _ in shown} <= {"base", "new"}
    assert shown[-1][0] == "new"
    assert shown[-1][1].stage == "Begin"


def test_memory_is_watched(pair: Callable[..., WorkerPair]) -> None:
    limits = Limits(memory_bytes=300 << 20)
    with pair("kept = bytearray(400 << 20); time.sleep(600)", limits) as made:
        made.ready()
        with pytest.raises(FallenError) as fallen:
            made.ask(made.workers["base"], Draw(0, 1), Drawn)
        assert fallen.value.death.status == "oom"


def test_ctrl_c_leaves_nobody_behind(pair: Callable[..., WorkerPair]) -> None:
    made = pair("pass")
    with pytest.raises(KeyboardInterrupt), made:  # noqa: PT012
        pids = [int(one.broken["pid"]) for one in made.ready().values()]
        folders = [worker.child.folder for worker in made.workers.values()]
        raise KeyboardInterrupt
    assert all(gone(pid) for pid in pids)
    assert not any(folder.exists() for folder in folders)


def test_ready_tells_what_was_found(pair: Callable[..., WorkerPair]) -> None:
    with pair("pass", sides=("new",)) as made:
        assert isinstance(made.ready()["new"], Ready)
