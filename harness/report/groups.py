"""Groups of cases: what a table or plot holds. Within a group only tokens, traffic and machine vary."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from harness.report.frame import rows_of
from harness.report.labels import describe, group_label, unique
from harness.report.ranking import BASELINE, standings

if TYPE_CHECKING:
    import pandas as pd

    from harness.cases.case import Case
    from harness.report.frame import Row
    from harness.report.ranking import Standing
    from harness.report.style import Look


@dataclass(frozen=True)
class Outcome:
    """One case of a group on one machine: its records by implementation, and who won."""

    run: str
    tokens: int
    spread: str
    seed: int
    rows: dict[str, Row]
    standing: Standing

    @property
    def best(self) -> Row | None:
        """The record of the fastest that was ranked."""
        return self.rows[self.standing.winners[0]] if self.standing.winners else None

    @property
    def cost_of_sparsity(self) -> float | None:
        """How many times as long as the dense baseline the fastest implementation took."""
        dense = [
            r.median_ns for r in self.rows.values() if r.family == BASELINE and r.status == "ok" and r.median_ns > 0
        ]
        return self.best.median_ns / min(dense) if self.best and dense else None

    @property
    def statuses(self) -> list[str]:
        """The different statuses of its records."""
        return sorted({row.status for row in self.rows.values()})


@dataclass(frozen=True, eq=False)
class Group:
    """Cases of one shape, dtype, pass, scope, execution and device, with the records of all runs.

    ``standings`` holds the outcome of every (run, case_id); ``looks`` every implementation of the whole report.
    """

    label: str
    case: Case
    table: pd.DataFrame
    standings: dict[tuple[str, str], Standing]
    looks: dict[str, Look]

    @property
    def description(self) -> str:
        """Plain sentences on what one call computes."""
        return describe(self.case)

    @cached_property
    def runs(self) -> list[str]:
        """Labels of the runs that have records here, in the report's order."""
        return [str(run) for run in self.table["run"].unique()]

    @cached_property
    def tokens(self) -> list[int]:
        """Token counts, ascending."""
        return sorted(int(count) for count in self.table["tokens"].unique())

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds, ascending."""
        return sorted(int(seed) for seed in self.table["seed"].unique())

    @cached_property
    def impls(self) -> list[str]:
        """Implementations in the order of columns and legends."""
        return sorted((str(name) for name in self.table["impl"].unique()), key=lambda name: self.looks[name].order)

    @cached_property
    def baselines(self) -> list[str]:
        """Those of the implementations that are shown but never ranked."""
        dense = set(self.table.loc[self.table["family"] == BASELINE, "impl"])
        return [name for name in self.impls if name in dense]

    @cached_property
    def spreads(self) -> list[str]:
        """Traffics from balanced to skewed, by the max/mean they showed at their highest token count."""
        skew = {}
        for place, (spread, part) in enumerate(self.table.groupby("spread", sort=False)):
            most = part.loc[part["tokens"] == part["tokens"].max(), "max_over_mean"].median()
            skew[str(spread)] = (math.inf if math.isnan(most) else most, place)
        return sorted(skew, key=lambda spread: skew[spread])

    @cached_property
    def main_spread(self) -> str:
        """The traffic with most token counts; of equals a realistic one, gaussian, before the others."""
        counts: Counter[str] = Counter()
        for spread, part in self.table.groupby("spread"):
            counts[str(spread)] = part["tokens"].nunique()
        return max(self.spreads, key=lambda spread: (counts[spread], spread.startswith("gaussian")))

    @cached_property
    def drawn(self) -> pd.DataFrame:
        """Records that plots show: the lowest seed of each machine, tokens and traffic, so that a point is one case."""
        lowest = self.table.groupby(["run", "tokens", "spread"])["seed"].transform("min")
        return self.table[self.table["seed"] == lowest]

    @cached_property
    def drawn_outcomes(self) -> list[Outcome]:
        """The cases that maps show, chosen like ``drawn``."""
        lowest = {(outcome.run, outcome.tokens, outcome.spread): outcome for outcome in reversed(self.outcomes)}
        return list(reversed(lowest.values()))

    @cached_property
    def speeds(self) -> pd.DataFrame:
        """Of the drawn records those with a speed that counts, the dense baseline included."""
        rows = self.drawn
        return rows[(rows["status"] == "ok") & rows["agreed"] & (rows["median_ns"] > 0) & (rows["tokens"] > 0)]

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """Every case with its records and who won: by run, then tokens, then skew."""
        found = []
        for (run, case_id), part in self.table.groupby(["run", "case_id"], sort=False):
            rows = {row.impl: row for row in rows_of(part)}
            first = next(iter(rows.values()))
            standing = self.standings[str(run), str(case_id)]
            found.append(Outcome(str(run), first.tokens, first.spread, first.seed, rows, standing))
        runs, spreads = self.runs, self.spreads
        return sorted(found, key=lambda o: (runs.index(o.run), o.tokens, spreads.index(o.spread), o.seed))


def groups(table: pd.DataFrame, looks: dict[str, Look]) -> list[Group]:
    """Split a frame into its groups, in the order in which their first records were written."""
    if table.empty:
        return []
    ranked = standings(table)
    parts = [part for _, part in table.groupby("group", sort=False)]
    labels = unique([group_label(part["case"].iloc[0]) for part in parts])
    return [Group(label, part["case"].iloc[0], part, ranked, looks) for label, part in zip(labels, parts, strict=True)]
