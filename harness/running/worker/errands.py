"""What a worker does besides bouts: looking around, ceilings, calibrating, tuning, drawing and fitting traffic."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from harness.measure.surroundings import NOBODY
from harness.running import jobs
from harness.running.registry import missing_here, registered
from harness.running.worker.bouts import come_up
from harness.running.worker.workbench import take_device

if TYPE_CHECKING:
    from harness.cases.case import Case
    from harness.layer.contract import Implementation
    from harness.layer.weights import Weights
    from harness.running.jobs import CalibrationJob, CeilingsJob, FitJob, ShowJob, TuneJob
    from harness.running.worker.workbench import Workbench


def probe(bench: Workbench, broken: dict[str, str]) -> None:
    """Tell which implementations and devices there are, and what is missing or broken."""
    from harness.running.worker.devices import probe_facts, torch_devices

    listed = [_listed(implementation) for implementation in registered().values()]
    listed += [
        jobs.Listed(name=one.name, family=one.family, origin=one.origin, missing=one.needs, note=one.note)
        for one in missing_here().values()
    ]
    listed += [jobs.Listed(name=module, origin=module, broken=reason) for module, reason in broken.items()]
    bench.answer(jobs.ProbeOutcome(implementations=listed, devices=torch_devices(), facts=probe_facts()))


def ceilings(bench: Workbench, job: CeilingsJob) -> None:
    """Measure what a device can do at most, and what it takes idle."""
    from harness.measure.ceilings import measure_ceilings
    from harness.measure.meters.energy import idle_watts
    from harness.running.worker.devices import board_of

    found = measure_ceilings(job.device, job.dtypes)
    board, _ = board_of(job.device)
    found.idle_watts = idle_watts(board) if board else None
    bench.answer(jobs.CeilingsOutcome(ceilings=found))


def look(bench: Workbench, job: ShowJob | FitJob) -> None:
    """Draw a traffic, or fit generators to a trace layer by layer."""
    from harness.fitting.fit import fit_layers
    from harness.fitting.show import show

    if isinstance(job, jobs.ShowJob):
        bench.answer(jobs.ShownOutcome(show(job.shape, job.traffic)))
        return
    doing = partial(bench.note, "", NOBODY)
    for fit in fit_layers(job.path, job.layers, job.phase, job.tokens, doing):
        bench.answer(jobs.FitOutcome(fit))


def calibrate(bench: Workbench, job: CalibrationJob, broken: dict[str, str]) -> None:
    """Run a series of trials of one implementation against itself, slowed down or not."""
    from harness.measure.caches import cache_bytes
    from harness.measure.calibration import RefusedError, TrialSeries
    from harness.measure.clocks import clock_for
    from harness.measure.surroundings import Surroundings

    case, known = job.case, registered()
    take_device(case)
    bench.answer(jobs.ReadyOutcome(broken))
    bench.note(case.case_id, NOBODY, jobs.WEIGHTS_STAGE)
    around = Surroundings(
        clock=clock_for(case.device),
        note=lambda impl, stage: bench.note(case.case_id, impl, stage),
        environment_id="",
        cache_bytes=cache_bytes(case.device),
    )
    series = TrialSeries(case, bench.layer(case), around, job.process)
    try:
        for trial in series.run(known[job.impl], known.get(job.baseline), job.first, job.count, job.trial_s * 1e9):
            bench.answer(jobs.TrialOutcome(trial=trial))
    except RefusedError as error:
        bench.answer(jobs.RefusedOutcome(reason=str(error)))


def tune(bench: Workbench, job: TuneJob, broken: dict[str, str]) -> None:
    """Search for an implementation's configuration, case after case."""
    from harness.running.worker.tuner import tune_all

    come_up(timed=True)
    bench.answer(jobs.ReadyOutcome(broken))

    def weights_of(case: Case) -> Weights:
        take_device(case)
        return bench.layer(case)

    tune_all(job, registered()[job.impl], weights_of, bench.note, bench.answer)


def _listed(implementation: Implementation) -> jobs.Listed:
    from harness.measure.result import describe

    return jobs.Listed(
        **msgspec.structs.asdict(describe(implementation)),
        devices=implementation.devices,
        passes=implementation.passes,
        dtypes=implementation.dtypes,
        tunable=implementation.tunable is not None,
    )
