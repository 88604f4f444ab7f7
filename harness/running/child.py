"""One worker process, seen from the parent: start it, watch it, end it, say how it died."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

import harness
from harness.records.record import Status
from harness.records.store import replace_file
from harness.running import blackbox, jobs
from harness.running.environment import container_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_S = 0.1
LOG_TAIL_BYTES = 4000
SETUP_LIMIT_S = 900.0
"""How long building weights and importing may take before it counts as hanging."""


@dataclass(frozen=True)
class Limits:
    """What a worker may take: seconds without a sign of life in one stage, and bytes of memory (0 for no limit)."""

    stage_s: float = 120.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Death:
    """How a worker ended without finishing its job. ``by`` is who ended it: itself, our time limit, our memory limit."""

    by: Literal["itself", "timeout", "memory"]
    returncode: int
    last: blackbox.Entry
    log_tail: str

    @property
    def killed_from_outside(self) -> bool:
        """Whether somebody else sent SIGKILL: the kernel's out-of-memory killer, or a person."""
        return self.by == "itself" and self.returncode == -signal.SIGKILL

    @property
    def status(self) -> Status:
        """The status of whoever is charged."""
        return {"itself": "crashed", "timeout": "timeout", "memory": "oom"}[self.by]  # type: ignore[return-value]

    def reason(self, limits: Limits) -> str:
        """Say in one line what happened, for the record."""
        during = f"during {self.last.stage!r}"
        if self.by == "timeout":
            return f"no sign of life for {limits.stage_s:g} s {during}; raise --timeout if it is only slow"
        if self.by == "memory":
            return f"used more than {limits.memory_bytes / 2**30:.1f} GiB {during}; lower tokens or experts"
        if self.killed_from_outside:
            return f"killed by SIGKILL several times {during}; the kernel does that when memory runs out"
        if self.returncode < 0:
            name = signal.Signals(-self.returncode).name
            return f"the process died of {name} {during}"
        return f"the process exited with code {self.returncode} {during}"


class Child:
    """Runs one job in a process group of its own."""

    def __init__(self, job: jobs.Job, limits: Limits) -> None:
        self.limits = limits
        self._folder = tempfile.TemporaryDirectory(prefix="moebench-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        replace_file(self.folder / jobs.JOB, job)
        with (self.folder / jobs.LOG).open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.running.worker", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(limits),
                start_new_session=True,
            )
        self._started_ns = time.monotonic_ns()
        self._answers = 0

    def run(self, heard: Callable[[jobs.Outcome], None], ticked: Callable[[blackbox.Entry], None]) -> Death | None:
        """Wait for the job to end, handing on each outcome; None when it was finished.

        The worker's whole process group is gone when this returns or raises, KeyboardInterrupt included.
        """
        by: Literal["itself", "timeout", "memory"] = "itself"
        try:
            while self._process.poll() is None:
                self._collect(heard)
                last = self.last()
                ticked(last)
                if self._silent_s(last) > (self.limits.stage_s if last.impl else SETUP_LIMIT_S):
                    by = "timeout"
                    break
                if self.limits.memory_bytes and self._memory_bytes() > self.limits.memory_bytes:
                    by = "memory"
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(POLL_S)
        finally:
            self._end()
            self._collect(heard)
        if by == "itself" and self._process.returncode == 0:
            return self._close(None)
        return self._close(Death(by, self._process.returncode, self.last(), self._log_tail()))

    def last(self) -> blackbox.Entry:
        """Return what the worker announced last."""
        return blackbox.read(self.folder / jobs.BLACK_BOX)

    def _close(self, death: Death | None) -> Death | None:
        self._folder.cleanup()
        return death

    def _collect(self, heard: Callable[[jobs.Outcome], None]) -> None:
        for outcome in jobs.outcomes_from(self.folder, self._answers):
            self._answers += 1
            heard(outcome)

    def _silent_s(self, last: blackbox.Entry) -> float:
        return (time.monotonic_ns() - max(last.beat_ns, self._started_ns)) / 1e9

    def _memory_bytes(self) -> int:
        """Resident bytes of the worker and its children."""
        total = 0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            for one in (process, *process.children(recursive=True)):
                total += one.memory_info().rss
        return total

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _log_tail(self) -> str:
        """Return the end of what the worker printed since its last announcement."""
        data = (self.folder / jobs.LOG).read_bytes()
        since = data[self.last().log_offset :]
        return (since or data)[-LOG_TAIL_BYTES:].decode(errors="replace")


def ask(job: jobs.Job, limits: Limits) -> tuple[list[jobs.Outcome], Death | None]:
    """Run a short job to its end and return what it answered."""
    heard: list[jobs.Outcome] = []
    death = Child(job, limits).run(heard.append, lambda _: None)
    return heard, death


def _environment(limits: Limits) -> dict[str, str]:
    """Variables of the worker: the checkout on its path, unbuffered output, who its parent is, its memory limit."""
    root = str(Path(harness.__file__).resolve().parent.parent)
    paths = [root, os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "MOEBENCH_PARENT": str(os.getpid()),
        "MOEBENCH_MEMORY_BYTES": str(limits.memory_bytes),
    }


def available_memory_bytes() -> int:
    """Return the memory a worker may use on this machine: nine tenths of what is free, and of the container's limit."""
    free = psutil.virtual_memory().available
    return int(0.9 * min(free, container_memory_bytes() or free))
