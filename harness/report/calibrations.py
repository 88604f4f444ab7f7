"""How far a machine's verdicts can be trusted, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.records.calibration import ENOUGH_TRIALS, SURE, false_alarms
from harness.report import units

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.records.environment import Calibration, Rates

SMALL, LARGE = 5.0, 0.05
"""A slowdown that a machine should tell: in percent as planted, and as a share."""
ADVICE = (
    "This machine cannot tell 5 %: try a quieter machine, fewer threads (OMP_NUM_THREADS=1), "
    "longer trials (--trial-seconds), or a larger case (--set tokens=...)."
)


def in_short(calibration: Calibration | None) -> str:
    """One line for the table of machines."""
    if calibration is None:
        return "not calibrated: moebench calibrate"
    alarms = false_alarms(calibration)
    said = f"{alarms.wrong} of {alarms.trials} false alarms at {100 * calibration.threshold:g} %"
    small = next((row for row in calibration.rates if row.planted_percent == SMALL), None)
    if small:
        said += f", {SMALL:g} % found {small.slower} of {small.trials}"
    return f"{said}; calibrated {calibration.taken_at[:10]}"


def in_words(calibration: Calibration) -> Iterator[str]:
    """Yield what the trials showed, a sentence at a time, without the tables."""
    alarms = false_alarms(calibration)
    yield (
        f"False alarms: {alarms.wrong} of {alarms.trials} identical copies were called FASTER or SLOWER at a threshold"
        f" of {100 * calibration.threshold:g} %; the rate is {_percent(alarms.low)} to {_percent(alarms.high)}"
        " (95 % interval)."
    )
    yield from _resolved(calibration)
    if calibration.process_floor is not None:
        yield (
            f"Between {calibration.processes} worker processes the same code differed from its dense baseline by up to"
            f" {_percent(calibration.process_floor)}."
        )
    if calibration.others_share is not None:
        steal = f", other virtual machines {_percent(calibration.steal_share)}" if calibration.steal_share else ""
        yield f"Others on this machine had {_percent(calibration.others_share)} of the CPUs' time{steal}."
    if not calibration.resolves or min(calibration.resolves.values()) > LARGE:
        yield ADVICE


def _resolved(calibration: Calibration) -> Iterator[str]:
    if not calibration.resolves:
        yield "Too few rounds fitted into the trials to tell how small a slowdown can be told."
    elif calibration.trials < ENOUGH_TRIALS:
        sure = f"{100 * SURE:g} of 100"
        yield f"Fewer than {ENOUGH_TRIALS} trials do not show how small a slowdown would be found {sure} times."
    else:
        for seconds, share in calibration.resolves.items():
            yield (
                f"Measuring two side by side for {seconds} s tells a slowdown of {_percent(share)}: by the scatter of"
                f" identical copies, {100 * SURE:g} % of the {calibration.trials} trials would have found it."
            )


def verdict_rows(calibration: Calibration) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of the verdicts by slowdown planted, at the calibration's threshold."""
    rows = [
        [f"{row.planted_percent:g} %", *map(str, (row.slower, row.faster, row.same, row.ambiguous))]
        for row in calibration.rates
    ]
    return ["planted", "SLOWER", "FASTER", "SAME", "AMBIGUOUS"], rows


def threshold_rows(calibration: Calibration) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of how many trials found each slowdown at each threshold; of 0 %, how many false alarms."""
    headers = ["planted", *(f"threshold {percent} %" for percent in calibration.rates_at)]
    rows = [
        [f"{row.planted_percent:g} %", *(_found(at[i]) for at in calibration.rates_at.values())]
        for i, row in enumerate(calibration.rates)
    ]
    return headers, rows


def _found(row: Rates) -> str:
    count = row.slower + (0 if row.planted_percent else row.faster)
    return f"{count} of {row.trials}"


def _percent(share: float) -> str:
    return f"{units.digits(100 * share)} %"
