"""Numbers for people."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.figures import TRACKED
from harness.records.metrics import METRICS
from harness.report import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (1234.4, "1230"),
        (0.9999, "1.00"),
        (99.96, "100"),
    ],
)
def test_digits_are_three(value: float, text: str) -> None:
    assert units.digits(value) == text


@given(st.floats(min_value=1e-5, max_value=1e12))
def test_digits_stay_near_the_value(value: float) -> None:
    assert float(units.digits(value)) == pytest.approx(value, rel=0.006)


@pytest.mark.parametrize(("ns", "text"), [(12.0, "12.0 ns"), (1.5e3, "1.50 µs"), (2.25e6, "2.25 ms"), (3e9, "3.00 s")])
def test_time_picks_the_unit(ns: float, text: str) -> None:
    assert units.time(ns) == text


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (2.5e6, "ns", "2.50 ms"),
        (1 << 20, "bytes", "1.00 MiB"),
        (12, "bytes", "12.0 B"),
        (0.0125, "J/token", "12.5 mJ/token"),
        (1e-12, "J/token", "0.00100 nJ/token"),
        (12_300.0, "tokens/s", "12.3 k tokens/s"),
        (4.0, "tokens/s", "4.00 tokens/s"),
        (1.5, "x", "1.50x"),
        *[(None, unit, "-") for unit in units.SCALES],
    ],
)
def test_a_figure_has_one_spelling(value: float | None, unit: str, said: str) -> None:
    assert units.figure(value, unit) == said


def test_every_metric_and_measure_can_be_spelt() -> None:
    measures = {one.unit for one in TRACKED.values()}
    assert {one.unit for one in METRICS.values()} < measures == set(units.SCALES)


def test_prefixes() -> None:
    assert units.size(3 * 2**20) == "3.00 MiB"
    assert units.size(5) == "5.00 B"
    assert units.large(12_345_678) == "12.3 M"
    assert units.small(0.00123, "J") == "1.23 mJ"
    assert units.tick(10_000) == "10 k"
    assert units.share(0.0123) == "1.2 %"
    assert units.share(0.5) == "50 %"
    assert units.ratio(1.345) == "1.34x"
    assert units.ratio(12.34) == "12.3x"


@pytest.mark.parametrize("form", [units.time, units.size, units.large, units.share, units.ratio, units.plain])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_was_not_measured_is_a_dash(form: object, value: float | None) -> None:
    assert callable(form)
    assert form(value) == units.ABSENT


def test_spread_and_span() -> None:
    assert units.spread([3, 1, 2]) == "1 to 3"
    assert units.spread([2, 2]) == "2"
    assert units.spread([]) == units.ABSENT
    assert units.span("1 s", "1 s") == "1 s"
    assert units.plural(1, "case") == "1 case"
    assert units.plural(2, "case") == "2 cases"
