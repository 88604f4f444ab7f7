"""What is said of a calibration, and where it stands in a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.records.environment import Calibration, Rates
from harness.report import calibrations
from harness.report.machines import machines_table

if TYPE_CHECKING:
    from tests.report.conftest import Factory


def made(**fields: Any) -> Calibration:
    rates = [Rates(planted_percent=0.0, same=97, faster=1, ambiguous=2), Rates(planted_percent=5.0, slower=98, same=2)]
    defaults: dict[str, Any] = {
        "case": "c",
        "impl": "loop",
        "trials": 100,
        "threshold": 0.02,
        "trial_s": 0.5,
        "call_ns": 1e6,
        "rates": rates,
        "rates_at": {"0.5": [Rates(planted_percent=0.0, slower=2, faster=3, same=95), rates[1]], "2": rates},
        "resolves": {"0.25": 0.041, "0.6": 0.0275},
        "processes": 5,
        "process_floor": 0.0123,
        "taken_at": "2026-11-22T10:00:00+00:00",
        "others_share": 0.031,
    }
    return Calibration(**(defaults | fields))


def said(calibration: Calibration) -> str:
    return "\n".join(calibrations.in_words(calibration))


def test_in_short() -> None:
    found = calibrations.in_short(made())
    assert found == "1 of 100 false alarms at 2 %, 5 % found 98 of 100; calibrated 2026-11-22"
    assert calibrations.in_short(None) == "not calibrated: moebench calibrate"
    without_five = made(rates=made().rates[:1])
    assert calibrations.in_short(without_five) == "1 of 100 false alarms at 2 %; calibrated 2026-11-22"


def test_in_words() -> None:
    words = said(made())
    assert "1 of 100 identical copies were called FASTER or SLOWER at a threshold of 2 %" in words
    assert "the rate is 0.0253 % to 5.45 % (95 % interval)" in words
    assert "for 0.25 s tells a slowdown of 4.10 %: by the scatter of identical copies, 95 % of the 100 trials" in words
    assert "Between 5 worker processes" in words
    assert "up to 1.23 %" in words
    assert "Others on this machine had 3.10 % of the CPUs' time." in words
    assert calibrations.ADVICE not in words


def test_theft_is_told_where_there_was_some() -> None:
    assert "other virtual machines 2.00 %" in said(made(steal_share=0.02))
    assert "virtual" not in said(made(steal_share=0.0))
    assert "Others" not in said(made(others_share=None))


def test_advice_for_a_machine_that_cannot_tell_5_percent() -> None:
    assert calibrations.ADVICE in said(made(resolves={"0.25": 0.2, "1": 0.051}))
    words = said(made(resolves={}, process_floor=None))
    assert calibrations.ADVICE in words
    assert "Too few rounds" in words
    assert "Between" not in words


def test_few_trials_say_nothing_of_95_times_of_100() -> None:
    few = said(made(trials=19))
    assert "Fewer than 20 trials do not show" in few
    assert "4.10 %" not in few
    assert calibrations.ADVICE not in few
    assert calibrations.ADVICE in said(made(trials=1, resolves={"0.25": 0.2})), "one that missed is evidence enough"


def test_rows_by_verdict_and_by_threshold() -> None:
    headers, rows = calibrations.verdict_rows(made())
    assert dict(zip(headers, rows[0], strict=True)) == {
        "planted": "0 %", "SLOWER": "0", "FASTER": "1", "SAME": "97", "AMBIGUOUS": "2",
    }  # fmt: skip
    headers, rows = calibrations.threshold_rows(made())
    assert headers == ["planted", "threshold 0.5 %", "threshold 2 %"]
    assert rows == [["0 %", "5 of 100", "1 of 100"], ["5 %", "98 of 100", "98 of 100"]]


def test_the_table_of_machines_says_how_far_each_can_be_trusted(make: Factory) -> None:
    known, unknown = make.environment(), make.environment("other")
    known.calibrations = {"cuda:0": made(), "cpu": made(impl="nobody asked")}
    case = make.case()
    runs = [make.run([make.modelled(case, "loop", one)], environment=one) for one in (known, unknown)]
    (row,) = [line for line in machines_table(runs).splitlines() if "verdicts" in line]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "cuda:0: verdicts",
        "1 of 100 false alarms at 2 %, 5 % found 98 of 100; calibrated 2026-11-22",
        "not calibrated: moebench calibrate",
    ]
