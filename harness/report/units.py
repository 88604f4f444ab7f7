"""Numbers for people: three significant digits, a unit, and a dash for what was not measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Iterable

ABSENT = "-"
"""Stands in a table where there is no number."""

Scales = tuple[tuple[float, str], ...]
"""Sizes of units, largest first, and their names."""

_PREFIXES: Scales = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_PARTS: Scales = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
SCALES: dict[str, Scales] = {
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")),
    "bytes": ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "tokens/s": tuple((size, f"{prefix} tokens/s".strip()) for size, prefix in _PREFIXES),
    "J/token": tuple((size, f"{prefix}J/token") for size, prefix in _PARTS),
    "x": ((1.0, "times"),),
}
"""In what a figure is shown, by the unit in which it is kept."""


def digits(value: float) -> str:
    """Three significant digits without an exponent: ``0.0123``, ``1.23``, ``12.3``, ``1230``."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    if abs(rounded) < 1e-6:
        return f"{rounded:.3g}"
    places = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{places}f}"


def fitting(value: float, scales: Scales) -> tuple[float, str]:
    """Size and name of the largest unit in which ``value`` is at least 1, or of the smallest there is."""
    return next((one for one in scales if value >= one[0]), scales[-1])


def figure(value: float | None, unit: str) -> str:
    """Format a figure kept in one of ``SCALES``, with its unit: ``1.23 ms``, ``12.3 k tokens/s``, ``1.23 mJ/token``."""
    if unit == "x":
        return ratio(value)
    return _scaled(value, SCALES[unit])


def _scaled(value: float | None, scales: Scales) -> str:
    if not present(value):
        return ABSENT
    size, name = fitting(value, scales)
    return f"{digits(value / size)} {name}".rstrip()


def time(ns: float | None) -> str:
    """Format a time."""
    return _scaled(ns, SCALES["ns"])


def size(count: float | None) -> str:
    """Format bytes in powers of 1024."""
    return _scaled(count, SCALES["bytes"])


def large(value: float | None) -> str:
    """Format a count or rate with a decimal prefix: ``12.3 k``."""
    return _scaled(value, _PREFIXES)


def tick(value: float) -> str:
    """Format a round number for an axis: ``10 k``."""
    scale, name = fitting(value, _PREFIXES)
    return f"{value / scale:g} {name}".rstrip()


def small(value: float | None, unit: str) -> str:
    """Format a small quantity with a decimal prefix: ``1.2 mJ``."""
    return _scaled(value, tuple((size, f"{prefix}{unit}") for size, prefix in _PARTS))


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
