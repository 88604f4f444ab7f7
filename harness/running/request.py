"""What a person asked for on the command line, turned into a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.cases.axes import parse_override
from harness.cases.huggingface import shape_from_config
from harness.cases.keys import LAYER_KEYS
from harness.cases.shipped import find_suite
from harness.cases.suite import load_suite, located, parse_budget, those_that_fit
from harness.running.child import available_memory_bytes
from harness.running.files import choose
from harness.running.plan import check_device, check_only, make_plan

if TYPE_CHECKING:
    from harness.cases.axes import Value
    from harness.running.machine import Machine
    from harness.running.plan import Plan


@dataclass(frozen=True)
class Request:
    """The words of ``moebench run`` and ``moebench plan``, as given; empty where left out."""

    suite: str
    impl: str = ""
    device: str = ""
    budget: str = ""
    overrides: tuple[str, ...] = ()
    model: str = ""

    def plan(self, machine: Machine) -> Plan:
        """Resolve against what this machine has.

        Raises
        ------
        ValueError
            one line naming file, key and what is allowed.
        """
        chosen = choose(self.impl, machine)
        check_only(chosen.only, machine)
        axes = self._axes(machine)
        layer = {key: values for key, values in axes.items() if key in LAYER_KEYS}
        suite = load_suite(find_suite(self._suite_name(machine)), layer)
        budget_s = parse_budget(self.budget) if self.budget else None
        left_out: list[str] = []
        cases = suite.cases(machine.best_device, axes, left_out)
        with located(str(suite.path)):
            cases, too_large = those_that_fit(cases, available_memory(machine))
            made = make_plan(
                suite.name,
                suite.description,
                cases,
                machine,
                only=chosen.only,
                own=chosen.own,
                budget_s=budget_s or suite.budget_s,
            )
            return replace(made, left_out=(*left_out, *too_large), published=suite.published)

    def _suite_name(self, machine: Machine) -> str:
        if self.suite != "auto":
            return self.suite
        on_gpu = (self.device or machine.best_device).startswith("cuda")
        return "reference" if on_gpu else "quick"

    def _axes(self, machine: Machine) -> dict[str, tuple[Value, ...]]:
        """Return the axes that options replace, checked where the suite's name would only mislead."""
        for device in self.device.split(",") if self.device else ():
            check_device("--device", device.strip(), machine)
        for model in self.model.split(",") if self.model else ():
            with located("--model"):
                shape_from_config(model.strip())
        given = list(self.overrides)
        if self.device:
            given.append(f"device={self.device}")
        if self.model:
            given.append(f"model={self.model}")
        return {key: tuple(values) for key, values in map(parse_override, given)}


def available_memory(machine: Machine) -> dict[str, int]:
    """Bytes a case may need, by device: nine tenths of what is free on the host, and of a GPU's memory."""
    devices = machine.environment.devices
    gpus = {name: int(0.9 * device.memory_bytes) for name, device in devices.items() if device.kind != "cpu"}
    return {"cpu": available_memory_bytes(), **gpus}
