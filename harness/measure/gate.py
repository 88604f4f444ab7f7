"""The gate each implementation passes before it is timed, and the check of a timed answer after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from harness.measure.agreement import judge
from harness.measure.answers import Answers
from harness.measure.contestant import Contestant, ContractError, check_contract, check_own_memory
from harness.measure.poison import poisoned
from harness.measure.settings import read_settings, restore_settings
from harness.measure.tampering import changed_inputs, changed_weights, fingerprint, overwrite, restore_weights
from harness.records.record import Agreement

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.cases.case import Case
    from harness.layer.contract import Implementation
    from harness.layer.inputs import Inputs
    from harness.layer.weights import Weights
    from harness.measure.clocks import Clock
    from harness.measure.contestant import Outputs
    from harness.records.record import Chosen

SLOW_NS = 0.3e9
"""A call longer than this is not repeated to see whether its answers are always the same."""


class DisagreementError(Exception):
    """An implementation does not compute the layer."""

    def __init__(self, agreement: Agreement) -> None:
        super().__init__(agreement.rule)
        self.agreement = agreement


@dataclass(frozen=True)
class Admission:
    """A contestant that passed, with what passing took.

    ``call_ns`` is the shortest of its calls, the poisoned one left out where there was another. ``configuration`` is
    what it runs with, if it tells.
    """

    contestant: Contestant
    agreement: Agreement
    prepare_ns: int
    first_call_ns: int
    call_ns: int
    configuration: Chosen | None = None


class Asked(NamedTuple):
    """One answer, and the time it took."""

    outputs: Outputs
    wall_ns: int


class Examiner:
    """Asks the questions of one case and judges the answers."""

    def __init__(self, case: Case, weights: Weights) -> None:
        self.case = case
        self.weights = weights
        self.answers = Answers(case, weights)
        self._fingerprint = fingerprint(weights)

    def admit(self, implementation: Implementation, clock: Clock, note: Callable[[str], None]) -> Admission:
        """Prepare an implementation and ask it two draws, which lie in the same memory one after the other.

        The first call is executed as the case says and judged whole. The second draw tells a remembered answer from a
        computed one, and runs on poisoned memory: eagerly, because a graph would keep the poison. Then the first draw
        again, to see whether the answer is always the same. Weights and settings of the process that are no longer what
        they were are put back, for everybody else's sake.

        Raises
        ------
        DisagreementError, ContractError
            and whatever the implementation raises.
        """
        settings = read_settings()
        try:
            admission = self._examine(implementation, clock, note)
        finally:
            changed = restore_settings(settings)
            if weights := self.changed_weights():
                rule = f"the layer's weights were changed: {', '.join(weights)}"
                raise DisagreementError(Agreement(passed=False, rule=rule))
        if changed:
            said = f"changed {', '.join(changed)} for the whole process; it must be put back before a call returns"
            raise ContractError(said)
        return admission

    def _examine(self, implementation: Implementation, clock: Clock, note: Callable[[str], None]) -> Admission:
        note("prepare")
        start = clock.now_ns()
        contestant = Contestant(implementation, self.weights, self.case)
        clock.synchronise()
        prepare_ns = clock.now_ns() - start
        note("first call")
        desk = self.answers.draw(0).clone()
        first = self._ask(contestant, desk, clock)
        agreement = self._pass(contestant, 0, desk, first.outputs)
        note("poisoned call")
        desk = overwrite(desk, self.answers.draw(1))
        with poisoned(self.case.device):
            second = self._ask(contestant, desk, clock, plain=True)
        agreement.checks += self._pass(contestant, 1, desk, second.outputs).checks
        check_fresh(first.outputs, second.outputs)
        if self.case.execution != "eager":
            note("second call")
            second = self._ask(contestant, desk, clock)
            agreement.checks += self._pass(contestant, 1, desk, second.outputs).checks
        call_ns = min(first.wall_ns, second.wall_ns)  # the first one may have compiled
        del second  # its gradients are as large as the weights
        if call_ns < SLOW_NS:
            note("repeated call")
            again = self._ask(contestant, overwrite(desk, self.answers.draw(0)), clock)
            agreement.deterministic = all(torch.equal(y, again.outputs[name]) for name, y in first.outputs.items())
            call_ns = min(first.wall_ns, again.wall_ns)  # poison takes its time
        return Admission(contestant, agreement, prepare_ns, first.wall_ns, call_ns, contestant.configuration())

    def check_timed(self, contestant: Contestant, draw: int, outputs: Outputs) -> Agreement:
        """Judge what a timed call gave token by token, now that the clock has stopped.

        Raises
        ------
        DisagreementError
            naming the rule that decided.
        """
        standard = self.answers.standard(draw, baseline=contestant.is_baseline)
        agreement = judge(outputs, standard)
        if not agreement.passed:
            agreement.rule = f"a timed call, checked after the clock stopped: {agreement.rule}"
            raise DisagreementError(agreement)
        return agreement

    def changed_weights(self) -> list[str]:
        """Name the weights that were changed since the start, and put them back, for everybody else's sake."""
        changed = changed_weights(self.weights, self._fingerprint)
        if changed:
            restore_weights(self.weights, self.case)
        return changed

    def _ask(self, contestant: Contestant, inputs: Inputs, clock: Clock, *, plain: bool = False) -> Asked:
        """Call once; y is copied at once, so that nobody writes to it after the clock has stopped."""
        call = contestant.call(inputs, plain=plain)
        clock.synchronise()
        sample = clock.time([call])
        check_contract(sample.result[0], inputs.x)
        check_own_memory(sample.result[0], inputs, self.weights)
        y = sample.result[0].detach().clone()
        return Asked({**call.outputs(sample.result), "y": y}, sample.wall_ns)

    def _pass(self, contestant: Contestant, draw: int, desk: Inputs, outputs: Outputs) -> Agreement:
        """Judge one draw's answer, and whether the inputs are still what they were."""
        agreement = judge(outputs, self.answers.standard(draw, baseline=contestant.is_baseline))
        if changed := changed_inputs(desk, self.answers.draw(draw)):
            agreement.passed, agreement.rule = False, f"the call changed its inputs: {', '.join(changed)}"
        if not agreement.passed:
            raise DisagreementError(agreement)
        return agreement


def check_fresh(first: Outputs, second: Outputs) -> None:
    """Hold one draw's outputs against another's: gradients that are sums over tokens are judged whole in one draw only.

    Raises
    ------
    DisagreementError
        naming a gradient that is not zero and the same in both.
    """
    for name, gradient in second.items():
        if bool(gradient.any()) and torch.equal(gradient, first[name]):
            rule = f"{name}: the gradient is the same for other inputs"
            raise DisagreementError(Agreement(passed=False, rule=rule))
