"""One worker process, seen from the parent: start it, watch it, end it, say how it died."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

import harness
from harness.records.store import replace_file
from harness.running import blackbox, jobs
from harness.running.environment import container_memory_bytes, container_used_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.records.record import Status

POLL_S = 0.1
FAMILY_EVERY = 20
"""Looking for a worker's own children takes milliseconds of CPU, so it is done every so many polls."""
STACKS_S = 0.5
"""How long a hanging worker is given to print where it hangs."""
SETUP_LIMIT_S = 900.0
"""How long building weights and importing torch may take before it counts as hanging."""
KILLS_FORGIVEN = 3
"""How often a worker may be killed from outside in the same place before that counts as its own doing."""

By = Literal["itself", "timeout", "memory"]


@dataclass(frozen=True)
class Limits:
    """What a worker may take; 0 bytes for no limit.

    ``stage_s`` are seconds without a sign of life. ``memory_bytes`` is resident memory, its children's included, which
    the parent watches. ``data_bytes`` is private memory: the kernel refuses more of it, so that asking without end
    raises in the worker before the machine runs out.
    """

    stage_s: float = 120.0
    memory_bytes: int = 0
    data_bytes: int = 0


@dataclass(frozen=True)
class Death:
    """How a worker ended without finishing its job. ``by`` is who ended it: itself, our limit on time or on memory."""

    by: By
    returncode: int
    last: blackbox.Announcement
    log_tail: str

    @property
    def killed_from_outside(self) -> bool:
        """Whether somebody else sent SIGKILL: the kernel's out-of-memory killer, or a person."""
        return self.by == "itself" and self.returncode == -signal.SIGKILL

    @property
    def status(self) -> Status:
        """The status of whoever is charged."""
        statuses: dict[By, Status] = {"itself": "crashed", "timeout": "timeout", "memory": "oom"}
        return statuses[self.by]

    def reason(self, limits: Limits) -> str:
        """Say in one line what happened, for the record."""
        during = f"during {self.last.stage!r}"
        if self.by == "timeout":
            advice = "; raise --timeout if it is only slow" if self.last.impl else ""
            return f"no sign of life for {silence_limit_s(self.last, limits):g} s {during}{advice}"
        if self.by == "memory":
            return f"used more than {limits.memory_bytes / 2**30:.1f} GiB {during}; lower tokens or experts"
        if self.killed_from_outside:
            return f"killed by SIGKILL {during}; the kernel does that when memory runs out"
        if self.returncode < 0:
            return f"the process died of {_signal_name(-self.returncode)} {during}"
        return f"the process exited with code {self.returncode} {during}"


