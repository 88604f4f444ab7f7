"""Two runs, or two implementations of one run, held against each other: a verdict for each case, worst first."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from harness.cases.shape import require
from harness.records import estimates
from harness.records.comparable import unchanged
from harness.records.instability import instability
from harness.records.pairs import Outcome, Pair, Question, Side, settle
from harness.records.verdicts import delta_of, hold, judge
from harness.records.yardsticks import process_scatter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.records.estimates import Estimate
    from harness.records.record import Record
    from harness.records.store import Run

ORDER: tuple[Outcome, ...] = ("BROKEN", "SLOWER", "AMBIGUOUS", "SAME", "FASTER", "FIXED", "NOT COMPARABLE")


class Comparison(msgspec.Struct, kw_only=True):
    """One case and implementation, base against new.

    ``outcome`` is the verdict on costs, ``verdict`` the same in the metric's own words. ``base`` and ``new`` are the
    metric's figures, ``ratio`` new / base with its 95 % interval, which one figure a side has none of; ``delta`` is the
    share from which on a difference counted here. ``how`` says what the two were compared through. ``p`` is two-sided,
    before Holm's correction. ``regression`` is what exit code 1 is for.
    """

    case_id: str
    case: str
    impl: str
    outcome: Outcome
    verdict: str
    base: float | None = None
    new: float | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    delta: float | None = None
    p: float | None = None
    rounds: int = 0
    processes: int = 0
    how: str = ""
    reason: str = ""
    regression: bool = False
    notes: list[str] = []


@dataclass(frozen=True)
class Result:
    """All comparisons, worst first, and the geometric mean of costs (new / base) over those that have a ratio."""

    question: Question
    comparisons: list[Comparison]
    mean: Estimate | None

    @property
    def compared(self) -> list[Comparison]:
        """Those that something could be said of."""
        return [one for one in self.comparisons if one.outcome != "NOT COMPARABLE"]

    @property
    def regressions(self) -> list[Comparison]:
        """Those that make ``moebench compare`` end with exit code 1."""
        return [one for one in self.comparisons if one.regression]


def compare_runs(base: Run, new: Run, question: Question, only: Iterable[str] | None = None) -> Result:
    """Compare two runs, implementation by implementation; ``only`` keeps those names.

    Raises
    ------
    ValueError
        when neither run holds a record of such a name, or it is not clear which device to compare with which.
    """
    names = _known(only, base, new) if only is not None else None
    return _compare(_wanted(base, question, names), _wanted(new, question, names), base, new, question)


def compare_implementations(run: Run, base: str, new: str, question: Question) -> Result:
    """Compare two implementations within one run, case by case.

    Raises
    ------
    ValueError
        when they are the same, or the run holds no record of one of them.
    """
    require(base != new, "--impl", f"{base},{new}", "two different implementations")
    _known((base, new), run)
    wanted = [
        {(record.case_id, ""): record for record in run.records if record.impl.name == name} for name in (base, new)
    ]
    return _compare(wanted[0], wanted[1], run, run, question)


def _known(names: Iterable[str], *runs: Run) -> set[str]:
    """Return the names, each of which some run has to hold."""
    asked, known = set(names), sorted({record.impl.name for run in runs for record in run.records})
    for name in sorted(asked - set(known)):
        paths = " and ".join(dict.fromkeys(str(run.path) for run in runs))
        raise ValueError(f"--impl = {name!r}: there are records of {', '.join(known) or 'nobody'} in {paths}")
    return asked


def _wanted(run: Run, question: Question, names: set[str] | None) -> Wanted:
    """Return a run's records by what is compared; across devices that is the same layer and traffic on any device."""
    found: Wanted = {}
    for record in run.records:
        if names is not None and record.impl.name not in names:
            continue
        if "device" not in question.across:
            found[record.key] = record
            continue
        key = msgspec.structs.replace(record.case, device="cpu").case_id, record.impl.name
        other = found.setdefault(key, record).case.device
        if other != record.case.device:
            raise ValueError(f"--across device: {run.path} holds the same cases on {other} and {record.case.device}")
    return found


Wanted = dict[tuple[str, str], "Record"]


