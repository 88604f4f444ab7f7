"""Records of one case and implementation from several worker processes, joined into one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from harness.records.derive import derive
from harness.records.record import Agreement, Neighbours, Record, Timing, Work
from harness.records.stats import noise_floor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from harness.records.environment import Ceilings

T = TypeVar("T")
DRIFT = "drift"
"""The flag of a speed that changes within a process. That processes differ is why there are several."""
TIMED = ("ok", "impossible")
"""Statuses of records whose samples are there. Whether a time is impossible is judged anew, on all samples."""


def join(by_process: Mapping[int, Record], ceilings: Ceilings | None, bout: str) -> Record:
    """Return the record of all processes together, given by their numbers.

    The first that was not measured stands for all. Otherwise samples follow one another, process by process, and what
    follows from them is derived again; memory, energy and balance are those of the first process that has them.
    """
    records = [by_process[number] for number in sorted(by_process)]
    for record in records:
        if record.status not in TIMED or record.timing is None:
            return msgspec.structs.replace(record, bout=bout)
    timings = _present(records, lambda record: record.timing)
    joined = msgspec.structs.replace(
        records[0],
        status="ok",
        reason="",
        bout=bout,
        taken_at=records[-1].taken_at,
        timing=_timing(dict(zip(sorted(by_process), timings, strict=True))),
        agreement=_agreement(_present(records, lambda record: record.agreement)),
        memory=_first(record.memory for record in records),
        energy=_first(record.energy for record in records),
        work=_work(records),
        neighbours=_neighbours(_present(records, lambda record: record.neighbours)),
        flags=[],
    )
    derive(joined, ceilings)
    joined.flags = [flag for flag in joined.flags if flag != DRIFT]
    if 2 * sum(DRIFT in record.flags for record in records) > len(records):  # most of them
        joined.flags.append(DRIFT)
    return joined


def with_common_floor(records: Sequence[Record]) -> Sequence[Record]:
    """Give all records of a bout the noise floor of its A/A control over all processes, in place; return them.

    Where no contestant was the control in every process, each keeps the largest floor of a process.
    """
    for record in records:
        if record.timing and record.timing.control_ns:
            floor = noise_floor(record.timing.samples_ns, record.timing.control_ns)
            for other in records:
                if other.timing:
                    other.timing.noise_floor = floor
            break
    return records


def _timing(by_process: Mapping[int, Timing]) -> Timing:
    """Join timings; ``calls_per_sample`` is the last process', which knew best, other single figures the first's."""
    timings = list(by_process.values())
    first = timings[0]
    stopped = first.stopped if len({timing.stopped for timing in timings}) == 1 else "budget"
    return Timing(
        clock=first.clock,
        cache="cold" if any(timing.cache == "cold" for timing in timings) else "hot",
        samples_ns=[sample for timing in timings for sample in timing.samples_ns],
        rounds=[number for timing in timings for number in timing.rounds],
        processes=[process for process, timing in by_process.items() for _ in timing.rounds],
        device_ns=_joined(timing.device_ns for timing in timings),
        control_ns=_joined(timing.control_ns for timing in timings),
        calls_per_sample=timings[-1].calls_per_sample,
        prepare_ns=first.prepare_ns,
        first_call_ns=first.first_call_ns,
        warmup_calls=sum(timing.warmup_calls for timing in timings),
        warm=all(timing.warm for timing in timings),
        stopped=stopped,
        noise_floor=max((timing.noise_floor for timing in timings if timing.noise_floor is not None), default=None),
    )


def _agreement(agreements: Sequence[Agreement]) -> Agreement | None:
    if not agreements:
        return None
    said = [agreement.deterministic for agreement in agreements if agreement.deterministic is not None]
    return msgspec.structs.replace(
        agreements[0],
        checks=sum(agreement.checks for agreement in agreements),
        deterministic=all(said) if said else None,
    )


def _work(records: Sequence[Record]) -> Work | None:
    """Take the work of the process with most calls: every process is asked the same draws, in the same order.

    Its floor is the lowest: ceilings may have been raised on the way.
    """
    works = [(len(record.timing.samples_ns), record.work) for record in records if record.timing and record.work]
    if not works:
        return None
    _, most = max(works, key=lambda pair: pair[0])
    floors = [work.floor_ns for _, work in works if work.floor_ns is not None]
    return msgspec.structs.replace(most, floor_ns=min(floors, default=None))


def _neighbours(seen: Sequence[Neighbours]) -> Neighbours | None:
    """Mean of the shares, most of the processes on the GPU."""
    if not seen:
        return None
    return Neighbours(
        others_share=_mean(one.others_share for one in seen),
        steal_share=_mean(one.steal_share for one in seen),
        gpu_processes=max((one.gpu_processes for one in seen if one.gpu_processes is not None), default=None),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _joined(parts: Iterable[list[float] | None]) -> list[float] | None:
    """One list of all parts; None when a part is missing, since the others could not be told apart."""
    there = list(parts)
    if any(part is None for part in there):
        return None
    return [value for part in there for value in part or ()]


def _present(records: Sequence[Record], part: Callable[[Record], T | None]) -> list[T]:
    return [found for record in records if (found := part(record)) is not None]


def _first(parts: Iterable[T | None]) -> T | None:
    return next((part for part in parts if part is not None), None)
