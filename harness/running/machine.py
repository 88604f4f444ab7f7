"""What this machine has: devices, implementations, environment. A worker finds out, so the parent needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.running import jobs
from harness.running.child import NOTHING_MORE, Limits, ask
from harness.running.environment import assemble, parent_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.records.environment import Ceilings, Environment
    from harness.running.child import Death, Outfit


class MachineError(Exception):
    """A worker could not even look around; the message says what it printed."""


@dataclass(frozen=True)
class Machine:
    """What was found. ``skip`` are modules whose import ends a process, and how; ``facts`` is what ``doctor`` needs.

    ``files`` are the user's own, which every worker imports after the declared modules.
    """

    environment: Environment
    listed: dict[str, jobs.Listed]
    skip: dict[str, str]
    facts: dict[str, object]
    files: tuple[str, ...] = ()

    @property
    def usable(self) -> dict[str, jobs.Listed]:
        """Implementations that could be imported."""
        return {name: one for name, one in self.listed.items() if not one.broken and not one.missing}

    @property
    def missing(self) -> dict[str, str]:
        """Implementations that lack something here, and what they need."""
        return {name: one.missing for name, one in self.listed.items() if one.missing}

    @property
    def best_device(self) -> str:
        """The first GPU, or the CPU."""
        return next((name for name in self.environment.devices if name.startswith("cuda")), "cpu")


def look_around(
    limits: Limits | None = None,
    outfit: Outfit = NOTHING_MORE,
    skip: Mapping[str, str] | None = None,
    files: tuple[str, ...] = (),
) -> Machine:
    """Probe this machine; a module that takes the worker down on import is left out and listed as broken.

    ``skip`` are modules to leave out from the start, and why; ``files`` are the user's own, by absolute path.

    Raises
    ------
    MachineError
        when the worker dies of something else.
    """
    limits = limits or Limits()
    skip = dict(skip or {})
    while True:
        heard, death = ask(jobs.ProbeJob(skip=skip, files=files), limits, outfit)
        found = next((one for one in heard if isinstance(one, jobs.ProbeOutcome)), None)
        if found:
            listed = {one.name: one for one in found.implementations}
            return Machine(assemble(parent_facts(), found.devices), listed, skip, found.facts, files)
        if death is None or death.last.stage != "import" or death.last.impl in skip:
            raise MachineError(_complaint("looking for devices and implementations", death, limits))
        skip[death.last.impl] = death.reason(limits)


def measure_ceilings(device: str, dtypes: tuple[str, ...], limits: Limits) -> Ceilings:
    """Measure a device's ceilings in a worker.

    Raises
    ------
    MachineError
        when the worker dies.
    """
    heard, death = ask(jobs.CeilingsJob(device=device, dtypes=dtypes), limits)
    for outcome in heard:
        if isinstance(outcome, jobs.CeilingsOutcome):
            return outcome.ceilings
    raise MachineError(_complaint(f"measuring the ceilings of {device}", death, limits))


def _complaint(doing: str, death: Death | None, limits: Limits) -> str:
    if death is None:
        return f"the worker ended without an answer while {doing}"
    return f"the worker died while {doing}: {death.reason(limits)}\n{death.log_tail}"
