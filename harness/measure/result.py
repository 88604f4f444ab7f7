"""What a bout knows of one contestant, and the record it makes of that."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from harness.records.derive import derive
from harness.records.record import ImplInfo, Record
from harness.records.unmeasured import now

if TYPE_CHECKING:
    from harness.cases.case import Case
    from harness.layer.contract import Implementation
    from harness.measure.failures import Failure
    from harness.measure.gate import Admission
    from harness.measure.surroundings import Surroundings
    from harness.records.record import Agreement, Balance, Chosen, Energy, Memory, Neighbours, Timing, Work


@dataclass
class Result:
    """What is known of one contestant so far. It holds on to its prepared weights, in ``admission``, until it fails."""

    implementation: Implementation
    admission: Admission | None = None
    agreement: Agreement | None = None
    configuration: Chosen | None = None
    failure: Failure | None = None
    timing: Timing | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    work: Work | None = None

    @property
    def name(self) -> str:
        """The implementation's."""
        return self.implementation.name

    def admit(self, admission: Admission) -> None:
        """Note that it passed the gate."""
        self.admission, self.agreement = admission, admission.agreement
        self.configuration = admission.configuration

    def fail(self, failure: Failure) -> None:
        """Note how it failed, and let go of its weights and of what was measured."""
        self.failure = failure
        self.agreement = failure.agreement or self.agreement
        self.admission = self.timing = self.work = None

    @property
    def beats_its_floor(self) -> bool:
        """Whether it was quicker than the device can be."""
        floor_ns = self.work.floor_ns if self.work else None
        return self.timing is not None and floor_ns is not None and median(self.timing.samples_ns) < floor_ns

    def record(
        self, case: Case, around: Surroundings, bout: str, balance: Balance, neighbours: Neighbours | None
    ) -> Record:
        """Return the record of what is known, with the figures that follow from it."""
        failure = self.failure
        record = Record(
            case=case,
            case_id=case.case_id,
            impl=describe(self.implementation),
            status=failure.status if failure else "ok",
            reason=failure.reason if failure else "",
            log_tail=failure.log_tail if failure else "",
            environment_id=around.environment_id,
            bout=bout,
            taken_at=now(),
            configuration=self.configuration,
            timing=self.timing,
            agreement=self.agreement,
            memory=self.memory,
            energy=self.energy,
            balance=balance,
            work=self.work,
            neighbours=neighbours if self.timing else None,
        )
        return derive(record, around.ceilings)


def describe(implementation: Implementation) -> ImplInfo:
    """Say which implementation, as records do."""
    return ImplInfo(
        name=implementation.name,
        family=implementation.family,
        version=implementation.version,
        source_hash=implementation.source_hash,
        origin=implementation.origin,
        summary=implementation.summary,
        note=implementation.note,
    )
