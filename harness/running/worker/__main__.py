"""The child process: does one job and answers in files. ``python -m harness.running.worker FOLDER``.

Whatever an implementation does to this process costs at most the bout in flight: the parent reads the flight recorder,
charges the implementation that was running, and starts another worker for the rest.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.measure.surroundings import NOBODY
from harness.running import discovery, jobs
from harness.running.worker import bouts, errands
from harness.running.worker.workbench import Workbench, start_torch

if TYPE_CHECKING:
    from harness.running.jobs import Job


def do(bench: Workbench, job: Job) -> None:
    """Do the job; implementations are imported where it needs them."""
    if isinstance(job, jobs.ShowJob | jobs.FitJob):
        bench.note("", NOBODY, "setup")
        errands.look(bench, job)
    elif isinstance(job, jobs.CeilingsJob):
        bench.note("", NOBODY, "importing torch")
        start_torch()
        bench.note("", NOBODY, "setup")
        errands.ceilings(bench, job)
    else:
        bench.note("", NOBODY, "importing torch")
        start_torch()
        files = job.files if isinstance(job, jobs.ProbeJob | jobs.BoutsJob) else ()
        broken = discovery.load_all(lambda module: bench.note("", module, "import"), job.skip, files)
        bench.note("", NOBODY, "setup")
        _do_with_implementations(bench, job, broken)
    bench.answer(jobs.DoneOutcome())


def _do_with_implementations(bench: Workbench, job: Job, broken: dict[str, str]) -> None:
    """``broken`` are the modules that could not be imported, and why."""
    if isinstance(job, jobs.ProbeJob):
        errands.probe(bench, broken)
    elif isinstance(job, jobs.TurnsJob):
        bouts.turns(bench, job, broken)
    elif isinstance(job, jobs.CalibrationJob):
        errands.calibrate(bench, job, broken)
    elif isinstance(job, jobs.TuneJob):
        errands.tune(bench, job, broken)
    elif isinstance(job, jobs.BoutsJob):
        bouts.bouts(bench, job, broken)


def die_with_parent() -> None:
    """Ask the kernel to end this process when the parent ends, and end at once if it already has (Linux)."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.get(jobs.PARENT_VARIABLE)
    if parent and os.getppid() != int(parent):
        sys.exit("the parent is gone")


def limit_memory() -> None:
    """Bound what this process may allocate, so that asking without end raises instead of taking the machine down."""
    allowed = int(os.environ.get(jobs.DATA_VARIABLE, "0"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if allowed and (hard == resource.RLIM_INFINITY or allowed < hard):
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def main() -> None:
    """Entry point of the child."""
    die_with_parent()
    limit_memory()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # what the parent sends before it ends a worker that hangs
    folder = Path(sys.argv[1])
    do(Workbench(folder), jobs.read_job(folder))


if __name__ == "__main__":
    main()