def _compare(base: Wanted, new: Wanted, base_run: Run, new_run: Run, question: Question) -> Result:
    pairs = [Pair(_side(base[key], base_run), _side(new[key], new_run)) for key in base if key in new]
    for pair in pairs:
        settle(pair, question)
    _judge_all([pair for pair in pairs if pair.outcome is None], question)
    mean = estimates.geometric_mean([pair.estimate for pair in pairs if pair.verdict and pair.estimate])
    alone = [_alone(record, "base") for key, record in base.items() if key not in new]
    alone += [_alone(record, "new") for key, record in new.items() if key not in base]
    told = [_told(pair, question) for pair in pairs]
    return Result(question, sorted([*told, *alone], key=_worst_first), mean)


def _side(record: Record, run: Run) -> Side:
    bout = [one for one in run.records if one.bout == record.bout] if record.bout else []
    return Side(record, bout, run.environment)


def _judge_all(pairs: Sequence[Pair], question: Question) -> None:
    """Judge every pair, those measured apart against what processes differ by too, and all of them against chance."""
    same_code = _same_code(pairs)
    for pair in pairs:
        if pair.apart:
            seen = same_code[pair.new.record.case.device] if pair.apart == "through a yardstick" else []
            pair.scatter, source = process_scatter(seen, [*pair.base.calibrations, *pair.new.calibrations])
            pair.how += f"; {source}"
    alone = [judge(pair.estimate, delta_of(question.threshold, *pair.floors), pair.scatter) for pair in pairs]
    # Code that did not change is there for comparison; what it adds by chance is not the changed code's to answer for.
    for same in (False, True):
        family = [i for i, pair in enumerate(pairs) if unchanged(*pair.records) == same]
        for i, verdict in zip(family, hold([alone[i] for i in family]), strict=True):
            pairs[i].verdict, pairs[i].outcome = verdict, verdict.word


def _same_code(pairs: Sequence[Pair]) -> dict[str, list[float]]:
    """Log-ratios that implementations of unchanged code show through their yardsticks, by device."""
    found: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        if pair.apart == "through a yardstick" and pair.estimate and unchanged(*pair.records):
            found[pair.new.record.case.device].append(pair.estimate.log_ratio)
    return found


def _told(pair: Pair, question: Question) -> Comparison:
    (base, new), metric, verdict = pair.records, question.metric, pair.verdict
    assert pair.outcome is not None
    told = Comparison(
        case_id=new.case_id,
        case=new.case.label(),
        impl=" → ".join(dict.fromkeys((base.impl.name, new.impl.name))),
        outcome=pair.outcome,
        verdict=metric.says(pair.outcome) if verdict else pair.outcome,
        base=_finite(metric.value(base)) if base.status == "ok" else None,
        new=_finite(metric.value(new)) if new.status == "ok" else None,
        how=pair.how,
        reason=pair.reason or (verdict.why if verdict else ""),
        regression=pair.outcome in {"SLOWER", "BROKEN"} and not question.across,
    )
    if verdict:
        told.delta, told.p = math.expm1(verdict.delta), verdict.p
        told.notes = [*instability(base, "base"), *instability(new, "new")] if metric.sampled else []
    if pair.estimate and math.isfinite(pair.estimate.log_ratio):
        told.ratio = metric.shown_ratio(pair.estimate.log_ratio)
        told.rounds, told.processes = pair.estimate.rounds, pair.estimate.processes
        if metric.sampled:
            low, high = sorted(metric.shown_ratio(end) for end in (pair.estimate.low, pair.estimate.high))
            told.interval = (low, high)
    return told


def _alone(record: Record, side: str) -> Comparison:
    return Comparison(
        case_id=record.case_id,
        case=record.case.label(),
        impl=record.impl.name,
        outcome="NOT COMPARABLE",
        verdict="NOT COMPARABLE",
        reason=f"only in {side}",
    )


def _worst_first(one: Comparison) -> tuple[int, float, str, str]:
    size = math.inf if one.ratio is None else abs(math.log(one.ratio))
    return ORDER.index(one.outcome), size if one.outcome == "FASTER" else -size, one.case, one.impl


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
