"""From raw trials to how far verdicts can be trusted. Nothing is measured here, and nothing of a trial is left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from harness.records.environment import Calibration, Rates
from harness.records.estimates import MIN_PROCESSES, MIN_ROUNDS, paired
from harness.records.rounds import log_ratios
from harness.records.stats import noise_floor
from harness.records.trials import BASE, BASELINE, CONTROL
from harness.records.verdicts import delta_of, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.records.estimates import Estimate
    from harness.records.rounds import Samples
    from harness.records.trials import CpuTime, Line, Trial, TrialFile

THRESHOLDS = (0.005, 0.01, 0.02, 0.05)
SECONDS = (0.25, 1.0, 4.0)
"""Measuring times that ``resolves`` tells about, as far as the trials go; and the whole trial."""
FINEST = 0.005
"""No difference below this share is worth resolving."""
TRUSTED_RATE = 0.01
"""Share of false alarms that a machine may have."""
SURE = 0.95
"""Share of trials that must find a difference for it to count as resolved."""
ENOUGH_TRIALS = 20
"""Of fewer trials not one may miss a difference, since one is more than 5 % of them: they cannot show ``SURE``."""


@dataclass(frozen=True)
class Weighed:
    """One trial's noise floor, and its estimates by percent planted."""

    floor: float | None
    estimates: dict[float, Estimate | None]


class FalseAlarms(NamedTuple):
    """How often identical code was called FASTER or SLOWER, with the 95 % interval of the rate (Clopper-Pearson).

    ``p`` is the chance of so many or more at a rate of ``TRUSTED_RATE``.
    """

    wrong: int
    trials: int
    low: float
    high: float
    p: float

    @property
    def too_many(self) -> bool:
        """Whether there are more than a rate of ``TRUSTED_RATE`` can explain."""
        return self.p < 0.01


def evaluate(found: TrialFile, threshold: float) -> Calibration:
    """Judge every planted line of every trial, each as a bout's verdict would be.

    Raises
    ------
    ValueError
        without trials.
    """
    if not found.trials:
        raise ValueError("no trials: nothing to calibrate with")
    weighed = [weigh(trial) for trial in found.trials]
    others, steal = _shares([trial.cpu for trial in found.trials])
    return Calibration(
        case=found.case.label(),
        impl=found.impl,
        trials=len(found.trials),
        threshold=threshold,
        trial_s=found.trial_s,
        call_ns=median(median(trial.lines[BASE].samples_ns) for trial in found.trials),
        rates=rates(weighed, threshold),
        rates_at={f"{100 * share:g}": rates(weighed, share) for share in THRESHOLDS},
        resolves=resolves(found.trials),
        processes=len({trial.process for trial in found.trials}),
        process_floor=process_floor(found.trials),
        taken_at=found.taken_at,
        others_share=others,
        steal_share=steal,
    )


def weigh(trial: Trial) -> Weighed:
    """Estimate each planted line against the base, and the noise floor from the A/A control."""
    base = samples(trial.lines[BASE])
    found = {percent: paired(log_ratios(base, samples(line))) for percent, line in trial.planted.items()}
    return Weighed(_floor(base, samples(trial.lines[CONTROL])), found)


def rates(weighed: Sequence[Weighed], threshold: float) -> list[Rates]:
    """Count the verdicts by percent planted, from the least on."""
    counted: dict[float, Rates] = {}
    for trial in weighed:
        delta = delta_of(threshold, trial.floor)
        for percent, estimate in trial.estimates.items():
            word = judge(estimate, delta).word.lower()
            row = counted.setdefault(percent, Rates(planted_percent=percent))
            setattr(row, word, getattr(row, word) + 1)
    return [counted[percent] for percent in sorted(counted)]


