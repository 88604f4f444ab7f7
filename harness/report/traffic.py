"""Routing for people: what a traffic looks like, and which generator a trace resembles."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from harness.fitting.figures import FIGURES, LATER, WINDOW_TOKENS
from harness.report import units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.fitting.results import Candidate, Compared, Fit, Range, Shown

Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]
FEWEST_TO_SHOW = 3
"""Candidates listed even if they do not reproduce the load."""


def shown_table(shown: Shown) -> Rows:
    """Every figure that is defined, beside its range under uniform traffic."""
    headers = ("figure", "here", f"by chance: uniform, {shown.seeds} seeds")
    rows: list[tuple[str, ...]] = [
        (FIGURES[name].words, figure_text(name, value), from_to(shown.chance.get(name), partial(figure_text, name)))
        for name, value in shown.figures.items()
        if value is not None
    ]
    return headers, rows


def figure_text(name: str, value: float | None) -> str:
    """Write one of ``FIGURES``: counts as whole numbers."""
    return f"{value:.0f}" if FIGURES[name].counts and units.present(value) else units.plain(value)


def candidates_table(fit: Fit) -> Rows:
    """List the generators nearest in load."""
    headers = ("generator", "95 %", "misses", "its own draws miss", "alike")
    kept = [one for n, one in enumerate(fit.candidates) if n < FEWEST_TO_SHOW or one.reproduces]
    rows: list[tuple[str, ...]] = [
        (one.spread, _interval(one), units.share(one.miss), _shares(one.own_miss), "yes" if one.reproduces else "no")
        for one in kept
    ]
    return headers, rows


def figures_table(fit: Fit) -> Rows:
    """Each figure of the trace beside the ranges of generators; a star marks a range that holds the trace's figure.

    ``temporal`` has a column where independent tokens do not repeat as the trace's do.
    """
    columns = {"uniform": "chance", fit.candidates[0].spread: "load"}
    if fit.repeats and not fit.by_load.get("repeats", True):
        columns[fit.repeats.spread] = "repeats"
    rows: list[tuple[str, ...]] = []
    for one in fit.figures:
        if one.trace is not None:
            beside = (_beside(one, getattr(one, name)) for name in columns.values())
            rows.append((FIGURES[one.figure].words, figure_text(one.figure, one.trace), *beside))
    return ("figure", "trace", *columns), rows


def sentences(fit: Fit) -> Iterator[str]:
    """Say property by property what resembles the trace, by how much it misses, and what nothing reproduces."""
    yield _load_sentence(fit)
    for name in ("bursts", "repeats", "co-activation"):
        told = SENTENCES[name](fit)
        if told:
            yield told


def _load_sentence(fit: Fit) -> str:
    best = fit.candidates[0]
    own = f"draws of {best.spread} differ from one another by {_shares(best.own_miss)}"
    others = [one.spread for one in fit.candidates[1:] if one.reproduces]
    also = f" These tokens cannot tell it from {' or '.join(others)}." if others and best.reproduces else ""
    end = " Its parameter is at the end of what was tried." if best.at_the_end else ""
    miss = f"{units.share(best.miss)} of the slots would have to go elsewhere, {own}"
    if best.reproduces:
        return f"Load: like {_named(best)}: {miss}.{_dead(fit)}{also}{end}"
    return f"Load: no generator reproduces it. Nearest is {_named(best)}: {miss}.{end}"


def _dead(fit: Fit) -> str:
    """Say so where a load that is alike in slots differs in experts that are left out altogether."""
    dead = next((one for one in fit.figures if one.figure == "dead_experts"), None)
    if dead is None or dead.trace is None or dead.load is None or dead.load.holds(dead.trace):
        return ""
    return f" But {dead.trace:.0f} experts get no token, in the generator {dead.load.low:.0f} to {dead.load.high:.0f}."


def _bursts_sentence(fit: Fit) -> str:
    if "bursts" not in fit.by_load:
        return ""
    figure = _figure(fit, "window_max_over_mean")
    what = f"Bursts: in windows of {WINDOW_TOKENS} tokens the busiest expert has {units.ratio(figure.trace)} the mean"
    given = f"{fit.candidates[0].spread} gives {_range(figure.load)}"
    end = "" if fit.by_load["bursts"] else " No generator changes its popular experts along the text."
    return f"{what}, {given}.{end}"


def _repeats_sentence(fit: Fit) -> str:
    if fit.repeats is None or "repeats" not in fit.by_load:
        return ""
    figure, later, repeats = _figure(fit, "shared_excess"), _figure(fit, "later_excess"), fit.repeats
    what = f"Repeats: a token shares {units.ratio(figure.trace)} as many experts with the next as load alone gives"
    if fit.by_load["repeats"]:
        return f"{what}; independent tokens do as well ({_range(figure.load)})."
    if not figure.trace or (figure.load and figure.trace < figure.load.low):
        return f"{what}, fewer than independent tokens ({_range(figure.load)}). No generator avoids repeats."
    named = f"{repeats.spread} (95 %: {repeats.low:.2g} to {repeats.high:.2g})"
    if fit.by_repeats.get("repeats"):
        both = "" if fit.by_repeats.get("load") else " Its load is another: no generator has both."
        return f"{what}, like {named}.{both}"
    limit = ", the most there is" if repeats.at_the_end else ""
    return (
        f"{what}. No generator reproduces how experts repeat. Nearest is {named}{limit}: {LATER} tokens later the trace"
        f" still has {units.ratio(later.trace)}, the generator {_range(later.repeats)}; first choices repeat"
        f" {units.share(_figure(fit, 'first_repeats').trace)} of the time, in the generator"
        f" {_shares(_figure(fit, 'first_repeats').repeats)}."
    )


def _together_sentence(fit: Fit) -> str:
    if "co-activation" not in fit.by_load:
        return ""
    figure, closest = _figure(fit, "lift_scatter"), _figure(fit, "closest_lift")
    what = f"Co-activation: lifts of pairs scatter by {units.plain(figure.trace)}"
    given = f"{fit.candidates[0].spread} has {_range(figure.load)}"
    if fit.by_load["co-activation"]:
        return f"{what}, {given}: experts meet as their load has it."
    if fit.repeats and fit.by_repeats.get("co-activation"):
        return f"{what}, {given}, {fit.repeats.spread} {_range(figure.repeats)}: repeats along the text explain it."
    near = f" The closest 1 % of pairs meet {units.ratio(closest.trace)} as often as load has it."
    near = near if closest.trace else ""
    return f"{what}, {given}.{near} No generator ties experts together: only the trace itself has this."


SENTENCES = {"bursts": _bursts_sentence, "repeats": _repeats_sentence, "co-activation": _together_sentence}


def _figure(fit: Fit, name: str) -> Compared:
    return next(one for one in fit.figures if one.figure == name)


def _named(one: Candidate) -> str:
    return one.spread if one.low is None else f"{one.spread} (95 %: {one.low:.2g} to {one.high:.2g})"


def _interval(one: Candidate) -> str:
    return units.ABSENT if one.low is None else f"{one.low:.2g} to {one.high:.2g}"


def _beside(one: Compared, given: Range | None) -> str:
    star = " *" if given is not None and one.trace is not None and given.holds(one.trace) else ""
    return f"{from_to(given, partial(figure_text, one.figure))}{star}"


def _range(given: Range | None) -> str:
    return from_to(given, units.plain)


def _shares(given: Range | None) -> str:
    return from_to(given, units.share)


def from_to(given: Range | None, text: Callable[[float | None], str]) -> str:
    """Write a range over seeds, from its lowest to its highest."""
    if given is None:
        return units.ABSENT
    return units.span(text(given.low), text(given.high))
