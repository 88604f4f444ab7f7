"""Published figures beside ours: only for the same work, and side by side only where the device is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report import units
from harness.report.escape import Markdown, markdown_table
from harness.report.labels import run_labels
from harness.report.ranking import BASELINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.cases.published import Published
    from harness.records.record import Record
    from harness.records.store import Run


def published_table(runs: Sequence[Run]) -> Markdown:
    """One row a published figure and run that planned it; empty where no suite brought any."""
    headers = [
        "published by",
        "work",
        "theirs",
        "their device",
        "our fastest",
        "our counterpart",
        "ours over theirs",
        "status",
    ]
    rows = []
    for run, label in zip(runs, run_labels(runs), strict=True):
        rows += [([label] if len(runs) > 1 else []) + _row(one, run) for one in run.info.published]
    if not rows:
        return Markdown("")
    return markdown_table((["machine"] if len(runs) > 1 else []) + headers, rows)


def _row(one: Published, run: Run) -> list[str]:
    theirs = f"{_figure(one.figure, one.unit)} ({one.implementation})"
    work = " ".join(one.case.label().split()[:-1])
    return [one.source, work, theirs, one.device or "not stated", *_beside(one, run), _status(one)]


def _beside(one: Published, run: Run) -> list[str]:
    """Our fastest, our counterpart of theirs, and how many times as fast our fastest is; or why there is none."""
    if not one.device:
        return ["their device is not known", units.ABSENT, units.ABSENT]
    found = [record for record in run.records if _comparable(one, record)]
    there = [record for record in found if one.same_device(run.environment.devices[record.case.device].name)]
    if not there:
        why = f"not measured on {one.device}" if found or not _planned(one, run) else "no time was taken"
        return [why, units.ABSENT, units.ABSENT]
    fastest = min(there, key=_median_ns)
    counterpart = min((record for record in there if record.impl.name == one.ours), key=_median_ns, default=None)
    speedup = _speedup(one, fastest)
    return [_ours(one, fastest), _ours(one, counterpart) if counterpart else units.ABSENT, units.ratio(speedup)]


def _comparable(one: Published, record: Record) -> bool:
    timed = record.status == "ok" and record.timing is not None and record.timing.median_ns is not None
    return timed and record.impl.family != BASELINE and one.same_work(record.case)


def _planned(one: Published, run: Run) -> bool:
    """Whether the run asked for this work on the very device."""
    devices = run.environment.devices
    return any(
        one.same_work(p.case) and p.case.device in devices and one.same_device(devices[p.case.device].name)
        for p in run.info.plan
    )


def _median_ns(record: Record) -> float:
    assert record.timing is not None
    return record.timing.median_ns or float("inf")


def _value(one: Published, record: Record) -> float | None:
    """Our figure in their unit."""
    if one.unit == "ms":
        return _median_ns(record) / 1e6
    return record.work.tflops if record.work else None


def _ours(one: Published, record: Record) -> str:
    value = _value(one, record)
    execution = f", {record.case.execution}" if record.case.execution != "eager" else ""
    return f"{_figure(value, one.unit)} ({record.impl.name}{execution})"


def _speedup(one: Published, record: Record) -> float | None:
    value = _value(one, record)
    if not value:
        return None
    return one.figure / value if one.unit == "ms" else value / one.figure


def _figure(value: float | None, unit: str) -> str:
    return units.ABSENT if value is None else f"{units.plain(value)} {unit}"


def _status(one: Published) -> str:
    reproduced = "reproduced by us" if one.verified else "unverified"
    return f"{reproduced}; {one.note}" if one.note else reproduced
