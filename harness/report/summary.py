"""The last words of a run in the terminal: one table of times for each group of cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tabulate import tabulate

from harness.report import units
from harness.report.escape import one_line
from harness.report.frame import frame
from harness.report.groups import Group, groups
from harness.report.style import look_up
from harness.report.tables import APART, SHARES, WINS

if TYPE_CHECKING:
    from harness.records.store import Run
    from harness.report.frame import Row
    from harness.report.ranking import Standing

LEGEND = {
    WINS: "the single fastest",
    SHARES: "a shared win: not surely slower than the fastest",
    APART: "not measured side by side with the others, so not ranked",
}


def summary_tables(run: Run) -> list[tuple[str, str]]:
    """Title and plain-text table of every group of a run: median times with the marks of the report.

    A line below each table says what its marks mean. The text holds no terminal sequences, whatever the records hold;
    print it without interpreting markup.
    """
    table = frame([run])
    return [(one_line(group.label), _times(group)) for group in groups(table, look_up(table))]


def _times(group: Group) -> str:
    headers = ["tokens", "traffic", *(f"({name})" if name in group.baselines else name for name in group.impls)]
    rows = []
    for outcome in group.outcomes:
        times = [_cell(outcome.rows.get(name), outcome.standing) for name in group.impls]
        rows.append([str(outcome.tokens), outcome.spread, *times])
    text = tabulate(rows, headers=[one_line(head) for head in headers], disable_numparse=True, stralign="right")
    marks = {cell[-1] for row in rows for cell in row[2:]}
    said = [f"{mark} {words}" for mark, words in LEGEND.items() if mark in marks]
    said += ["in brackets: the dense baseline, never ranked"] if group.baselines else []
    return "\n".join(filter(None, (text, "; ".join(said))))


def _cell(row: Row | None, standing: Standing) -> str:
    if row is None:
        return units.ABSENT
    return f"{units.time(row.median_ns)} {_mark(row, standing)}".rstrip() if row.status == "ok" else row.status


def _mark(row: Row, standing: Standing) -> str:
    if row.impl in standing.winners:
        return WINS if standing.winner else SHARES
    return APART if standing.apart(row) else ""
