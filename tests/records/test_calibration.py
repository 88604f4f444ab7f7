"""From raw trials to trust: synthetic trials with known noise, whose rates and limits can be told beforehand."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import calibration as rooms
from harness.records.environment import Calibration, Rates
from harness.records.estimates import paired
from harness.records.rounds import log_ratios
from harness.records.stats import noise_floor
from harness.records.trials import BASE, BASELINE, CONTROL, PLANTED_PERCENT, CpuTime, Line, Trial, TrialFile
from harness.records.trials import planted_name as name
from harness.records.verdicts import delta_of, judge

MS = 1e6
CALL = 5 * MS


class Series:
    """Makes trials of a call of 5 ms with so much noise a sample, log-normal."""

    def __init__(self, noise: float = 0.01, rounds: int = 40, seed: int = 0) -> None:
        self.noise, self.rounds = noise, rounds
        self.random = np.random.default_rng(seed)

    def line(self, mean_ns: float, percent: float | None = None) -> Line:
        values = mean_ns * np.exp(self.random.normal(0, self.noise, self.rounds))
        planted = (percent or 0) / 100 * CALL
        return Line(
            samples_ns=(values + planted).tolist(),
            rounds=list(range(self.rounds)),
            calls_per_sample=1,
            planted_percent=percent,
            planted_ns=planted,
        )

    def trial(self, number: int = 0, process: int = 0, baseline_ns: float | None = 3 * MS, aa: float = 1.0) -> Trial:
        lines = {BASE: self.line(CALL), CONTROL: self.line(CALL * aa)}
        lines |= {BASELINE: self.line(baseline_ns)} if baseline_ns else {}
        lines |= {name(percent): self.line(CALL, percent) for percent in PLANTED_PERCENT}
        cpu = CpuTime(capacity_s=4.0, own_s=1.0, others_s=0.2, steal_s=0.1)
        return Trial(process=process, number=number, call_ns=CALL, lines=lines, cpu=cpu)

    def trials(self, count: int, processes: int = 5) -> list[Trial]:
        return [self.trial(i, i % processes) for i in range(count)]


def file(make: Any, trials: list[Trial]) -> TrialFile:
    return TrialFile(
        case=make.case(),
        impl="loop",
        baseline="dense",
        trial_s=0.5,
        environment_id="e",
        taken_at="2026-11-22T00:00:00+00:00",
        trials=trials,
    )


@pytest.fixture(scope="module")
def quiet() -> list[Trial]:
    """Noise of 1 % a sample: medians of 40 rounds are within half a percent of each other."""
    return Series().trials(40)


def test_quiet_trials_raise_no_alarm_and_find_what_was_planted(make: Any, quiet: list[Trial]) -> None:
    found = rooms.evaluate(file(make, quiet), 0.02)
    words = {row.planted_percent: (row.slower, row.faster, row.same, row.ambiguous) for row in found.rates}
    assert list(words) == list(PLANTED_PERCENT)
    assert words[0.0] == (0, 0, 40, 0)
    assert words[5.0] == words[10.0] == (40, 0, 0, 0)
    assert words[1.0][:2] == (0, 0), "below the threshold nothing is called slower"
    assert all(sum(counts) == 40 for counts in words.values())
    assert (found.trials, found.processes, found.threshold, found.trial_s) == (40, 5, 0.02, 0.5)
    assert found.call_ns == pytest.approx(CALL, rel=0.01)
    assert found.others_share == pytest.approx(0.05)
    assert found.steal_share == pytest.approx(0.025)


def test_other_thresholds_judge_the_same_samples(make: Any, quiet: list[Trial]) -> None:
    found = rooms.evaluate(file(make, quiet), 0.02)
    assert list(found.rates_at) == ["0.5", "1", "2", "5"]
    assert found.rates_at["2"] == found.rates
    of_two = [next(row.slower for row in rows if row.planted_percent == 2) for rows in found.rates_at.values()]
    assert of_two == sorted(of_two, reverse=True)
    assert of_two[0] > of_two[-1] == 0


def test_what_is_kept_survives_the_disk(make: Any, quiet: list[Trial]) -> None:
    found = rooms.evaluate(file(make, quiet[:3]), 0.01)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Calibration) == found
    raw = file(make, quiet[:2])
    assert msgspec.json.decode(msgspec.json.encode(raw), type=TrialFile) == raw


def test_a_clock_that_lies_about_one_copy_is_a_false_alarm(make: Any) -> None:
    """A verdict that is wrong more often than chance allows is what the exit code is for."""
    series = Series(0.002)
    trials = series.trials(30)
    for trial in trials[:4]:
        copy = trial.lines[name(0)]
        copy.samples_ns = [1.1 * value for value in copy.samples_ns]
    alarms = rooms.false_alarms(rooms.evaluate(file(make, trials), 0.02))
    assert (alarms.wrong, alarms.trials, alarms.too_many) == (4, 30, True)
    assert alarms.low < 4 / 30 < alarms.high


@pytest.mark.parametrize(
    ("wrong", "trials", "too_many"), [(0, 100, False), (1, 1, False), (3, 100, False), (5, 100, True), (3, 30, True)]
)
def test_how_many_false_alarms_chance_explains(wrong: int, trials: int, too_many: bool) -> None:
    found = calibration(slower=wrong - wrong // 2, faster=wrong // 2, same=trials - wrong)
    alarms = rooms.false_alarms(found)
    assert (alarms.wrong, alarms.trials, alarms.too_many) == (wrong, trials, too_many)


def test_the_interval_of_the_rate_is_clopper_and_pearsons() -> None:
    """None of n: the upper end is 1 - 0.025^(1/n)."""
    alarms = rooms.false_alarms(calibration(same=100))
    assert alarms.low == 0.0
    assert alarms.high == pytest.approx(1 - 0.025 ** (1 / 100))


def calibration(**counts: int) -> Calibration:
    return Calibration(
        case="c",
        impl="i",
        trials=sum(counts.values()),
        threshold=0.02,
        trial_s=1.0,
        call_ns=1.0,
        rates=[Rates(planted_percent=0.0, **counts)],
        resolves={},
        processes=1,
        process_floor=None,
        taken_at="2026",
    )


def test_too_few_rounds_are_ambiguous_and_resolve_nothing(make: Any) -> None:
    found = rooms.evaluate(file(make, Series(rounds=6).trials(4)), 0.02)
    assert {row.ambiguous for row in found.rates} == {4}
    assert found.resolves == {}


def test_nothing_measured_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="no trials"):
        rooms.evaluate(file(make, []), 0.02)


def test_the_floor_of_a_trial_is_that_of_its_control() -> None:
    trial = Series().trial()
    base, control = trial.lines[BASE].samples_ns, trial.lines[CONTROL].samples_ns
    assert rooms.weigh(trial).floor == noise_floor(base, control)
    assert rooms.weigh(Series().trial(aa=1.5)).floor == pytest.approx(math.log(1.5), abs=0.02)


def test_noise_that_the_control_shows_is_no_verdict() -> None:
    """With a control that strays by 8 % a slowdown of 5 % is not told apart."""
    weighed = rooms.weigh(Series().trial(aa=1.08))
    rows = {row.planted_percent: row for row in rooms.rates([weighed], 0.02)}
    assert rows[5.0].slower == 0
    assert rooms.rates([rooms.weigh(Series().trial())], 0.02)[3].slower == 1


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(0.001, 0.05), excess=st.floats(0.0005, 0.1))
def test_a_slowdown_above_what_is_resolved_is_found_and_one_below_is_not(
    seed: int, noise: float, excess: float
) -> None:
    """The shift argument: multiplying a copy by exp(d) moves its interval by d, so that d* is where SLOWER begins."""
    trial = Series(noise, 20, seed).trial()
    least = math.log1p(next(iter(rooms.resolves([trial]).values())))
    for shift, found in ((least + excess, True), (least - excess, False)):
        base, copy = rooms.samples(trial.lines[BASE]), rooms.samples(trial.lines[name(0)])
        slowed = paired(log_ratios(base, {place: value * math.exp(shift) for place, value in copy.items()}))
        assert slowed is not None
        delta = delta_of(rooms.FINEST, rooms.weigh(trial).floor)
        assert (judge(slowed, delta).word == "SLOWER") is found


def test_more_time_resolves_more_and_no_more_is_claimed_than_was_measured() -> None:
    trials = Series(0.05, rounds=150).trials(20)
    found = rooms.resolves(trials)
    assert list(found)[:2] == ["0.25", "1"]
    assert len(found) == 3
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert float(list(found)[-1]) == pytest.approx(150 * 2 * CALL / 1e9, rel=0.05)


def test_calls_timed_together_count_all() -> None:
    trials = Series(rounds=20).trials(3)
    for trial in trials:
        for line in trial.lines.values():
            line.calls_per_sample = 10
    assert list(rooms.resolves(trials))[-1] == "2"


def test_a_few_hurried_trials_do_not_take_a_claim_away() -> None:
    trials = Series(0.01, rounds=40).trials(39)
    rare = [*trials, Series(0.01, rounds=3).trial()]
    assert list(rooms.resolves(rare)) == ["0.25", "0.4"]
    many = [*trials[:10], *(Series(0.01, rounds=3).trial() for _ in range(5))]
    assert rooms.resolves(many) == {}


def test_processes_that_differ_by_a_tenth_have_a_floor_of_a_tenth() -> None:
    series = Series(0.001)
    trials = [series.trial(i, p, 3 * MS * math.exp(0.1 * (p == 2))) for i, p in enumerate([0, 1, 2, 0, 1, 2])]
    assert rooms.process_floor(trials) == pytest.approx(0.1, abs=0.003)
    assert rooms.process_floor(trials[:2]) is None, "two processes have no spread"
    assert rooms.process_floor([series.trial(i, i, None) for i in range(5)]) is None, "no baseline to compare with"


def test_without_a_kernel_that_tells_nothing_is_said_of_theft(make: Any, quiet: list[Trial]) -> None:
    trials = [
        msgspec.structs.replace(trial, cpu=CpuTime(capacity_s=1.0, own_s=1.0, others_s=0.0)) for trial in quiet[:2]
    ]
    found = rooms.evaluate(file(make, trials), 0.02)
    assert (found.others_share, found.steal_share) == (0.0, None)
    stopped = [msgspec.structs.replace(trials[0], cpu=CpuTime(capacity_s=0.0, own_s=0.0, others_s=0.0))]
    assert rooms.evaluate(file(make, stopped), 0.02).others_share is None
