"""Records of what was not measured: one is written whatever happened."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from harness.records.record import Record

if TYPE_CHECKING:
    from harness.cases.case import Case
    from harness.records.record import ImplInfo, Status


def now() -> str:
    """UTC in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def unmeasured(
    case: Case, impl: ImplInfo, environment_id: str, status: Status, reason: str, log_tail: str = ""
) -> Record:
    """Return the record of an implementation that has no time in a case, and why."""
    return Record(
        case=case,
        case_id=case.case_id,
        impl=impl,
        status=status,
        reason=reason,
        log_tail=log_tail,
        environment_id=environment_id,
        taken_at=now(),
    )


def storable(record: Record) -> Record:
    """Return the record, or one that says why it cannot be kept: a figure that JSON has no word for, a wrong type."""
    try:
        msgspec.json.decode(msgspec.json.encode(record), type=Record)
    except (ValueError, TypeError) as error:
        said = f"its {record.status!r} record cannot be written down: {error}"
        told = unmeasured(record.case, record.impl, record.environment_id, "error", said, record.log_tail)
        return msgspec.structs.replace(told, bout=record.bout, taken_at=record.taken_at)
    return record
