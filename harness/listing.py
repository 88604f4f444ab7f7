"""What ``moebench list`` shows: headers and rows of plain text, for a table or for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cases.keys import KEYS, MEANINGS, TYPE_WORDS
from harness.cases.presets import presets
from harness.cases.shape import ROUTER_KINDS
from harness.cases.shipped import shipped_suites
from harness.cases.suite import load_suite
from harness.cases.traffic import TRAFFIC_KINDS

if TYPE_CHECKING:
    from harness.running.jobs import Listed

FULL_WIDTH = 110
"""Columns of a terminal from which on everything is shown."""
SPARED = ("from",)
"""What a narrower one leaves out, for what an implementation does; ``--json`` has it."""

Listing = tuple[tuple[str, ...], list[tuple[str, ...]]]


def listing(what: str) -> Listing:
    """Return one of ``LISTINGS``.

    Raises
    ------
    KeyError
        for anything else.
    """
    return LISTINGS[what]()


def _implementations() -> Listing:
    from harness.running.machine import look_around

    rows: list[tuple[str, ...]] = [
        (
            one.name,
            one.family or "-",
            ", ".join(one.devices) or "-",
            ", ".join(one.passes) or "-",
            one.origin,
            _what_it_does(one),
        )
        for one in look_around().listed.values()
    ]
    return ("name", "family", "devices", "passes", "from", "what it does"), rows


def _what_it_does(one: Listed) -> str:
    """Say what an implementation does, or why it does nothing here, and what has to be said about it."""
    if one.broken:
        return f"cannot be imported: {one.broken}"
    if one.missing:
        return f"needs {one.missing}" + (f"; {one.note}" if one.note else "")
    return (f"{one.note}: " if one.note else "") + one.summary.replace("``", "")


def _suites() -> Listing:
    rows: list[tuple[str, ...]] = []
    for name, path in shipped_suites().items():
        suite = load_suite(path)
        rows.append((name, str(len(suite.cases("cpu"))), suite.description))
    return ("suite", "cases", "question it answers"), rows


def _presets() -> Listing:
    rows: list[tuple[str, ...]] = []
    for name, preset in presets().items():
        s = preset.shape
        checked = "yes" if preset.verified else "no"
        sizes = tuple(str(size) for size in (s.hidden, s.expert_hidden, s.experts, s.top_k))
        rows.append((name, *sizes, s.router.kind, checked, preset.note or preset.source))
    return ("preset", "H", "I", "E", "k", "router", "verified", "source or note"), rows


def _traffic() -> Listing:
    rows: list[tuple[str, ...]] = []
    for name, kind in TRAFFIC_KINDS.items():
        spec = f"{name}:{kind.parameter}" if kind.parameter else name
        rows.append((spec, "-" if kind.default is None else f"{kind.default:g}", kind.summary))
    return ("traffic", "default", "what it is"), rows


def _routers() -> Listing:
    return ("router", "what it does"), list(ROUTER_KINDS.items())


def _keys() -> Listing:
    return ("key", "holds", "what it says"), [(key, TYPE_WORDS[KEYS[key]], said) for key, said in MEANINGS.items()]


LISTINGS = {
    "implementations": _implementations,
    "suites": _suites,
    "presets": _presets,
    "traffic": _traffic,
    "routers": _routers,
    "keys": _keys,
}
"""Everything that can be listed."""
