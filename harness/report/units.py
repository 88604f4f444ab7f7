"""Numbers for people: three significant digits, a unit, and a dash for what was not measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Iterable

ABSENT = "-"
"""Stands in a table where there is no number."""

_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def digits(value: float) -> str:
    """Three significant digits without an exponent: ``0.0123``, ``1.23``, ``12.3``, ``1230``."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    if abs(rounded) < 1e-6:
        return f"{rounded:.3g}"
    places = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{places}f}"


def time_unit(shortest_ns: float) -> tuple[float, str]:
    """Nanoseconds in, and the name of, the largest unit in which ``shortest_ns`` is at least 1."""
    return next(((size, name) for size, name in _TIMES if shortest_ns >= size), _TIMES[-1])


def shared_unit(times_ns: Iterable[float]) -> tuple[float, str]:
    """Choose the unit that fits the shortest of some times, so that a row of a table compares at a glance."""
    return time_unit(min((ns for ns in times_ns if present(ns) and ns > 0), default=1.0))


def time(ns: float | None, unit: tuple[float, str] | None = None) -> str:
    """Format a time, in a given unit or the fitting one."""
    if not present(ns):
        return ABSENT
    size, name = unit or time_unit(ns)
    return f"{digits(ns / size)} {name}"


def size(count: float | None) -> str:
    """Format bytes in powers of 1024."""
    if not present(count):
        return ABSENT
    scale, name = next(((s, n) for s, n in _BYTES if count >= s), (1, "B"))
    return f"{digits(count / scale)} {name}"


def large(value: float | None) -> str:
    """Format a count or rate with a decimal prefix: ``12.3 k``."""
    if not present(value):
        return ABSENT
    scale, name = next(((s, n) for s, n in _LARGE if value >= s), (1.0, ""))
    return f"{digits(value / scale)} {name}".rstrip()


def tick(value: float) -> str:
    """Format a round number for an axis: ``10 k``."""
    scale, name = next(((s, n) for s, n in _LARGE if value >= s), (1.0, ""))
    return f"{value / scale:g} {name}".rstrip()


def small(value: float | None, unit: str) -> str:
    """Format a small quantity with a decimal prefix: ``1.2 mJ``."""
    if not present(value):
        return ABSENT
    scales = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"))
    scale, name = next(((s, n) for s, n in scales if value >= s), (1e-9, "n"))
    return f"{digits(value / scale)} {name}{unit}"


def share(value: float | None) -> str:
    """Format a share as percent, with a decimal below 10 %."""
    if not present(value):
        return ABSENT
    percent = 100 * value
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def ratio(value: float | None) -> str:
    """Format how many times: ``1.34x``."""
    if not present(value):
        return ABSENT
    return f"{value:.2f}x" if value < 10 else f"{digits(value)}x"


def plain(value: float | None) -> str:
    """Format a bare number."""
    return digits(value) if present(value) else ABSENT


def spread(values: Iterable[float], form: str = "{:g}") -> str:
    """Lowest to highest of some numbers, or the one value they share."""
    finite = sorted({value for value in values if present(value)})
    if not finite:
        return ABSENT
    return span(form.format(finite[0]), form.format(finite[-1]))


def span(low: str, high: str) -> str:
    """``low to high``, or the one figure when both read the same."""
    return low if low == high else f"{low} to {high}"


def plural(count: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def present(value: float | None) -> TypeGuard[float]:
    """Whether there is a usable number: neither None, NaN nor infinite."""
    return value is not None and math.isfinite(value)