@dataclass(frozen=True)
class Outfit:
    """What a worker gets beside its job: folders that come first on its path, open descriptors, variables."""

    path: tuple[Path, ...] = ()
    descriptors: tuple[int, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


NOTHING_MORE = Outfit()


class Child:
    """Runs one job in a process group of its own. ``run`` does it all; who holds several looks at each, and ends it."""

    def __init__(self, job: jobs.Job, limits: Limits, outfit: Outfit = NOTHING_MORE) -> None:
        self.limits = limits
        self._folder = tempfile.TemporaryDirectory(prefix="moebench-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        replace_file(self.folder / jobs.JOB, job)
        with (self.folder / jobs.LOG).open("wb") as log:
            # -P: what lies in the current directory does not shadow what is installed
            command = [sys.executable, "-P", "-m", "harness.running.worker", str(self.folder)]
            self._process = subprocess.Popen(  # noqa: S603 (our own words)
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(limits, outfit),
                pass_fds=outfit.descriptors,
                start_new_session=True,
            )
        self._started_ns = time.monotonic_ns()
        self._family: list[psutil.Process] = []
        self._polls = 0
        self._answers = 0
        self._done = False

    @property
    def pid(self) -> int:
        """The worker's process id, and that of its group."""
        return self._process.pid

    def run(
        self, heard: Callable[[jobs.Outcome], None], ticked: Callable[[blackbox.Announcement], None]
    ) -> Death | None:
        """Wait for the job to end, handing on each outcome; None when it was finished.

        The worker's whole process group is gone when this returns or raises, KeyboardInterrupt included. It can be
        called once.
        """
        by: By = "itself"
        try:
            while not (ended := self.look(heard)):
                ticked(self.last())
                self.wait(POLL_S)
            by = ended
        finally:
            death = self.end(by, heard)
        return death

    def last(self) -> blackbox.Announcement:
        """Return what the worker announced last."""
        return blackbox.read(self.folder / jobs.BLACK_BOX)

    def look(self, heard: Callable[[jobs.Outcome], None], *, may_be_silent: bool = False) -> By | None:
        """Hand on what was answered; when the worker is done or dead, or must be ended, say by whom it is."""
        alive = self._process.poll() is None
        self._collect(heard)
        if self._done or not alive:
            return "itself"
        last = self.last()
        if not may_be_silent and self._silent_s(last) > silence_limit_s(last, self.limits):
            self._ask_for_stacks()
            return "timeout"
        if self.limits.memory_bytes and self._memory_bytes() > self.limits.memory_bytes:
            return "memory"
        return None

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the worker ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def end(self, by: By, heard: Callable[[jobs.Outcome], None]) -> Death | None:
        """End the worker's process group, hand on the last answers, and say how it died; None when it was done."""
        with self._folder:
            try:
                self._kill()
            finally:
                self._collect(heard)
            return None if self._done else Death(by, self._process.returncode, self.last(), self._log_tail())

    def _collect(self, heard: Callable[[jobs.Outcome], None]) -> None:
        for outcome in jobs.outcomes_from(self.folder, self._answers):
            self._answers += 1
            if isinstance(outcome, jobs.DoneOutcome):
                self._done = True
            else:
                heard(outcome)

    def _silent_s(self, last: blackbox.Announcement) -> float:
        return (time.monotonic_ns() - max(last.beat_ns, self._started_ns)) / 1e9

    def _memory_bytes(self) -> int:
        """Resident bytes of the worker and its children."""
        total = 0
        if self._polls % FAMILY_EVERY == 0:
            with contextlib.suppress(psutil.Error):
                worker = psutil.Process(self._process.pid)
                self._family = [worker, *worker.children(recursive=True)]
        self._polls += 1
        for process in self._family:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def _ask_for_stacks(self) -> None:
        """Have a hanging worker print the stacks of its threads into the log (``faulthandler``)."""
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            self._process.send_signal(signal.SIGUSR1)
            self._process.wait(STACKS_S)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _log_tail(self) -> str:
        """Return the end of what the worker printed since its last announcement."""
        with (self.folder / jobs.LOG).open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self.last().log_offset, size - jobs.LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")


def silence_limit_s(last: blackbox.Announcement, limits: Limits) -> float:
    """Seconds a worker may go on with what it announced last: an implementation's stage, or its own preparations."""
    return limits.stage_s if last.impl else max(limits.stage_s, SETUP_LIMIT_S)


def ask(job: jobs.Job, limits: Limits, outfit: Outfit = NOTHING_MORE) -> tuple[list[jobs.Outcome], Death | None]:
    """Run a short job to its end and return what it answered; begin anew a few times when killed from outside."""
    death: Death | None = None
    heard: list[jobs.Outcome] = []
    for _ in range(KILLS_FORGIVEN):
        heard.clear()
        death = Child(job, limits, outfit).run(heard.append, lambda _: None)
        if death is None or not death.killed_from_outside:
            break
    return heard, death


def _environment(limits: Limits, outfit: Outfit = NOTHING_MORE) -> dict[str, str]:
    """Variables of the worker: the checkout on its path, unbuffered output, who its parent is, its memory limit."""
    root = Path(harness.__file__).resolve().parent.parent
    checkout = [str(root)] if (root / "pyproject.toml").exists() else []
    paths = [*map(str, outfit.path), *checkout, os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **outfit.variables,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        jobs.PARENT_VARIABLE: str(os.getpid()),
        jobs.DATA_VARIABLE: str(limits.data_bytes),
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def available_memory_bytes() -> int:
    """Return the memory a worker may use on this machine: nine tenths of what is free, in the container too."""
    free = psutil.virtual_memory().available
    limit = container_memory_bytes()
    if limit is not None:
        free = min(free, max(0, limit - container_used_bytes()))
    return int(0.9 * free)
