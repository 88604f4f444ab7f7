"""One of two versions that are measured side by side: what it has, what is asked of it, what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from harness.records.processes import join, with_common_floor
from harness.records.unmeasured import unmeasured
from harness.running import jobs
from harness.running.child import KILLS_FORGIVEN, NOTHING_MORE, Outfit
from harness.running.runner import NOT_THERE, why_broken

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.cases.case import Case, PlannedCase
    from harness.records.environment import Ceilings
    from harness.records.record import Record, Status
    from harness.running.child import Death, Limits
    from harness.running.machine import Machine

Key = tuple[str, str]


@dataclass
class Side:
    """A version of the implementations, and its run.

    ``planned`` names the implementations of every case that this side has; ``homes`` are where its modules must lie.
    ``lost`` are records of what will not be measured any more, ``measured`` those of the complete pairs by number, and
    ``fresh`` those of the pair in progress.
    """

    name: str
    machine: Machine
    planned: dict[str, PlannedCase]
    homes: dict[str, str]
    outfit: Outfit = NOTHING_MORE
    skip: dict[str, str] = field(default_factory=dict)
    lost: dict[Key, Record] = field(default_factory=dict)
    measured: dict[Key, dict[int, Record]] = field(default_factory=dict)
    fresh: dict[Key, Record] = field(default_factory=dict)
    measuring_s: float = 0.0
    _kills: Counter[Key] = field(default_factory=Counter)

    def plan(self, one: PlannedCase, names: Sequence[str], other: Machine) -> None:
        """Plan a case for those of some names that this side has, or would have if its modules could be imported."""
        broken = {module: listed.broken for module, listed in self.machine.listed.items() if listed.broken}
        there, why = [], {}
        for name in names:
            if name not in self.machine.usable and name in other.listed:
                why[name] = why_broken(other.listed[name].origin, broken)
            if name in self.machine.usable or why.get(name):
                there.append(name)
        self.planned[one.case.case_id] = msgspec.structs.replace(one, implementations=tuple(there))
        for name in there:
            if name not in self.machine.usable:
                self.lose(one.case, [name], "error", why[name])

    def asked(self, case: Case) -> PlannedCase | None:
        """Return a case with the implementations that are still in the running; None without any."""
        one = self.planned[case.case_id]
        names = tuple(name for name in one.implementations or () if (case.case_id, name) not in self.lost)
        return msgspec.structs.replace(one, implementations=names) if names else None

    def keep(self, case: Case, outcome: jobs.BoutOutcome) -> None:
        """Keep a bout's records; what was not measured in it is not asked for again."""
        self.measuring_s += outcome.measuring_s
        asked = self.asked(case)
        found = {record.impl.name: record for record in outcome.records}
        for name in asked.implementations or () if asked else ():
            record = found.get(name)
            if record is None:
                self.lose(case, [name], "error", NOT_THERE)
            elif record.timing is None:
                self.lost[record.key] = record
            else:
                self.fresh[record.key] = record

    def end_pair(self, number: int) -> None:
        """Count the pair in progress as complete."""
        for key, record in self.fresh.items():
            self.measured.setdefault(key, {})[number] = record
        self.fresh.clear()

    def lose(self, case: Case, names: Iterable[str], status: Status, reason: str, log_tail: str = "") -> None:
        """Write failures, and leave these implementations out of the case from now on."""
        environment_id = self.machine.environment.environment_id
        for name in names:
            listed = self.machine.listed.get(name, jobs.Listed(name=name))
            record = unmeasured(case, listed.impl, environment_id, status, reason, log_tail)
            self.lost[record.key] = record

    def charge(self, death: Death, case: Case, limits: Limits) -> None:
        """Charge whoever the worker had announced when it fell; nobody at first, where that tells nothing.

        Each call makes the rest smaller, or is one of a few that are forgiven.
        """
        asked, last = self.asked(case), death.last
        names = (asked.implementations if asked else None) or ()
        reason = death.reason(limits)
        charged = [last.impl] if last.case_id == case.case_id and last.impl in names else []
        is_import = last.stage == "import" and last.impl not in self.skip
        if death.killed_from_outside or not (charged or is_import):
            key = case.case_id, last.impl
            self._kills[key] += 1
            if self._kills[key] < KILLS_FORGIVEN:
                return
        if is_import:
            self.skip[last.impl] = reason
            return
        self.lose(case, charged or names, death.status, reason, death.log_tail)

    def records(self, bouts: Mapping[str, str], ceilings: Mapping[str, Ceilings]) -> list[Record]:
        """Return one record of everybody that was measured in a complete pair, or lost."""
        found: list[Record] = []
        for case_id, one in self.planned.items():
            of_case = []
            for name in one.implementations or ():
                key = case_id, name
                if key in self.lost:
                    of_case.append(msgspec.structs.replace(self.lost[key], bout=bouts[case_id]))
                elif key in self.measured:
                    of_case.append(join(self.measured[key], ceilings.get(one.case.device), bouts[case_id]))
            found += with_common_floor(of_case)
        return found


def plan_sides(planned: Sequence[PlannedCase], base: Side, new: Side) -> None:
    """Share a plan, made for the new side's implementations, between both sides.

    Each side gets what it has; where a case asks for everybody, the base's own are added, which the new side lost.
    What a side lacks because a module of it cannot be imported gets a record that says so.
    """
    everybody = set(new.machine.usable)
    for one in planned:
        names = list(one.implementations or ())
        if everybody <= set(names):
            names += [name for name in base.machine.usable if name not in names]
        base.plan(one, names, new.machine)
        new.plan(one, names, base.machine)
