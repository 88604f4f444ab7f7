"""Tables of a group of cases: who took how long, and what else that says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.report import units
from harness.report.escape import Markdown, escape, markdown_table
from harness.report.ranking import MIN_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from harness.report.frame import Row
    from harness.report.groups import Group, Outcome
    from harness.report.ranking import Standing

WINS, SHARES, APART = "★", "≈", "†"
"""Marks of a single winner, a shared win, and a time that was not measured beside the others."""


@dataclass(frozen=True)
class Axis:
    """The leading columns of a table: what tells its rows apart. Machine and seed only where there are several."""

    runs: bool
    seeds: bool

    @classmethod
    def of(cls, group: Group, runs: int) -> Axis:
        """Columns for a group in a report of so many runs."""
        return cls(runs=runs > 1, seeds=len(group.seeds) > 1)

    @property
    def headers(self) -> list[str]:
        """Column titles."""
        return ["machine"] * self.runs + ["tokens", "traffic"] + ["seed"] * self.seeds

    def cells(self, outcome: Outcome) -> list[str]:
        """Cells of one row."""
        return [outcome.run] * self.runs + [str(outcome.tokens), outcome.spread] + [str(outcome.seed)] * self.seeds


def times_table(group: Group, axis: Axis) -> Markdown:
    """One row a case, one column an implementation: median time of a call and its 95 % interval, winners marked."""
    names = [name for name in group.impls if name not in group.baselines]
    headers = [*axis.headers, *names]
    if group.baselines:
        headers += [*(f"{name} (baseline)" for name in group.baselines), "cost of sparsity"]
    rows = []
    for outcome in group.outcomes:
        times = [_time_cell(outcome.rows.get(name), outcome.standing) for name in [*names, *group.baselines]]
        cost = [units.ratio(outcome.cost_of_sparsity)] if group.baselines else []
        rows.append([*axis.cells(outcome), *times, *cost])
    return markdown_table(headers, rows)


def _time_cell(row: Row | None, standing: Standing) -> str:
    if row is None:
        return units.ABSENT
    if row.status != "ok":
        return row.status
    text = units.time(row.median_ns)
    if units.present(row.low_ns) and units.present(row.high_ns):
        size, _ = units.fitting(row.median_ns, units.SCALES["ns"])
        text += f" ({units.digits(row.low_ns / size)} to {units.digits(row.high_ns / size)})"
    if row.impl in standing.winners:
        return Markdown(f"**{escape(text)} {WINS if standing.winner else SHARES}**")
    return f"{text} {APART}" if standing.apart(row) else text


def _joules(row: Row) -> str:
    text = units.small(row.joules_per_token, "J")
    return text if text == units.ABSENT or row.energy_status == "ok" else f"{text} ({row.energy_status})"


RATES: dict[str, Callable[[Row], str]] = {
    "tokens/s": lambda row: units.large(row.tokens_per_second),
    "TFLOP/s": lambda row: units.plain(row.tflops),
    "share of floor": lambda row: units.share(row.share_of_floor),
    "rounds": lambda row: str(len(row.taken) or ""),
    "fastest call": lambda row: units.time(row.min_ns),
    "workspace": lambda row: units.size(row.workspace_bytes),
    "beside weights": lambda row: units.size(row.beside_weights_bytes),
    "J/token": _joules,
    "configuration": lambda row: row.configuration,
    "flags": lambda row: ", ".join(word for word in (row.status.replace("ok", ""), row.flags) if word),
}
"""Columns of the second table, each made from one record."""


def rates_table(group: Group, axis: Axis) -> Markdown:
    """One row for each timed implementation of each case: rates, share of the floor, rounds, memory, energy, flags.

    Columns in which no record has anything to show are left out; ``absences`` says why.
    """
    lead, figures = [], []
    for outcome in group.outcomes:
        for row in sorted(outcome.rows.values(), key=lambda row: group.looks[row.impl].order):
            if row.median_ns > 0:
                lead.append([*axis.cells(outcome), row.impl])
                figures.append([column(row) for column in RATES.values()])
    kept = [n for n in range(len(RATES)) if any(cells[n] not in {"", units.ABSENT} for cells in figures)]
    headers = [*axis.headers, "implementation", *(list(RATES)[n] for n in kept)]
    rows = [[*first, *(cells[n] for n in kept)] for first, cells in zip(lead, figures, strict=True)]
    return markdown_table(headers, rows) if rows else Markdown("")


def absences(group: Group) -> list[Markdown]:
    """Say which figures are missing from the tables of a group, and why."""
    timed = group.table[group.table["median_ns"] > 0]
    if timed.empty:
        return []
    said = []
    few = timed[timed["samples"] < MIN_SAMPLES]
    if not few.empty:
        what = f"{units.plural(len(few), 'record')} of {len(timed)} with fewer than {MIN_SAMPLES} samples"
        said.append(Markdown(f"{what}: too few to tell any difference, so nobody wins."))
    for column, what in (("floor_ns", "Share of the floor"), ("workspace_bytes", "Workspace")):
        missing = timed[timed[column].isna()]
        if not missing.empty:
            why = "no ceilings were measured" if column == "floor_ns" else _reasons(missing["memory_reason"])
            said.append(_missing(what, len(missing), len(timed), why))
    quiet = timed[timed["joules_per_token"].isna()]
    if not quiet.empty:
        said.append(_missing("J/token", len(quiet), len(timed), _reasons(quiet["energy_reason"])))
    return said


def _missing(what: str, count: int, total: int, why: str) -> Markdown:
    amount = "" if count == total else f" for {count} of {total} records"
    return Markdown(f"{what}: not available{amount} ({why}).")


def _reasons(column: pd.Series[str]) -> str:
    reasons = sorted({escape(text).rstrip(".") for text in column if text})
    return "; ".join(reasons) if reasons else "not measured"
