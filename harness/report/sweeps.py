"""Sweeps: groups of cases that differ in the number of experts and in top-k, and so make a map together."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from harness.report.labels import group_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.cases.shape import Shape
    from harness.report.groups import Group


@dataclass(frozen=True, eq=False)
class Sweep:
    """Groups on one grid of experts x top-k, with the expert's width, or the active width k*I, held fixed."""

    held: str
    groups: tuple[Group, ...]

    @property
    def label(self) -> str:
        """One line for people: what was held fixed."""
        case = self.groups[0].case
        how = f"{case.dtype} {case.pass_}, {case.scope}, {case.execution}, {case.device}"
        return f"H{case.shape.hidden}, {self.held}, {how}"

    @cached_property
    def experts(self) -> list[int]:
        """Numbers of experts, ascending."""
        return sorted({group.case.shape.experts for group in self.groups})

    @cached_property
    def top_ks(self) -> list[int]:
        """Values of k, ascending."""
        return sorted({group.case.shape.top_k for group in self.groups})

    @cached_property
    def runs(self) -> list[str]:
        """Labels of the runs that have records here."""
        return list(dict.fromkeys(run for group in self.groups for run in group.runs))

    @cached_property
    def main_spread(self) -> str:
        """The traffic that most of the groups share."""
        return Counter(spread for group in self.groups for spread in group.spreads).most_common(1)[0][0]


def sweeps(groups: Sequence[Group]) -> list[Sweep]:
    """All maps that a report's groups make: two cells or more, and none that lies within another."""
    found: defaultdict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in groups:
        rest = group_id(group.case, "experts", "top_k", "expert_hidden")
        for held in _held(group.case.shape):
            found[rest, held].append(group)
    maps = [Sweep(held, tuple(members)) for (_, held), members in found.items() if len(members) > 1]
    maps.sort(key=lambda sweep: -len(sweep.groups))
    kept: list[Sweep] = []
    for sweep in maps:
        if not any(set(sweep.groups) <= set(larger.groups) for larger in kept):
            kept.append(sweep)
    return kept


def _held(shape: Shape) -> tuple[str, str]:
    """Both ways in which the experts' width may be held fixed while E and k vary."""
    return f"I{shape.expert_hidden}", f"k·I = {shape.top_k * shape.expert_hidden}"
