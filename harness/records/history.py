"""History: what was measured again and again, as series over runs. Imports neither pandas nor matplotlib.

A series is one case, one implementation in one version, on one machine; whatever else could move a number for a reason
that has nothing to do with the code starts a new series, never a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.records.figures import RELATIVE, figure_of
from harness.records.steps import Steps, find_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from harness.records.environment import Environment
    from harness.records.metrics import Metric
    from harness.records.record import Record
    from harness.records.runs import DatedRun

PREFIX = 4
"""Characters of a case id that are enough to ask for it."""


@dataclass(frozen=True)
class Machine:
    """What must stay the same within a series; empty where it is not known."""

    hostname: str
    device: str
    driver: str
    torch: str
    threads: str

    @classmethod
    def of(cls, environment: Environment, word: str) -> Machine:
        """Take it from a run's environment, for the device that a case names."""
        device = environment.devices.get(word)
        return cls(
            hostname=environment.hostname,
            device=device.name if device else word,
            driver=(device.driver or "") if device else "",
            torch=environment.versions.get("torch") or "",
            threads=str(device.threads or "") if device else "",
        )


@dataclass(frozen=True)
class Key:
    """What a series is. ``yardstick`` is what a relative time is relative to; empty for other measures."""

    case_id: str
    impl: str
    version: str
    machine: Machine
    yardstick: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        """Case, host and device: what is drawn in one panel."""
        return self.case_id, self.machine.hostname, self.machine.device


@dataclass(frozen=True)
class Point:
    """One record of a series. ``value`` is None when there is none; ``gap`` then says why, in a word and a sentence.

    ``noise`` is the log-ratio that the same code showed against itself in that bout; ``relative`` the time over that of
    the bout's ``yardstick``, whatever the metric of the series is: a name, since runs need not share one.
    """

    run: str
    date: datetime
    commit: str
    revision: str
    status: str
    value: float | None
    low: float | None = None
    high: float | None = None
    noise: float | None = None
    relative: float | None = None
    yardstick: str = ""
    gap: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Series:
    """Points in the order of their runs. ``begins`` says what changed since the series before it, if there was one."""

    key: Key
    label: str
    family: str
    points: tuple[Point, ...]
    steps: Steps
    begins: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[Point, ...]:
        """Points with a value."""
        return tuple(point for point in self.points if point.value is not None)


def collect(runs: Sequence[DatedRun], metric: Metric, wanted: Callable[[Record], bool]) -> list[Series]:
    """Sort the wanted records of runs, oldest first, into series; those measured last come first.

    A record that was copied along with its run, the same bout under two paths, is one point.
    """
    points: dict[Key, list[Point]] = {}
    newest: dict[Key, Record] = {}
    seen: set[tuple[str, ...]] = set()
    last_yardstick: dict[Key, str] = {}
    for run in runs:
        yardsticks = {(r.bout, r.case_id): r for r in run.run.records if _is_yardstick(r)}
        for record in run.run.records:
            identity = _identity(record, run)
            if not wanted(record) or identity in seen:
                continue
            seen.add(identity)
            yardstick = yardsticks.get((record.bout, record.case_id))
            key = _key(record, run, yardstick if metric is RELATIVE else None, last_yardstick)
            points.setdefault(key, []).append(_point(record, run, metric, yardstick))
            newest[key] = record
    series = [_series(key, found, newest[key], metric, _change(key, points)) for key, found in points.items()]
    return sorted(series, key=lambda one: (-one.points[-1].date.timestamp(), -len(one.points), one.label, one.key.impl))


def selection(runs: Sequence[DatedRun], what: str, only: Sequence[str] | None) -> Callable[[Record], bool]:
    """Say what an argument asks for: an implementation, else the start of a case id, else a part of a case's label."""
    records = [record for run in runs for record in run.run.records]
    low = what.lower()

    def chosen(record: Record) -> bool:
        return only is None or record.impl.name in only

    if any(record.impl.name == what for record in records):
        return lambda record: record.impl.name == what and chosen(record)
    if len(what) >= PREFIX and any(record.case_id.startswith(low) for record in records):
        return lambda record: record.case_id.startswith(low) and chosen(record)
    return lambda record: low in record.case.label().lower() and chosen(record)


def what_there_is(runs: Sequence[DatedRun], cases: int = 3) -> str:
    """One line for whoever asked for something else: the implementations, and a few cases with their ids."""
    records = [record for run in reversed(runs) for record in run.run.records]
    labels = {record.case_id: record.case.label() for record in reversed(records)}
    names = ", ".join(sorted({record.impl.name for record in records})) or "none"
    some = "; ".join(f"{case_id} ({label})" for case_id, label in list(labels.items())[-cases:]) or "none"
    more = f"; and {len(labels) - cases} more" if len(labels) > cases else ""
    return f"there are the implementations {names}, and the cases {some}{more}"


def _is_yardstick(record: Record) -> bool:
    return record.status == "ok" and record.timing is not None and record.timing.control_ns is not None


def _identity(record: Record, run: DatedRun) -> tuple[str, ...]:
    """Equal for a record and its copy in another folder."""
    taken = (run.run.info.started_at, record.environment_id, record.taken_at) if record.taken_at else (run.name,)
    return (record.bout, record.case_id, record.impl.name, *taken)


def _key(record: Record, run: DatedRun, yardstick: Record | None, last_yardstick: dict[Key, str]) -> Key:
    """Key of a record. One whose bout died with its yardstick is a gap in the series that was going on."""
    machine = Machine.of(run.run.environment, record.case.device)
    bare = Key(record.case_id, record.impl.name, record.impl.version, machine)
    if yardstick is not None:
        last_yardstick[bare] = f"{yardstick.impl.name} version {yardstick.impl.version}"
    return Key(bare.case_id, bare.impl, bare.version, machine, last_yardstick.get(bare, ""))


def _point(record: Record, run: DatedRun, metric: Metric, yardstick: Record | None) -> Point:
    figure = figure_of(record, metric, yardstick)
    relative = figure_of(record, RELATIVE, yardstick)
    return Point(
        run=run.name,
        date=run.date,
        commit=run.commit,
        revision=run.revision,
        status=record.status,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        noise=figure.noise,
        relative=relative.value,
        yardstick=yardstick.impl.name if yardstick and relative.value is not None else "",
        gap="" if figure.value is not None else record.status if record.status != "ok" else "no figure",
        reason=figure.reason,
    )


def _series(key: Key, points: list[Point], newest: Record, metric: Metric, begins: tuple[str, ...]) -> Series:
    return Series(
        key=key,
        label=newest.case.label(),
        family=newest.impl.family,
        points=tuple(points),
        steps=find_steps(points, metric),
        begins=begins,
    )


def _change(key: Key, points: dict[Key, list[Point]]) -> tuple[str, ...]:
    """Say what changed since the series of the same case, implementation and device that began last before this one."""
    began = points[key][0].date
    before = [
        other
        for other, found in points.items()
        if (other.place, other.impl) == (key.place, key.impl) and other != key and found[0].date < began
    ]
    if not before:
        return ()
    last = max(before, key=lambda other: points[other][0].date)
    pairs = {
        f"{key.impl} version": (last.version, key.version),
        "driver": (last.machine.driver, key.machine.driver),
        "torch": (last.machine.torch, key.machine.torch),
        "threads": (last.machine.threads, key.machine.threads),
        "yardstick": (last.yardstick, key.yardstick),
    }
    return tuple(f"{name} {a or '?'} → {b or '?'}" for name, (a, b) in pairs.items() if a != b)