def false_alarms(calibration: Calibration) -> FalseAlarms:
    """Count what was called different although nothing was planted, at the calibration's threshold."""
    row = calibration.unplanted
    assert row is not None, "no calibration is without"
    wrong, trials = row.faster + row.slower, row.trials
    interval = stats.binomtest(wrong, trials).proportion_ci(0.95, method="exact")
    p = stats.binomtest(wrong, trials, TRUSTED_RATE, alternative="greater").pvalue
    return FalseAlarms(wrong, trials, float(interval.low), float(interval.high), float(p))


def resolves(trials: Sequence[Trial]) -> dict[str, float]:
    """Smallest slowdown that ``SURE`` of the trials would have found, by seconds of measuring two side by side.

    A slowdown of d shifts every round's log-ratio of an identical copy, and so its interval, by exactly d. A trial
    therefore finds d when d + low > max(log(1 + FINEST), floor), low being the lower end of the copy's interval. Both
    come from the first rounds that fit into the time. Nothing is said of times that the trials did not last.
    """
    whole = float(np.quantile([_seconds(trial)[-1] for trial in trials], 1 - SURE))
    times = [second for second in SECONDS if second < whole]
    told = {f"{second:g}": _resolved(trials, second) for second in times}
    told[f"{whole:.2g}"] = _resolved(trials, math.inf)
    return {second: value for second, value in told.items() if value is not None}


def process_floor(trials: Sequence[Trial]) -> float | None:
    """95th percentile of the difference between two processes' log-ratios of base to dense baseline.

    A process's log-ratio is the median over the rounds of all its trials. None with fewer than ``MIN_PROCESSES``.
    """
    ratios: dict[int, list[float]] = {}
    for trial in trials:
        if BASELINE in trial.lines:
            found = log_ratios(samples(trial.lines[BASELINE]), samples(trial.lines[BASE]))
            ratios.setdefault(trial.process, []).extend(found.get(0, []))
    levels = [median(values) for values in ratios.values() if values]
    if len(levels) < MIN_PROCESSES:
        return None
    return float(np.quantile([abs(a - b) for a, b in combinations(levels, 2)], 0.95))


def samples(line: Line) -> Samples:
    """Return a line's samples by process, of which a trial has one, and round."""
    return {(0, number): value for number, value in zip(line.rounds, line.samples_ns, strict=True)}


def _resolved(trials: Sequence[Trial], second: float) -> float | None:
    """Share of a time that most trials tell apart within so many seconds; None when too many have too few rounds."""
    least = float(np.quantile([_least(trial, second) for trial in trials], SURE, method="higher"))
    return math.expm1(least) if math.isfinite(least) else None


def _least(trial: Trial, second: float) -> float:
    """Log-ratio above which a trial would have said SLOWER; infinite when too few of its rounds fit."""
    fit = int(np.searchsorted(_seconds(trial), second, side="right"))
    base, control, copy = (
        dict(list(samples(line).items())[:fit])
        for line in (trial.lines[BASE], trial.lines[CONTROL], trial.planted[0.0])
    )
    estimate = paired(log_ratios(base, copy)) if fit >= MIN_ROUNDS else None
    return delta_of(FINEST, _floor(base, control)) - estimate.low if estimate else math.inf


def _seconds(trial: Trial) -> list[float]:
    """Seconds that base and control took together, up to and with each round."""
    base, control = trial.lines[BASE], trial.lines[CONTROL]
    both = np.array(base.samples_ns) * base.calls_per_sample + np.array(control.samples_ns) * control.calls_per_sample
    return list(np.cumsum(both) / 1e9)


def _floor(base: Samples, control: Samples) -> float | None:
    shared = sorted(base.keys() & control.keys())
    return noise_floor([base[place] for place in shared], [control[place] for place in shared])


def _shares(spent: Sequence[CpuTime]) -> tuple[float | None, float | None]:
    """Shares of all CPUs' time that other processes and other virtual machines had."""
    capacity = sum(one.capacity_s for one in spent)
    if capacity <= 0:
        return None, None
    steal = [one.steal_s for one in spent if one.steal_s is not None]
    return sum(one.others_s for one in spent) / capacity, sum(steal) / capacity if steal else None
