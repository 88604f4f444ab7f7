"""The worker's part of ``moebench tune``: candidates as temporary implementations in ordinary bouts."""

from __future__ import annotations

import functools
import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from harness.records.unmeasured import storable, unmeasured
from harness.running import jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.cases.case import Case
    from harness.layer.contract import Forward, Implementation, Layer, Tunable
    from harness.layer.weights import Weights
    from harness.records.record import Record, Values


def tune_all(
    job: jobs.TuneJob,
    implementation: Implementation,
    weights_of: Callable[[Case], Weights],
    note: Callable[[str, str, str], None],
    answer: Callable[[jobs.Outcome], None],
) -> None:
    """Search in one case after another, as long as the budget lasts, and answer each.

    What the implementation refuses is answered before any weights are made, up to the case for which no time is left.
    """
    ends = time.monotonic() + job.budget_s
    for number, case in enumerate(job.cases):
        if reason := implementation.unsupported(case):
            answer(_refused(job, implementation, case, str(reason)))
            continue
        left_s = ends - time.monotonic()
        if left_s <= 0:
            return
        note(case.case_id, "", jobs.WEIGHTS_STAGE)
        answer(_tune(job, implementation, case, weights_of(case), note, left_s / (len(job.cases) - number)))


def _refused(job: jobs.TuneJob, implementation: Implementation, case: Case, reason: str) -> jobs.TunedOutcome:
    from harness.measure.result import describe

    record = unmeasured(case, describe(implementation), job.environment_id, "unsupported", reason)
    return jobs.TunedOutcome(case_id=case.case_id, default={}, best={}, records=[record])


def _tune(
    job: jobs.TuneJob,
    implementation: Implementation,
    case: Case,
    weights: Weights,
    note: Callable[[str, str, str], None],
    budget_s: float,
) -> jobs.TunedOutcome:
    from harness.measure.bout import Bout
    from harness.measure.caches import cache_bytes
    from harness.measure.climb import Climb
    from harness.measure.clocks import clock_for
    from harness.measure.surroundings import Surroundings
    from harness.running.worker.devices import device_name

    around = Surroundings(
        clock=clock_for(case.device),
        note=lambda impl, stage: note(case.case_id, impl, stage),
        environment_id=job.environment_id,
        cache_bytes=cache_bytes(case.device),
        metered=False,
    )
    tunable = implementation.tunable
    assert tunable is not None, "the parent asks only what is tunable"

    def measure(some: Sequence[Values], share_s: float) -> list[Record]:
        entered = [candidate(implementation, tunable, values) for values in some]
        return Bout(case, weights, around).run(entered, share_s * 1e9)

    shape, traffic = case.shape, case.traffic
    before = tunable.book.find(shape, traffic.tokens, case.dtype, case.pass_, device_name(case.device))
    climb = Climb(
        candidates=functools.partial(tunable.candidates, case),
        measure=measure,
        now=time.monotonic,
        start=before.values if before else None,
        avoid=lambda values: candidate_name(implementation.name, values) in job.avoid,
    )
    climb.run(budget_s)
    return jobs.TunedOutcome(
        case_id=case.case_id,
        default=climb.default,
        best=climb.best,
        records=[storable(record) for record in climb.records[: 2 if climb.best != climb.default else 1]],
        tried=len(climb.scores),
        failed=dict(climb.failed),
        whole=climb.whole,
    )


def candidate(implementation: Implementation, tunable: Tunable, values: Values) -> Implementation:
    """Return the implementation as it is with these values, under a name of its own."""

    def prepare(layer: Layer) -> Forward:
        return tunable.prepare(layer, values)

    return replace(implementation, name=candidate_name(implementation.name, values), prepare=prepare)


def candidate_name(name: str, values: Values) -> str:
    """Name a candidate; equal values have equal names in every process."""
    return name + jobs.CANDIDATE_MARK + hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest()[:8]
