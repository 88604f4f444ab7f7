"""Records as a table: one row per record, one column per figure that the report shows."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

import pandas as pd

from harness.cases.case import Case  # noqa: TC001 (the annotations of Row are read)
from harness.records.rounds import Samples, samples_of
from harness.report.labels import group_id, run_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.records.record import Agreement, Record, Values
    from harness.records.store import Run


class Row(NamedTuple):
    """A record as the report sees it; its fields are the frame's columns.

    ``run`` is the run's label, ``group`` the id of its group of cases, ``histogram`` the tokens of each expert,
    ``taken`` the samples by process and round. ``error`` is a relative error of the tensor ``error_at``, of the whole
    or of its worst row or column: the one of all that came nearest to its ``tolerance``. Numbers that were not measured
    are NaN, texts empty.
    """

    run: str
    group: str
    case: Case
    case_id: str
    tokens: int
    spread: str
    seed: int
    bout: str
    impl: str
    family: str
    status: str
    reason: str
    log_tail: str
    flags: str
    histogram: tuple[int, ...] = ()
    samples: int = 0
    taken: Samples = MappingProxyType({})  # type: ignore[assignment]  # empty, and nobody's to fill
    median_ns: float = math.nan
    low_ns: float = math.nan
    high_ns: float = math.nan
    min_ns: float = math.nan
    noise_floor: float = math.nan
    first_call_ns: float = math.nan
    agreed: bool = False
    error: float = math.nan
    tolerance: float = math.nan
    error_at: str = ""
    floor_ns: float = math.nan
    tokens_per_second: float = math.nan
    tflops: float = math.nan
    share_of_floor: float = math.nan
    weights_bytes: float = math.nan
    prepared_bytes: float = math.nan
    workspace_bytes: float = math.nan
    saved_bytes: float = math.nan
    beside_weights_bytes: float = math.nan
    memory_reason: str = ""
    joules_per_token: float = math.nan
    energy_status: str = ""
    energy_reason: str = ""
    max_over_mean: float = math.nan
    max_over_mean_floor: float = math.nan
    configuration: str = ""


_DTYPES = {int: "int64", float: "float64", bool: "bool"}


def frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Table of all records of all runs, in the order they were written; its columns are the fields of ``Row``."""
    labels = run_labels(runs)
    rows = [_row(record, label) for run, label in zip(runs, labels, strict=True) for record in run.records]
    dtypes = {name: _DTYPES.get(kind, "object") for name, kind in get_type_hints(Row).items()}
    return pd.DataFrame(rows, columns=list(Row._fields)).astype(dtypes)


def rows_of(table: pd.DataFrame) -> Iterator[Row]:
    """Rows of a frame, or of a selection from it."""
    return map(Row._make, table[list(Row._fields)].itertuples(index=False, name=None))


def _row(record: Record, run: str) -> Row:
    case, balance = record.case, record.balance
    uneven: dict[str, Any] = {}
    if balance is not None:
        figures = {name: _number(getattr(balance, name)) for name in ("max_over_mean", "max_over_mean_floor")}
        uneven = {"histogram": tuple(balance.histogram), **figures}
    return Row(
        run=run,
        group=group_id(case),
        case=case,
        case_id=record.case_id,
        tokens=case.traffic.tokens,
        spread=case.traffic.label,
        seed=case.traffic.seed,
        bout=record.bout,
        impl=record.impl.name,
        family=record.impl.family,
        status=record.status,
        reason=record.reason,
        log_tail=record.log_tail,
        flags=", ".join(record.flags),
        configuration=_configuration(record),
        **(_speed(record) | _agreement(record.agreement) | _memory_and_energy(record) | uneven),
    )


def _configuration(record: Record) -> str:
    found = record.configuration
    return f"{in_line(found.values)} ({'tuned' if found.tuned else 'not tuned'})" if found else ""


def in_line(values: Values) -> str:
    """Write a configuration in one line: ``block=64 stages=3``."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def _speed(record: Record) -> dict[str, Any]:
    timing, work = record.timing, record.work
    figures: dict[str, Any] = {}
    if timing is not None:
        names = ("median_ns", "min_ns", "noise_floor", "first_call_ns")
        figures |= {name: _number(getattr(timing, name)) for name in names}
        low, high = timing.interval_ns or (None, None)
        figures |= {"samples": len(timing.samples_ns), "low_ns": _number(low), "high_ns": _number(high)}
        if len(timing.rounds) == len(timing.samples_ns):
            figures["taken"] = {place: ns for place, ns in samples_of(timing).items() if 0 < ns < math.inf}
    if work is not None:
        names = ("floor_ns", "tokens_per_second", "tflops", "share_of_floor")
        figures |= {name: _number(getattr(work, name)) for name in names}
    return figures


def _agreement(agreement: Agreement | None) -> dict[str, Any]:
    """Name the one tensor that came nearest to its tolerance, or went furthest beyond it."""
    if agreement is None:
        return {}
    worst: dict[str, Any] = {"agreed": agreement.passed}
    highest = -math.inf
    for name, tensor in agreement.tensors.items():
        if tensor.used > highest:
            highest, (error, tolerance) = tensor.used, tensor.nearest
            worst |= {"error": _number(error), "tolerance": tolerance, "error_at": name}
    return worst


def _memory_and_energy(record: Record) -> dict[str, Any]:
    memory, energy = record.memory, record.energy
    figures: dict[str, Any] = {}
    if memory is not None and memory.status == "ok":
        names = ("weights_bytes", "prepared_bytes", "workspace_bytes", "saved_bytes", "beside_weights_bytes")
        figures |= {name: _number(getattr(memory, name)) for name in names}
    elif memory is not None:
        figures["memory_reason"] = memory.reason
    if energy is not None:
        figures |= {"energy_status": energy.status, "energy_reason": energy.reason}
        figures["joules_per_token"] = _number(energy.joules_per_token)
    return figures


def _number(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) else float(value)
