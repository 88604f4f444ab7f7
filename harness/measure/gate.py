"""The gate each implementation passes before it is timed, and again after: draws, oracles, poison, untouched inputs."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import torch

from harness.cases.cost import useful_flops
from harness.layer.inputs import Inputs, make_inputs
from harness.layer.oracle import Answer, solve
from harness.layer.weights import TORCH_DTYPES
from harness.measure.agreement import judge
from harness.measure.contestant import Contestant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.cases.case import Case
    from harness.layer.contract import Implementation
    from harness.layer.weights import Weights
    from harness.measure.clocks import Clock
    from harness.measure.contestant import Outputs
    from harness.records.record import Agreement

SAMPLED_ROWS = 128
"""Tokens looked at in every check but the first."""
WHOLE_CHECK_FLOPS = {"cpu": 3e11, "cuda": 3e15}
"""Above this work the first forward check samples tokens too: a few seconds of float64 on each device."""


class Disagreement(Exception):
    """An implementation does not compute the layer."""

    def __init__(self, agreement: Agreement) -> None:
        super().__init__(agreement.rule)
        self.agreement = agreement


@dataclass(frozen=True)
class Admission:
    """A contestant that passed, with what passing took."""

    contestant: Contestant
    agreement: Agreement
    prepare_ns: int
    first_call_ns: int


class Examiner:
    """Asks the questions of one case and knows the answers: oracle and reference for each draw, computed once."""

    def __init__(self, case: Case, weights: Weights) -> None:
        self.case = case
        self.weights = weights
        self.draw = functools.lru_cache(maxsize=4)(functools.partial(make_inputs, case, weights))
        self._answers: dict[tuple[int, bool], tuple[Answer, Answer]] = {}
        self._checksum = weights_checksum(weights)

    def admit(self, implementation: Implementation, clock: Clock) -> Admission:
        """Prepare an implementation and check it on two draws.

        The second draw tells a remembered answer from a computed one; the first is asked twice, to see whether the
        answer is deterministic.

        Raises
        ------
        Disagreement, ContractError
            and whatever the implementation raises.
        """
        start = clock.now_ns()
        contestant = Contestant(implementation, self.weights, self.case)
        clock.synchronise()
        prepared = clock.now_ns()
        with poisoned(self.case.device):
            agreement, outputs = self.check(contestant, 0, clock)
        called = clock.now_ns()
        again = self._ask(contestant, self.draw(0), clock)
        agreement.deterministic = all(torch.equal(outputs[name], again[name]) for name in outputs)
        del outputs, again
        second, _ = self.check(contestant, 1, clock)
        agreement.checks += second.checks
        if weights_checksum(self.weights) != self._checksum:
            agreement.passed, agreement.rule = False, "the layer's weights were changed by the call"
            raise Disagreement(agreement)
        return Admission(contestant, agreement, prepared - start, called - prepared)

    def check(self, contestant: Contestant, draw: int, clock: Clock) -> tuple[Agreement, Outputs]:
        """Ask one draw and judge the answer; draw 0 is checked whole, others on some tokens and without gradients.

        Raises
        ------
        Disagreement
            naming the rule that decided.
        """
        inputs = self.draw(draw)
        outputs = self._ask(contestant, inputs, clock)
        agreement = self.judge(contestant, draw, outputs)
        if not inputs.same_as(make_inputs(self.case, self.weights, draw)):
            agreement.passed, agreement.rule = False, "the call changed its inputs"
        if not agreement.passed:
            self.draw.cache_clear()
            raise Disagreement(agreement)
        return agreement, outputs

    def judge(self, contestant: Contestant, draw: int, outputs: Outputs) -> Agreement:
        """Hold outputs taken for a draw against its oracle."""
        rows = self._rows(draw)
        oracle, reference = self._answer(draw, contestant.is_baseline, contestant.inputs_for(self.draw(draw)))
        return judge(outputs, oracle, reference, rows)

    def _ask(self, contestant: Contestant, inputs: Inputs, clock: Clock) -> Outputs:
        call = contestant.call(inputs)
        results = call()
        clock.synchronise()
        return contestant.outputs(call, results)

    def _rows(self, draw: int) -> Tensor | None:
        """Which tokens a draw is checked on; None for all."""
        case, tokens = self.case, self.case.traffic.tokens
        whole = useful_flops(case, tokens * case.shape.active_experts)
        if draw == 0 and (case.pass_ == "training" or whole <= WHOLE_CHECK_FLOPS[case.device.partition(":")[0]]):
            return None
        generator = torch.Generator().manual_seed(draw)
        return torch.randperm(tokens, generator=generator)[:SAMPLED_ROWS].sort().values.to(case.device)

    def _answer(self, draw: int, baseline: bool, inputs: Inputs) -> tuple[Answer, Answer]:
        key = (draw, baseline)
        if key not in self._answers:
            rows = self._rows(draw)
            case = self.case if rows is None else msgspec.structs.replace(self.case, pass_="forward")
            self._answers = {old: answer for old, answer in self._answers.items() if old[0] in {0, draw}}
            oracle, reference = (
                solve(self.weights, case, inputs, dtype, rows, baseline=baseline)
                for dtype in (torch.float64, TORCH_DTYPES[self.case.dtype])
            )
            self._answers[key] = oracle, reference
        return self._answers[key]

    def forget(self, draw: int) -> None:
        """Free a draw's answers; gradients of a large layer are as large as the layer."""
        self._answers = {key: answer for key, answer in self._answers.items() if key[0] != draw}


def weights_checksum(weights: Weights) -> int:
    """Sum of all weights' bits as integers, one pass over memory."""
    total = 0
    for tensor in weights.parameters().values():
        flat = tensor.detach().reshape(-1)
        word = torch.int64 if flat.nbytes % 8 == 0 and flat.storage_offset() == 0 else torch.uint8
        total += int(flat.view(word).sum(dtype=torch.int64))
    return total


@contextlib.contextmanager
def poisoned(device: str) -> Iterator[None]:
    """Fill fresh memory with NaN while an implementation runs, so that rows it never writes show.

    torch fills what ``torch.empty`` returns when deterministic algorithms are on; a block that was filled with NaN and
    freed poisons what the allocator recycles.
    """
    block = torch.full((1 << 20,), float("nan"), device=device)
    del block
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
