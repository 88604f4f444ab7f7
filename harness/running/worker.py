"""The child process: does one job and answers in files. ``python -m harness.running.worker FOLDER``.

Whatever an implementation does to this process costs at most the bout in flight: the parent reads the flight recorder,
charges the implementation that was running, and starts another worker for the rest.
"""

from __future__ import annotations

import ctypes
import faulthandler
import math
import os
import resource
import signal
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

from harness.cases.datasheet import datasheet_for
from harness.cases.replay import ReplayError
from harness.records.record import Record, storable
from harness.running import discovery, jobs
from harness.running.blackbox import BlackBox
from harness.running.pacing import bout_weights
from harness.running.registry import missing_here, registered

if TYPE_CHECKING:
    from harness.cases.case import Case, PlannedCase
    from harness.cases.datasheet import Datasheet
    from harness.layer.contract import Implementation
    from harness.layer.weights import Weights
    from harness.measure.surroundings import Conduct
    from harness.running.jobs import BoutsJob, CalibrationJob, CeilingsJob, FitJob, Job, ShowJob, TuneJob, TurnsJob

SETUP_IMPL = ""
WHY_NO_ENERGY = "two workers take turns on the device, whose counter counts both; `moebench run` meters energy"


class Worker:
    """Does one job; ``answer`` numbers the outcomes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.box = BlackBox(folder / jobs.BLACK_BOX)
        self._answers = 0
        self._log = (folder / jobs.LOG).open("rb")
        self._announced = ("", 0)
        self._printed: dict[str, bytes] = {}
        self._weights: Weights | None = None
        self._layer_key = ""

    def answer(self, outcome: jobs.Outcome) -> None:
        """Leave the next outcome for the parent."""
        jobs.write_outcome(self.folder, self._answers, outcome)
        self._answers += 1

    def note(self, case_id: str, impl: str, stage: str) -> None:
        """Tell the flight recorder what comes next, and where the log stands; keep what was printed before."""
        size = os.fstat(self._log.fileno()).st_size
        speaker, since = self._announced
        if size > since:
            self._log.seek(max(since, size - jobs.LOG_TAIL_BYTES))
            self._printed[speaker] = (self._printed.get(speaker, b"") + self._log.read())[-jobs.LOG_TAIL_BYTES :]
        self._announced = impl, size
        self.box.write(case_id, impl, stage, size)

    def do(self, job: Job) -> None:
        """Do the job; implementations are imported where it needs them."""
        if isinstance(job, jobs.CeilingsJob):
            self.note("", SETUP_IMPL, "setup")
            self._ceilings(job)
        elif isinstance(job, jobs.ShowJob | jobs.FitJob):
            self.note("", SETUP_IMPL, "setup")
            self._look(job)
        else:
            files = job.files if isinstance(job, jobs.ProbeJob | jobs.BoutsJob) else ()
            broken = discovery.load_all(lambda module: self.note("", module, "import"), job.skip, files)
            self.note("", SETUP_IMPL, "setup")
            if isinstance(job, jobs.ProbeJob):
                self._probe(broken)
            elif isinstance(job, jobs.TurnsJob):
                self._turns(job, broken)
            elif isinstance(job, jobs.CalibrationJob):
                self._calibrate(job, broken)
            elif isinstance(job, jobs.TuneJob):
                self._tune(job, broken)
            else:
                self._bouts(job, broken)
        self.answer(jobs.DoneOutcome())

    def _probe(self, broken: dict[str, str]) -> None:
        from harness.running.devices import probe_facts, torch_devices

        listed = [_listed(implementation) for implementation in registered().values()]
        listed += [
            jobs.Listed(name=one.name, family=one.family, origin=one.origin, missing=one.needs, note=one.note)
            for one in missing_here().values()
        ]
        listed += [jobs.Listed(name=module, origin=module, broken=reason) for module, reason in broken.items()]
        self.answer(jobs.ProbeOutcome(implementations=listed, devices=torch_devices(), facts=probe_facts()))

    def _ceilings(self, job: CeilingsJob) -> None:
        from harness.measure.ceilings import measure_ceilings
        from harness.measure.meters.energy import idle_watts
        from harness.running.devices import board_of

        ceilings = measure_ceilings(job.device, job.dtypes)
        board, _ = board_of(job.device)
        ceilings.idle_watts = idle_watts(board) if board else None
        self.answer(jobs.CeilingsOutcome(ceilings=ceilings))

    def _look(self, job: ShowJob | FitJob) -> None:
        from harness.fitting.fit import fit_layers
        from harness.fitting.show import show

        if isinstance(job, jobs.ShowJob):
            self.answer(jobs.ShownOutcome(show(job.shape, job.traffic)))
            return
        doing = partial(self.note, "", SETUP_IMPL)
        for fit in fit_layers(job.path, job.layers, job.phase, job.tokens, doing):
            self.answer(jobs.FitOutcome(fit))

    def _bouts(self, job: BoutsJob, broken: dict[str, str]) -> None:
        from harness.measure.failures import is_out_of_memory

        _come_up(timed=job.timed)
        self.answer(jobs.ReadyOutcome(broken))
        left_s, weights_of = job.budget_s, bout_weights(job.planned, job.ceilings)
        for number, planned in enumerate(job.planned):
            start = begun = time.perf_counter()
            self.note(planned.case.case_id, SETUP_IMPL, jobs.WEIGHTS_STAGE)
            try:
                weights = self._layer(planned.case)
                begun = time.perf_counter()
                left_s -= begun - start  # building the layer is at every bout's cost, not at the first one's
                share_s = left_s * weights_of[number] / sum(weights_of[number:])
                outcome = self._bout(job, planned, weights, max(0.0, share_s))
            except Exception as error:
                if not (is_out_of_memory(error) or isinstance(error, ReplayError)):
                    raise
                outcome = _hopeless(job, planned, error)
            ended = time.perf_counter()
            outcome.wall_s = ended - start
            left_s -= ended - begun
            self.answer(outcome)

    def _turns(self, job: TurnsJob, broken: dict[str, str]) -> None:
        """Run the bouts that the parent asks for, one after another, in rounds that it conducts."""
        from harness.measure.failures import is_out_of_memory
        from harness.measure.turns import TurnTaker
        from harness.measure.wire import Over, Ready, Wire

        _come_up(timed=True)
        by_id = {planned.case.case_id: planned for planned in job.planned}
        taker = TurnTaker(Wire(socket(fileno=job.wire)))
        taker.wire.send(Ready(broken, discovery.strays(job.homes)))
        while case_id := taker.next_case():
            planned, start = by_id[case_id], time.perf_counter()
            self.note(case_id, SETUP_IMPL, jobs.WEIGHTS_STAGE)
            try:
                weights = self._layer(planned.case)
                taker.has_layer()
                outcome = self._bout(job, planned, weights, math.inf, taker)
            except Exception as error:
                if not (is_out_of_memory(error) or isinstance(error, ReplayError)):
                    raise
                outcome = _hopeless(job, planned, error)
            outcome.wall_s = time.perf_counter() - start
            self.answer(outcome)
            taker.wire.send(Over())

    def _calibrate(self, job: CalibrationJob, broken: dict[str, str]) -> None:
        from harness.measure.caches import cache_bytes
        from harness.measure.calibration import RefusedError, TrialSeries
        from harness.measure.clocks import clock_for
        from harness.measure.surroundings import Surroundings

        case, known = job.case, registered()
        _take_device(case)
        self.answer(jobs.ReadyOutcome(broken))
        self.note(case.case_id, SETUP_IMPL, jobs.WEIGHTS_STAGE)
        around = Surroundings(
            clock=clock_for(case.device),
            note=lambda impl, stage: self.note(case.case_id, impl, stage),
            environment_id="",
            cache_bytes=cache_bytes(case.device),
        )
        series = TrialSeries(case, self._layer(case), around, job.process)
        try:
            for trial in series.run(known[job.impl], known.get(job.baseline), job.first, job.count, job.trial_s * 1e9):
                self.answer(jobs.TrialOutcome(trial=trial))
        except RefusedError as error:
            self.answer(jobs.RefusedOutcome(reason=str(error)))

    def _tune(self, job: TuneJob, broken: dict[str, str]) -> None:
        from harness.running.tuner import tune_all

        _come_up(timed=True)
        self.answer(jobs.ReadyOutcome(broken))

        def weights_of(case: Case) -> Weights:
            _take_device(case)
            return self._layer(case)

        tune_all(job, registered()[job.impl], weights_of, self.note, self.answer)

    def _layer(self, case: Case) -> Weights:
        """Return the case's weights, made anew only when the last case ran on others."""
        from harness.layer.weights import make_weights

        if self._weights is None or case.layer_key != self._layer_key:
            self._weights = None  # the old layer goes before the new one comes
            self._weights, self._layer_key = make_weights(case), case.layer_key
        return self._weights.serving(case.shape)

    def _bout(
        self,
        job: BoutsJob | TurnsJob,
        planned: PlannedCase,
        weights: Weights,
        budget_s: float,
        conduct: Conduct | None = None,
    ) -> jobs.BoutOutcome:
        from harness.measure.bout import Bout
        from harness.measure.caches import cache_bytes
        from harness.measure.ceilings import measure_ceilings
        from harness.measure.clocks import clock_for
        from harness.measure.surroundings import Surroundings
        from harness.running.devices import board_of

        case = planned.case
        _take_device(case)
        ceilings = job.ceilings.get(case.device)
        turns = isinstance(job, jobs.TurnsJob)
        board, why_not = (None, WHY_NO_ENERGY) if turns else board_of(case.device)
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
            timed=isinstance(job, jobs.TurnsJob) or job.timed,
            metered=isinstance(job, jobs.BoutsJob) or job.metered,
            conduct=conduct,
            measure_again=lambda: measure_ceilings(case.device, (case.dtype,)),
        )
        records = Bout(case, weights, around).run(_asked(planned), budget_s * 1e9)
        self.note(case.case_id, SETUP_IMPL, "writing records")
        if around.ceilings is not None:
            job.ceilings[case.device] = around.ceilings  # what was found better holds for the bouts to come
        return jobs.BoutOutcome(
            case_id=case.case_id,
            records=[self._with_log(storable(record)) for record in records],
            measuring_s=around.measuring_ns / 1e9,
            wall_s=0.0,
            ceilings=around.ceilings if around.ceilings is not ceilings else None,
        )

    def _with_log(self, record: Record) -> Record:
        """Put what an implementation printed before what it raised into the record of its failure."""
        printed = self._printed.pop(record.impl.name, b"")[-jobs.LOG_TAIL_BYTES :].decode(errors="replace")
        if record.status not in {"ok", "unsupported"}:
            record.log_tail = (printed + record.log_tail)[-jobs.LOG_TAIL_BYTES :]
        return record


