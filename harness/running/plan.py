"""The plan: which cases, in which order, for which implementations, within what time and memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from harness.cases.cost import memory_estimate_bytes, useful_flops
from harness.cases.shape import require
from harness.running.pacing import LEAST_SHARE
from harness.running.runner import chunks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.cases.case import PlannedCase
    from harness.cases.published import Published
    from harness.running.machine import Machine

BOUT_SECONDS = {"cpu": 12.0, "cuda": 6.0}
"""Budget of one bout where the suite names none."""
LEAST_BOUT_SECONDS = 0.2
"""However small its share: inputs, oracle, gate and the fewest rounds (a small layer; 0.15 to 0.25 s on two cores)."""
AHEAD_SECONDS = {"forward": (0.008, 0.0015), "training": (0.055, 0.035)}
"""Per million weights of a layer, for a case and for each implementation: weights are made and the oracle computed, in
training its gradients held against each implementation's. On one core or two, whatever the dtype. On a GPU nobody
measured it."""
GFLOP_SECONDS = 0.02
"""Of a call's work, for the oracle and for each implementation's calls to be checked, on the same cores."""
WORKER_START_SECONDS = 5.0
"""Importing torch and the implementations, once a layer."""
CEILINGS_SECONDS = 8.0


@dataclass(frozen=True)
class Plan:
    """What a run will do. ``budget_s`` is what all bouts together have to measure in.

    ``not_here`` are implementations that were asked for but lack something here, and what they need. ``left_out`` are
    cases that need more memory than there is, or a trace that the layer asked for cannot follow. ``published`` are
    others' figures for this work.
    """

    suite: str
    description: str
    planned: tuple[PlannedCase, ...]
    budget_s: float
    not_here: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices its cases name."""
        return tuple(dict.fromkeys(one.case.device for one in self.planned))

    @property
    def memory_bytes(self) -> int:
        """The most memory a single case needs, as estimated."""
        return max((memory_estimate_bytes(one.case) for one in self.planned), default=0)

    @property
    def expected_s(self) -> float:
        """How long the run may take: workers' starts, ceilings, and the budget, or what its cases take at least.

        That is what comes before the clock starts, and the share of the budget that timing keeps however long that was.
        """
        starts = len(chunks(self.planned, one_worker=False)) * WORKER_START_SECONDS
        ahead_s = LEAST_BOUT_SECONDS * len(self.planned) + sum(map(_ahead_s, self.planned))
        bouts_s = max(self.budget_s, ahead_s + LEAST_SHARE * self.budget_s)
        return starts + CEILINGS_SECONDS * len(self.devices) + bouts_s


def _ahead_s(one: PlannedCase) -> float:
    """Seconds before the clock of a case starts, beyond the least."""
    case, several = one.case, len(one.implementations or ())
    if case.device != "cpu":
        return 0.0
    for_case, for_each = AHEAD_SECONDS[case.pass_]
    gflop = useful_flops(case, case.traffic.tokens * case.shape.active_experts) / 1e9
    return (for_case + several * for_each) * case.shape.total_params / 1e6 + (1 + several) * GFLOP_SECONDS * gflop


def make_plan(
    suite: str,
    description: str,
    planned: Sequence[PlannedCase],
    machine: Machine,
    *,
    only: tuple[str, ...] | None = None,
    own: tuple[str, ...] = (),
    budget_s: float | None = None,
) -> Plan:
    """Order cases by layer, name the implementations of each, and settle the budget.

    ``only`` keeps those implementations; a name nobody registered is refused wherever it comes from. One that is known
    but lacks something here is left out of the cases that name it. ``own`` come from files of the user's, which no
    suite can name: every case is asked of them.

    Raises
    ------
    ValueError
        naming the key and what there is.
    """
    known = tuple(machine.usable)
    check_only(only, machine)
    resolved = []
    not_here: dict[str, str] = {}
    for one in planned:
        asked = one.implementations if one.implementations is not None else known
        asked = tuple(dict.fromkeys((*asked, *own)))
        not_here |= {name: machine.missing[name] for name in asked if name in machine.missing}
        for name in asked:
            require(name in known or name in not_here, "implementation", name, "one of " + ", ".join(known))
        check_device("device", one.case.device, machine)
        names = tuple(name for name in asked if name in known and (only is None or name in only))
        if names:
            resolved.append(msgspec.structs.replace(one, implementations=names))
    if not resolved and not_here and not only:
        raise ValueError(f"suite = {suite!r}: {absences(not_here)}, and it asks for nothing else")
    require(bool(resolved), "--impl", ",".join(only or ()), f"{suite} asks for none of these")
    ordered = _by_layer(resolved)
    if budget_s is None:
        budget_s = sum(BOUT_SECONDS[one.case.device.partition(":")[0]] for one in ordered)
    return Plan(suite, description, tuple(ordered), budget_s, not_here)


def check_only(only: tuple[str, ...] | None, machine: Machine, key: str = "--impl") -> None:
    """Refuse names of implementations that nobody registered, or that lack something here.

    Raises
    ------
    ValueError
        with the key and what there is, or what it needs.
    """
    for name in only or ():
        require(name not in machine.missing, key, name, f"not here, needs {machine.missing.get(name)}")
        require(name in machine.usable, key, name, "one of " + ", ".join(machine.usable))


def check_device(key: str, device: str, machine: Machine) -> None:
    """Refuse a device that this machine does not have.

    Raises
    ------
    ValueError
        with the key under which it was given.
    """
    there = tuple(machine.environment.devices)
    allowed = "one of " + ", ".join(there)
    if device.startswith("cuda") and not any(name.startswith("cuda") for name in there):
        allowed += "; torch sees no CUDA device here, `moebench doctor` tells why"
    require(device in there or (device == "cuda" and "cuda:0" in there), key, device, allowed)


def absences(not_here: Mapping[str, str]) -> str:
    """Say which implementations were asked for but lack something here, and what."""
    return "not here: " + "; ".join(f"{name} needs {what}" for name, what in not_here.items())


def _by_layer(planned: Sequence[PlannedCase]) -> list[PlannedCase]:
    """Bring cases of one layer together, layers in the order of their first case, so that weights are built once."""
    layers: dict[str, list[PlannedCase]] = {}
    for one in planned:
        layers.setdefault(one.case.layer_key, []).append(one)
    return [one for layer in layers.values() for one in layer]


def remaining(planned: Sequence[PlannedCase], done: set[tuple[str, str]]) -> list[PlannedCase]:
    """Return what a run still lacks: each case with the implementations that have no record of it."""
    rest = []
    for one in planned:
        names = tuple(name for name in one.implementations or () if (one.case.case_id, name) not in done)
        if names:
            rest.append(msgspec.structs.replace(one, implementations=names))
    return rest
