"""The command that shows how a figure changed over runs: ``history``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from harness import terminal
from harness.cli.app import NOTHING, Impl, Json, app, names, print_json
from harness.report.escape import one_line

if TYPE_CHECKING:
    from harness.report.history import History

FEW = 40
"""Runs that are printed, over all tables; more are left to the page."""

SHOWN = 20
"""Tables, and lines below them, that are printed."""

LONGEST = 60
"""Characters of a folder's name that come from what was asked for."""


@app.command()
def history(
    what: Annotated[
        str, typer.Argument(metavar="CASE|IMPL", help="An implementation, the start of a case id, or part of a label.")
    ],
    runs: Annotated[
        Path, typer.Option("--runs", metavar="DIR", help="Where run directories are looked for, at any depth.")
    ] = Path("results"),
    impl: Impl = "",
    metric: Annotated[
        str, typer.Option("--metric", metavar="M", help="time, tokens_per_second, memory, energy or relative.")
    ] = "time",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the page goes; history/ in --runs by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how a figure changed from run to run, and since which commit: a table, and a page with a picture."""
    from harness.records.figures import tracked_named
    from harness.records.history import collect, selection, what_there_is
    from harness.records.runs import find_runs

    tracked = tracked_named(metric)
    found = find_runs(runs)
    for problem in found.problems:
        terminal.fail(problem)
    series = collect(found.runs, tracked, selection(found.runs, what, names(impl)))
    words = f"{what}, {impl}" if impl else what
    if not series:
        terminal.fail(one_line(f"nothing matches {words!r}: {what_there_is(found.runs)}"))
        raise typer.Exit(NOTHING)
    from harness.report.history import History, unmeasured_lines, write_history
    from harness.report.labels import slug

    asked = History(words, tracked, tuple(series))
    if as_json:
        print_json({"what": words, "metric": tracked.name, "unit": tracked.unit, "series": series})
    if not asked.measured:
        why = ". ".join(unmeasured_lines(asked)[:3])
        terminal.fail(one_line(f"no record of {words!r} holds a figure for {metric}. {why}"))
        raise typer.Exit(NOTHING)
    if as_json and out is None:
        return
    page = write_history(asked, out or runs / "history" / f"{slug(words)[:LONGEST]}-{slug(metric)}")
    if not as_json:
        _show(asked)
        terminal.out.print(f"History: {page}", soft_wrap=True, highlight=False, markup=False)


def _show(history: History) -> None:
    """Print every run when they are few, else a line a series; then the steps."""
    from harness.report.history import headline, step_lines, unmeasured_lines
    from harness.report.history_tables import run_table, series_table

    panels = history.panels
    terminal.out.print(headline(history), highlight=False)
    few = sum(len(panel.runs) for panel in panels) <= FEW
    for panel in panels[:SHOWN]:
        if few:
            shown = run_table(panel, history.metric)
        else:
            shown = series_table(panel, history.metric, without=("version", "software"))
        headers, rows = shown
        # A title of the table would be broken at the table's width.
        terminal.out.print(f"\n[bold]{escape(panel.label)}[/bold]", highlight=False, soft_wrap=True)
        terminal.out.print(terminal.table("", headers, [[one_line(cell) for cell in row] for row in rows]))
    lines = [*step_lines(history), *unmeasured_lines(history)]
    for line in lines[:SHOWN]:
        terminal.out.print(one_line(line), markup=False, highlight=False, soft_wrap=True)
    left_out = max(0, len(panels) - SHOWN) + max(0, len(lines) - SHOWN)
    if left_out:
        terminal.out.print(f"{left_out} more tables and lines are in the page.", highlight=False)
