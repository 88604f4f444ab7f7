"""Executions: the same cases run eagerly, from a CUDA graph and compiled, and what that does to the ranking."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING

import msgspec

from harness.cases.case import EXECUTIONS
from harness.report.labels import group_id, group_label, unique
from harness.report.ranking import contender, noise_floor_of, standing, tied

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.report.frame import Row
    from harness.report.groups import Group, Outcome

Key = tuple[str, int, str, int]
"""What a case is known by within a group: run, tokens, traffic, seed."""


@dataclass(frozen=True)
class Match:
    """One case under several executions: its outcome under each, in the order of ``EXECUTIONS``."""

    outcomes: dict[str, Outcome]

    @property
    def any_outcome(self) -> Outcome:
        """One of the outcomes, for what they share: run, tokens, traffic, seed."""
        return next(iter(self.outcomes.values()))

    @property
    def base(self) -> str:
        """The execution that the others are held against."""
        return next(iter(self.outcomes))

    @property
    def others(self) -> list[str]:
        """The executions beside the base."""
        return [name for name in self.outcomes if name != self.base]

    @cached_property
    def fastest(self) -> tuple[str, ...]:
        """Executions whose best time is the lowest of all, or cannot be told from it; fastest first."""
        best = {name: outcome.best for name, outcome in self.outcomes.items()}
        ranked = [replace(contender(row), name=name) for name, row in best.items() if row is not None]
        floors = [noise_floor_of(outcome.rows.values()) for outcome in self.outcomes.values()]
        return standing(ranked, max(floors)).winners

    def other_winner(self, execution: str) -> bool:
        """Whether nobody who wins under the base wins under this execution, both having winners."""
        before, after = (self.outcomes[name].standing.winners for name in (self.base, execution))
        return bool(before and after) and set(before).isdisjoint(after)

    def swapped(self, execution: str) -> list[tuple[str, str]]:
        """Pairs that change places beyond the noise: ahead under the base, and behind under this execution."""
        behind = {(slow, fast) for fast, slow in _ahead(self.outcomes[execution])}
        return sorted(_ahead(self.outcomes[self.base]) & behind)

    def told_apart(self, execution: str) -> bool:
        """Whether base and this execution both tell the same two implementations apart."""
        unordered = [{frozenset(pair) for pair in _ahead(self.outcomes[name])} for name in (self.base, execution)]
        return bool(unordered[0] & unordered[1])

    def comparable(self, execution: str) -> bool:
        """Whether base and this execution rank two implementations or more that they share."""
        before, after = (set(self.outcomes[name].standing.ranked) for name in (self.base, execution))
        return len(before & after) > 1


def _ahead(outcome: Outcome) -> set[tuple[str, str]]:
    """All (faster, slower) of a case that can be told apart."""
    rows: list[Row] = [outcome.rows[name] for name in outcome.standing.ranked]
    floor = noise_floor_of(rows)
    pairs = permutations([contender(row) for row in rows], 2)
    return {(a.name, b.name) for a, b in pairs if a.median_ns < b.median_ns and not tied(a, b, floor)}


@dataclass(frozen=True, eq=False)
class Contrast:
    """Groups of cases that differ in their execution only, by execution."""

    label: str
    groups: dict[str, Group]

    @cached_property
    def matches(self) -> list[Match]:
        """Every case that was asked under several executions: by run, then tokens, then skew."""
        found: defaultdict[Key, dict[str, Outcome]] = defaultdict(dict)
        for execution, group in self.groups.items():
            for outcome in group.outcomes:
                found[outcome.run, outcome.tokens, outcome.spread, outcome.seed][execution] = outcome
        matches = [Match(outcomes) for outcomes in found.values() if len(outcomes) > 1]
        first = list(dict.fromkeys(match.any_outcome.run for match in matches))
        return sorted(matches, key=lambda match: (first.index(match.any_outcome.run), match.any_outcome.tokens))

    @property
    def executions(self) -> list[str]:
        """The executions, the base first."""
        return list(self.groups)

    @property
    def any_group(self) -> Group:
        """One of the groups, for what they share."""
        return next(iter(self.groups.values()))


def contrasts(groups: Sequence[Group]) -> list[Contrast]:
    """All sets of groups that differ in nothing but their execution and share a case, in the report's order."""
    found: defaultdict[str, dict[str, Group]] = defaultdict(dict)
    for group in groups:
        found[group_id(msgspec.structs.replace(group.case, execution="eager"))][group.case.execution] = group
    several = [members for members in found.values() if len(members) > 1]
    ordered = [dict(sorted(members.items(), key=lambda item: EXECUTIONS.index(item[0]))) for members in several]
    labels = unique([group_label(next(iter(members.values())).case, execution=False) for members in ordered])
    made = [Contrast(label, members) for label, members in zip(labels, ordered, strict=True)]
    return [contrast for contrast in made if contrast.matches]
