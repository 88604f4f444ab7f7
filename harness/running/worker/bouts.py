"""Bouts in a worker: one case after another, on the worker's own account or in rounds that the parent conducts."""

from __future__ import annotations

import contextlib
import math
import time
from socket import socket
from typing import TYPE_CHECKING

from harness.cases.datasheet import datasheet_for
from harness.cases.replay import ReplayError
from harness.measure.surroundings import NOBODY
from harness.records.unmeasured import storable, unmeasured
from harness.running import discovery, jobs
from harness.running.pacing import LEAST_SHARE, bout_weights
from harness.running.registry import registered
from harness.running.worker.workbench import take_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.cases.case import PlannedCase
    from harness.cases.datasheet import Datasheet
    from harness.layer.contract import Implementation
    from harness.layer.weights import Weights
    from harness.measure.surroundings import Conduct
    from harness.running.jobs import BoutsJob, TurnsJob
    from harness.running.worker.workbench import Workbench

WHY_NO_ENERGY = "two workers take turns on the device, whose counter counts both; `moebench run` meters energy"


def bouts(bench: Workbench, job: BoutsJob, broken: dict[str, str]) -> None:
    """Run one bout after another, each with its share of the time that is left."""
    from harness.measure.failures import is_out_of_memory

    come_up(timed=job.timed)
    greet(bench, job.planned)
    bench.answer(jobs.ReadyOutcome(broken))
    left_s, weights_of = job.budget_s, bout_weights(job.planned, job.ceilings)
    fair_s = job.budget_s / sum(weights_of) if job.planned else 0.0
    for number, planned in enumerate(job.planned):
        start = begun = time.perf_counter()
        bench.note(planned.case.case_id, NOBODY, jobs.WEIGHTS_STAGE)
        try:
            weights = bench.layer(planned.case)
            begun = time.perf_counter()
            left_s -= begun - start  # building the layer is at every bout's cost, not at the first one's
            share_s = left_s * weights_of[number] / sum(weights_of[number:])
            least_s = LEAST_SHARE * fair_s * weights_of[number]
            outcome = _bout(bench, job, planned, weights, max(least_s, share_s))
        except Exception as error:
            if not (is_out_of_memory(error) or isinstance(error, ReplayError)):
                raise
            outcome = _hopeless(job, planned, error)
        ended = time.perf_counter()
        outcome.wall_s = ended - start
        left_s -= ended - begun
        bench.answer(outcome)


def turns(bench: Workbench, job: TurnsJob, broken: dict[str, str]) -> None:
    """Run the bouts that the parent asks for, one after another, in rounds that it conducts."""
    from harness.measure.failures import is_out_of_memory
    from harness.measure.turns import TurnTaker
    from harness.measure.wire import Over, Ready, Wire

    come_up(timed=True)
    greet(bench, job.planned)
    by_id = {planned.case.case_id: planned for planned in job.planned}
    taker = TurnTaker(Wire(socket(fileno=job.wire)))
    taker.wire.send(Ready(broken, discovery.strays(job.homes)))
    while case_id := taker.next_case():
        planned, start = by_id[case_id], time.perf_counter()
        bench.note(case_id, NOBODY, jobs.WEIGHTS_STAGE)
        try:
            weights = bench.layer(planned.case)
            taker.has_layer()
            outcome = _bout(bench, job, planned, weights, math.inf, taker)
        except Exception as error:
            if not (is_out_of_memory(error) or isinstance(error, ReplayError)):
                raise
            outcome = _hopeless(job, planned, error)
        outcome.wall_s = time.perf_counter() - start
        bench.answer(outcome)
        taker.wire.send(Over())


def come_up(*, timed: bool) -> None:
    """Import all that a bout needs, before the clock of the first one starts."""
    import torch

    import harness.measure.bout  # noqa: F401
    from harness.measure.meters.memory import allocations_are_reported

    if timed:
        allocations_are_reported()  # torch's profiler takes a second to come up
    else:
        torch.set_num_threads(1)  # the gate's cases are tiny: threads would only wait for each other


def greet(bench: Workbench, planned: Sequence[PlannedCase]) -> None:
    """Ask who takes part in the first bout before its clock starts: some import a large package when they are asked.

    The answers are of no interest yet. An implementation that raises here will do so again in its bout.
    """
    from harness.measure.settings import kept_settings

    for first in planned[:1]:
        take_device(first.case)
        for implementation in _asked(first):
            bench.note(first.case.case_id, implementation.name, "asking")
            with kept_settings(), contextlib.suppress(BaseException):
                implementation.unsupported(first.case)


def _bout(
    bench: Workbench,
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
    from harness.running.worker.devices import board_of

    case = planned.case
    take_device(case)
    ceilings = job.ceilings.get(case.device)
    board, why_not = (None, WHY_NO_ENERGY) if isinstance(job, jobs.TurnsJob) else board_of(case.device)
    around = Surroundings(
        clock=clock_for(case.device),
        note=lambda impl, stage: bench.note(case.case_id, impl, stage),
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
    bench.note(case.case_id, NOBODY, "writing records")
    if around.ceilings is not None:
        job.ceilings[case.device] = around.ceilings  # what was found better holds for the bouts to come
    return jobs.BoutOutcome(
        case_id=case.case_id,
        records=[bench.with_log(storable(record)) for record in records],
        measuring_s=around.measuring_ns / 1e9,
        wall_s=0.0,
        ceilings=around.ceilings if around.ceilings is not ceilings else None,
    )


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


def _hopeless(job: BoutsJob | TurnsJob, planned: PlannedCase, error: Exception) -> jobs.BoutOutcome:
    """Tell every implementation of a case that it cannot be: too large for memory, or its trace is not there."""
    from harness.measure.failures import explain
    from harness.measure.result import describe

    failure = explain(error)
    said = str(error) if isinstance(error, ReplayError) else f"the case itself does not fit: {failure.reason}"
    records = [
        unmeasured(planned.case, describe(implementation), job.environment_id, failure.status, said, failure.log_tail)
        for implementation in _asked(planned)
    ]
    return jobs.BoutOutcome(case_id=planned.case.case_id, records=records, measuring_s=0.0, wall_s=0.0)
