"""What executions do to the ranking, in words and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report import units
from harness.report.escape import Markdown, bold, code, escape, markdown_table
from harness.report.tables import Axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.report.executions import Contrast, Match
    from harness.report.frame import Row
    from harness.report.groups import Outcome

PAIRS_NAMED = 3
"""So many pairs that change places are named in a cell, and the others counted."""

READING = Markdown(
    "Cases that were run under several executions. Each cell names the fastest under that execution, its median time "
    "of a call, and how many times as long the next one took. **Bold** is the execution whose best is fastest of all, "
    "or cannot be told from it. Executions are measured one after the other, not side by side, so small differences "
    "between columns mean little; the order within a column stands on rounds side by side. Change of places counts "
    "only what both columns tell apart."
)


def in_words(contrast: Contrast) -> Markdown:
    """One sentence: which execution is fastest how often, and how often another implementation wins."""
    matches = contrast.matches
    ranked = [match for match in matches if match.fastest]
    alone = {name: sum(match.fastest == (name,) for match in ranked) for name in contrast.executions}
    shared = sum(len(match.fastest) > 1 for match in ranked)
    parts = [f"{name} alone is fastest in {count}" for name, count in alone.items() if count]
    parts += [f"{shared} {'is a tie' if shared == 1 else 'are ties'}"] if shared else []
    left = len(matches) - len(ranked)
    parts += [f"in {left} nothing could be ranked"] if left else []
    base = contrast.executions[0]
    said = f"Of {units.plural(len(matches), 'case')} under several executions: {', '.join(parts)}."
    for name in contrast.executions[1:]:
        both = [m for m in matches if m.base == base and name in m.others and m.comparable(name)]
        if both:
            other = sum(match.other_winner(name) for match in both)
            places = sum(bool(match.swapped(name)) for match in both)
            changed = f"another implementation wins in {other} of {len(both)}, some change places in {places}"
            said += f" {name.capitalize()} against {base}: {changed}."
    return Markdown(said)


def winners_table(contrast: Contrast, runs: int) -> Markdown:
    """One row a case, one column an execution with its winner, and what becomes of the order."""
    axis = Axis.of(contrast.any_group, runs)
    rows = []
    for match in contrast.matches:
        cells = [_winner(match, name) for name in contrast.executions]
        rows.append([*axis.cells(match.any_outcome), *cells, _order(match)])
    return markdown_table([*axis.headers, *contrast.executions, f"order against {contrast.executions[0]}"], rows)


def _winner(match: Match, execution: str) -> str:
    outcome: Outcome | None = match.outcomes.get(execution)
    if outcome is None:
        return units.ABSENT
    if outcome.best is None:
        return ", ".join(outcome.statuses)
    margin = outcome.standing.margin
    words = [" ≈ ".join(outcome.standing.winners), units.time(outcome.best.median_ns)]
    text = f"{words[0]} {words[1]}" + (f", {units.ratio(margin)}" if margin else "")
    return bold(text) if execution in match.fastest else text


def _order(match: Match) -> str:
    said = {name: _changes(match, name) for name in match.others}
    if len(said) == 1:
        return next(iter(said.values()))
    return Markdown("; ".join(f"{name}: {text}" for name, text in said.items()))


def _changes(match: Match, execution: str) -> Markdown:
    if not match.comparable(execution):
        return Markdown("nothing to compare")
    if not match.told_apart(execution):
        return Markdown("nothing told apart")
    pairs = match.swapped(execution)
    named = [f"{code(after)} passes {code(before)}" for before, after in pairs[:PAIRS_NAMED]]
    more = [f"{len(pairs) - PAIRS_NAMED} more"] if len(pairs) > PAIRS_NAMED else []
    lead = "another wins" if match.other_winner(execution) else "the same wins" if pairs else "the same"
    return Markdown(lead + (f" ({', '.join([*named, *more])})" if pairs else ""))


def times_table(contrast: Contrast, runs: int) -> Markdown:
    """One row for each implementation of each case: its time under every execution, and its first call under each.

    Under ``compile`` the first call is where torch compiles, under ``graph`` where the graph is captured.
    """
    axis = Axis.of(contrast.any_group, runs)
    looks, names = contrast.any_group.looks, contrast.executions
    rows = []
    for match in contrast.matches:
        impls = {impl for outcome in match.outcomes.values() for impl in outcome.rows}
        for impl in sorted(impls, key=lambda impl: looks[impl].order):
            found = [match.outcomes[name].rows.get(impl) if name in match.outcomes else None for name in names]
            firsts = [units.time(row.first_call_ns) if row else units.ABSENT for row in found]
            rows.append([*axis.cells(match.any_outcome), impl, *_times(found), *firsts])
    return markdown_table([*axis.headers, "implementation", *names, *(f"first call, {name}" for name in names)], rows)


def _times(found: Sequence[Row | None]) -> list[str]:
    """Write the time under every execution, those after the first with how many times the first's they are."""
    first = found[0]
    cells = []
    for row in found:
        if row is None or row.status != "ok":
            cells.append(escape(row.status) if row else units.ABSENT)
            continue
        text = units.time(row.median_ns)
        if row is not first and first is not None and first.status == "ok":
            text += f" ({units.ratio(row.median_ns / first.median_ns)})"
        cells.append(text)
    return cells
