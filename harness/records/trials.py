"""Raw trials of a calibration: the same code timed beside itself, and beside itself with known slowdowns planted."""

from __future__ import annotations

import msgspec

from harness.cases.case import Case

BASE, CONTROL, BASELINE = "base", "A/A control", "dense baseline"
"""Lines of a trial that nothing was planted in: the implementation, its A/A control, the dense baseline."""
PLANTED_PERCENT = (0.0, 1.0, 2.0, 5.0, 10.0)
"""Slowdowns of the other lines, which are the same implementation again; 0 is one more A/A line."""


class Line(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One entry's samples in a trial, nanoseconds a call, ``calls_per_sample`` of them timed together, by round.

    ``planted_ns`` is what each call took longer than the implementation's own, ``planted_percent`` of the trial's
    ``call_ns``; None for lines without a part in the verdicts' rates.
    """

    samples_ns: list[float]
    rounds: list[int]
    calls_per_sample: int
    planted_percent: float | None = None
    planted_ns: float = 0.0


class CpuTime(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Seconds of all CPUs together over some stretch: what there was, and who had it.

    ``steal_s`` went to other virtual machines of the same host; None where the kernel does not tell.
    """

    capacity_s: float
    own_s: float
    others_s: float
    steal_s: float | None = None


class Trial(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One short bout. ``process`` numbers the worker it ran in, ``call_ns`` is the median of base calls just before."""

    process: int
    number: int
    call_ns: float
    lines: dict[str, Line]
    cpu: CpuTime

    @property
    def planted(self) -> dict[float, Line]:
        """The lines that a verdict is asked for, by percent planted."""
        return {line.planted_percent: line for line in self.lines.values() if line.planted_percent is not None}


class TrialFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All raw trials of a calibration, for those who doubt it: ``moebench calibrate --out``.

    ``baseline`` is the dense baseline's name, empty where there was none.
    """

    case: Case
    impl: str
    baseline: str
    trial_s: float
    environment_id: str
    taken_at: str
    trials: list[Trial]


def planted_name(percent: float) -> str:
    """Name of the line with so much planted: ``planted 5 %``."""
    return f"planted {percent:g} %"
