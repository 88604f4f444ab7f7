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
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cases.datasheet import datasheet_for
from harness.running import discovery, jobs
from harness.running.blackbox import BlackBox
from harness.running.registry import registered

if TYPE_CHECKING:
    from harness.cases.case import Case, PlannedCase
    from harness.cases.datasheet import Datasheet
    from harness.layer.contract import Implementation
    from harness.layer.weights import Weights
    from harness.measure.meters.nvml import Board
    from harness.running.jobs import BoutsJob, CeilingsJob, Job, ProbeJob

PARENT_VARIABLE = "MOEBENCH_PARENT"
MEMORY_VARIABLE = "MOEBENCH_MEMORY_BYTES"
SETUP_IMPL = ""


class Worker:
    """Does one job; ``answer`` numbers the outcomes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.box = BlackBox(folder / jobs.BLACK_BOX)
        self._answers = 0

    def answer(self, outcome: jobs.Outcome) -> None:
        """Leave the next outcome for the parent."""
        jobs.write_outcome(self.folder, self._answers, outcome)
        self._answers += 1

    def note(self, case_id: str, impl: str, stage: str) -> None:
        """Tell the flight recorder what comes next, and where the log stands."""
        self.box.write(case_id, impl, stage, os.fstat(1).st_size)

    def do(self, job: Job) -> None:
        """Do the job; implementations are imported where it needs them."""
        if isinstance(job, jobs.CeilingsJob):
            self.note("", SETUP_IMPL, "setup")
            self._ceilings(job)
            return
        broken = discovery.load_all(lambda module: self.note("", module, "import"), job.skip)
        self.note("", SETUP_IMPL, "setup")
        if isinstance(job, jobs.ProbeJob):
            self._probe(broken)
        else:
            self._bouts(job)

    def _probe(self, broken: dict[str, str]) -> None:
        from harness.running.devices import probe_facts, torch_devices

        listed = [_listed(implementation) for implementation in registered().values()]
        listed += [jobs.Listed(name=module, origin=module, broken=reason) for module, reason in broken.items()]
        self.answer(jobs.ProbeOutcome(implementations=listed, devices=torch_devices(), facts=probe_facts()))

    def _ceilings(self, job: CeilingsJob) -> None:
        from harness.measure.ceilings import measure_ceilings
        from harness.measure.meters.energy import idle_watts

        ceilings = measure_ceilings(job.device, job.dtypes)
        board, _ = open_board(job.device)
        ceilings.idle_watts = idle_watts(board) if board else None
        self.answer(jobs.CeilingsOutcome(ceilings=ceilings))

    def _bouts(self, job: BoutsJob) -> None:
        import torch  # noqa: F401, PLC0415 (before the clock of the first bout starts)

        self.answer(jobs.ReadyOutcome())
        left_s = job.budget_s
        weights, key = None, ""
        for number, planned in enumerate(job.planned):
            case, start = planned.case, time.perf_counter()
            self.note(case.case_id, SETUP_IMPL, "weights")
            if case.layer_key != key:
                weights = None  # the old layer goes before the new one comes
                weights, key = _build(case), case.layer_key
            assert weights is not None
            budget_s = left_s / (len(job.planned) - number)
            outcome = self._bout(job, planned, weights, budget_s - (time.perf_counter() - start))
            outcome.wall_s = time.perf_counter() - start
            left_s = max(0.0, left_s - outcome.wall_s)
            self.answer(outcome)

    def _bout(self, job: BoutsJob, planned: PlannedCase, weights: Weights, budget_s: float) -> jobs.BoutOutcome:
        from harness.measure.bout import Bout, Surroundings
        from harness.measure.caches import cache_bytes
        from harness.measure.clocks import clock_for

        case = planned.case
        ceilings = job.ceilings.get(case.device)
        board, why_not = open_board(case.device)
        around = Surroundings(
            clock=clock_for(case.device),
            note=lambda impl, stage: self.note(case.case_id, impl, stage),
            environment_id=job.environment_id,
            ceilings=ceilings,
            datasheet=_datasheet(case.device),
            cache_bytes=cache_bytes(case.device),
            board=board,
            why_no_board=why_not,
            idle_watts=ceilings.idle_watts if ceilings else None,
            timed=job.timed,
        )
        known = registered()
        names = planned.implementations if planned.implementations is not None else tuple(known)
        records = Bout(case, weights, around).run([known[n] for n in names if n in known], budget_s * 1e9)
        return jobs.BoutOutcome(
            case_id=case.case_id, records=records, measuring_s=around.measuring_ns / 1e9, wall_s=0.0
        )


def open_board(device: str) -> tuple[Board | None, str]:
    """The power meter of a device, or why there is none."""
    from harness.measure.meters.nvml import NvmlUnavailable, open_board

    if not device.startswith("cuda"):
        return None, "energy is read from NVIDIA boards through NVML; this case ran on the CPU"
    import torch

    try:
        return open_board(str(torch.cuda.get_device_properties(device).uuid)), ""
    except NvmlUnavailable as error:
        return None, str(error)


def _datasheet(device: str) -> Datasheet | None:
    if not device.startswith("cuda"):
        return None
    import torch

    properties = torch.cuda.get_device_properties(device)
    return datasheet_for(properties.name, properties.total_memory)


def _build(case: Case) -> Weights:
    from harness.layer.weights import make_weights

    return make_weights(case)


def _listed(implementation: Implementation) -> jobs.Listed:
    return jobs.Listed(
        name=implementation.name,
        family=implementation.family,
        version=implementation.version,
        source_hash=implementation.source_hash,
        origin=implementation.origin,
        summary=implementation.summary,
        devices=implementation.devices,
        passes=implementation.passes,
        dtypes=implementation.dtypes,
    )


def die_with_parent() -> None:
    """Ask the kernel to end this process when the parent ends, and end at once if it already has (Linux)."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.get(PARENT_VARIABLE)
    if parent and os.getppid() != int(parent):
        sys.exit("the parent is gone")


def limit_memory() -> None:
    """Bound what this process may allocate, so that asking without end raises instead of taking the machine down."""
    allowed = int(os.environ.get(MEMORY_VARIABLE, "0"))
    if allowed:
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def main() -> None:
    """Entry point of the child."""
    die_with_parent()
    limit_memory()
    faulthandler.enable()
    folder = Path(sys.argv[1])
    Worker(folder).do(jobs.read_job(folder))


if __name__ == "__main__":
    main()
