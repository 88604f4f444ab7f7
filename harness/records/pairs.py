"""A case and implementation on both sides: whether they may be compared, through what, and by how much they differ."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from harness.records import estimates, rounds
from harness.records.comparable import boards_differ, machines_differ, version_differs
from harness.records.metrics import METRICS, Metric, energy_floor, why_absent
from harness.records.verdicts import THRESHOLD, Scatter, Verdict
from harness.records.yardsticks import Yard, measured_by_yardstick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.records.environment import Calibration, Environment
    from harness.records.estimates import Estimate
    from harness.records.record import Record

Outcome = Literal["FASTER", "SLOWER", "SAME", "AMBIGUOUS", "BROKEN", "FIXED", "NOT COMPARABLE"]


@dataclass(frozen=True)
class Question:
    """What is asked: by which metric, from which share on a difference counts, and what may differ."""

    metric: Metric = METRICS["time"]
    threshold: float = THRESHOLD
    across: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Side:
    """One record, all that was measured side by side with it, and the machine."""

    record: Record
    bout: Sequence[Record]
    environment: Environment

    @property
    def calibrations(self) -> list[Calibration]:
        """Return what is known of this machine's noise: one calibration, or none."""
        found = self.environment.calibrations.get(self.record.case.device)
        return [found] if found else []


@dataclass
class Pair:
    """A case and implementation on both sides, on the way to its comparison.

    ``how`` says what the two were compared through, ``floors`` the noise floors of their bouts. ``apart`` says that
    they were measured at different times, by processes whose own difference no such floor knows: ``scatter`` does.
    """

    base: Side
    new: Side
    outcome: Outcome | None = None
    reason: str = ""
    estimate: Estimate | None = None
    how: str = ""
    floors: list[float | None] = field(default_factory=list)
    apart: Literal["", "through a yardstick", "raw"] = ""
    scatter: Scatter | None = None
    verdict: Verdict | None = None

    @property
    def records(self) -> tuple[Record, Record]:
        """Base and new."""
        return self.base.record, self.new.record

    def not_comparable(self, reason: str) -> None:
        """Settle it without a verdict."""
        self.outcome, self.reason = "NOT COMPARABLE", reason


def settle(pair: Pair, question: Question) -> None:
    """Decide what needs no statistics; what is left over has an estimate, or too few samples for one."""
    base, new = pair.records
    worked, works = base.status == "ok", new.status == "ok"
    if differs := _machines_differ(pair, question.across):
        pair.not_comparable(differs)
    elif not (worked and works):
        _settle_failed(pair)
    elif (meant := version_differs(base, new)) and "version" not in question.across:
        pair.not_comparable(meant)
    else:
        _estimate(pair, question)


def _settle_failed(pair: Pair) -> None:
    """Tell what stopped working from what never did, and from what another implementation cannot do."""
    base, new = pair.records
    if base.impl.name == new.impl.name and base.status == "ok":
        pair.outcome, pair.reason = "BROKEN", f"{new.status}: {new.reason}"
    elif base.impl.name == new.impl.name and new.status == "ok":
        pair.outcome, pair.reason = "FIXED", f"was {base.status}: {base.reason}"
    else:
        pair.not_comparable(f"{base.status} in base, {new.status} in new")


def _machines_differ(pair: Pair, across: frozenset[str] = frozenset()) -> str:
    base, new = pair.records
    return machines_differ((base, pair.base.environment), (new, pair.new.environment), across)


def _estimate(pair: Pair, question: Question) -> None:
    metric = question.metric
    base, new = (metric.value(record) for record in pair.records)
    if base is None or new is None:
        pair.not_comparable(_absent(pair, metric))
    elif not all(math.isfinite(value) and value >= 0 for value in (base, new)):
        pair.not_comparable(f"{metric.name} {base} / {new} is no figure to compare")
    elif metric.sampled:
        try:
            _compare_times(pair, question)
        except ValueError as error:
            pair.not_comparable(str(error))
    else:
        _compare_figures(pair, base, new)
        if metric.name == "energy":
            _allow_for_the_meter(pair, question)


def _absent(pair: Pair, metric: Metric) -> str:
    """Say on which side there is no figure, and why."""
    sides = zip(("base", "new"), pair.records, strict=True)
    why = {side: why_absent(record, metric.name) for side, record in sides if metric.value(record) is None}
    if len(set(why.values())) == 1:
        return f"no {metric.name} in {' and '.join(why)}: {next(iter(why.values()))}"
    return "; ".join(f"no {metric.name} in {side}: {reason}" for side, reason in why.items())


def _compare_figures(pair: Pair, base: float, new: float) -> None:
    """Compare one figure with one figure; a ratio to nothing at all is a difference without a size."""
    without_size = math.copysign(math.inf, new - base) if base != new else 0.0
    ratio = math.log(new) - math.log(base) if base and new else without_size
    pair.estimate, pair.how = estimates.exact(ratio), "one figure each"


def _allow_for_the_meter(pair: Pair, question: Question) -> None:
    """Allow for what one board's meter repeats to; two boards of a model may differ by far more."""
    device = pair.new.record.case.device
    boards = boards_differ(pair.base.environment, pair.new.environment, device)
    if boards and not question.across:
        pair.not_comparable(f"{boards}: joules are compared on one board only")
        return
    pair.scatter = Scatter(energy_floor(*pair.records), remedy="a larger --budget gives longer windows of energy")


def _compare_times(pair: Pair, question: Question) -> None:
    """Estimate the log-ratio of times: side by side, through a yardstick, or raw where the machines may differ."""
    base, new = (record.timing for record in pair.records)
    assert base is not None
    assert new is not None
    floors = [floor for floor in (base.noise_floor, new.noise_floor) if floor is not None]
    if pair.base.record.bout and pair.base.record.bout == pair.new.record.bout:
        ratios = rounds.log_ratios(rounds.samples_of(base), rounds.samples_of(new))
        several = base.processes is not None or new.processes is not None
        pair.estimate, pair.how = estimates.paired(ratios, several=several), "side by side"
        pair.floors += floors
        return
    pair.floors.append(math.hypot(*floors))
    if question.across and (differs := _machines_differ(pair)):
        pair.apart, pair.how = "raw", f"raw times, {differs}"
        levels = [estimates.level(rounds.samples_of(timing)) for timing in (base, new)]
        if levels[0] and levels[1]:
            pair.estimate = estimates.difference(levels[0], levels[1])
    else:
        pair.apart = "through a yardstick"
        yard = Yard.between(pair.base.bout, pair.new.bout, *pair.records)
        pair.estimate, pair.how = measured_by_yardstick(*pair.records, yard)