def _take_device(case: Case) -> None:
    """Make a case's GPU the current one: Triton and side streams take that."""
    if case.device.startswith("cuda"):
        import torch

        torch.cuda.set_device(case.device)


def _datasheet(device: str) -> Datasheet | None:
    if not device.startswith("cuda"):
        return None
    import torch

    properties = torch.cuda.get_device_properties(device)
    return datasheet_for(properties.name, properties.total_memory)


def _asked(planned: PlannedCase) -> list[Implementation]:
    """Return the implementations a case is planned for, as far as they could be imported here."""
    known = registered()
    return [known[name] for name in planned.implementations or () if name in known]


def _come_up(*, timed: bool) -> None:
    """Import all that a bout needs, before the clock of the first one starts."""
    import torch

    import harness.measure.bout  # noqa: F401
    from harness.measure.meters.memory import allocations_are_reported

    if timed:
        allocations_are_reported()  # torch's profiler takes a second to come up
    else:
        torch.set_num_threads(1)  # the gate's cases are tiny: threads would only wait for each other


def _hopeless(job: BoutsJob | TurnsJob, planned: PlannedCase, error: Exception) -> jobs.BoutOutcome:
    """Tell every implementation of a case that it cannot be: too large for memory, or its trace is not there."""
    from harness.measure.bout import describe
    from harness.measure.failures import explain

    failure = explain(error)
    said = str(error) if isinstance(error, ReplayError) else f"the case itself does not fit: {failure.reason}"
    records = [
        Record(
            case=planned.case,
            case_id=planned.case.case_id,
            impl=describe(implementation),
            status=failure.status,
            reason=said,
            log_tail=failure.log_tail,
            environment_id=job.environment_id,
            taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        for implementation in _asked(planned)
    ]
    return jobs.BoutOutcome(case_id=planned.case.case_id, records=records, measuring_s=0.0, wall_s=0.0)


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
        note=implementation.note,
        tunable=implementation.tunable is not None,
    )


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
    Worker(folder).do(jobs.read_job(folder))


if __name__ == "__main__":
    main()
