"""What is asked in a case, and what should come of it: the draws, the oracle's answers, their tolerances."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch

from harness.cases.cost import useful_flops
from harness.layer.inputs import make_inputs
from harness.layer.oracle import solve
from harness.layer.weights import TORCH_DTYPES
from harness.measure.agreement import Standard
from harness.measure.contestant import for_baseline
from harness.measure.tolerances import limits_of

if TYPE_CHECKING:
    from torch import Tensor

    from harness.cases.case import Case
    from harness.layer.inputs import Inputs
    from harness.layer.oracle import Answer
    from harness.layer.weights import Weights
    from harness.measure.tolerances import Limit

WHOLE_CHECK_FLOPS = {"cpu": 1e10, "cuda": 1e13}
"""Above this forward work the oracle computes some tokens only: less than a second of float64 on each device."""
SAMPLED_ROWS = 64
SPOT_ROWS = 4
SPOT_PARAMS = 2e8
"""Weights that a spot check may have to widen to float64, which is what it costs; but ``SPOT_ROWS`` tokens at least."""


class Answers:
    """Inputs of each draw of a case, and what they are judged by. The dense baseline computes a function of its own.

    Draw 0 is for the whole check: every token, and in training every gradient, against the oracle; where that is too
    much work, some tokens against the oracle and the others against the eager reference. Other draws are for spot
    checks: a few tokens' y, and in training the gradients that are theirs alone, with draw 0's tolerances.
    """

    def __init__(self, case: Case, weights: Weights) -> None:
        self.case = case
        self.weights = weights
        self.draw = functools.lru_cache(maxsize=2)(self.fresh)
        self._standards: dict[tuple[int, bool], Standard] = {}
        self._limits: dict[bool, dict[str, Limit]] = {}

    def fresh(self, draw: int) -> Inputs:
        """Make the inputs of a draw, for a timed call: they are not kept."""
        with torch.no_grad():  # in scope layer x is made with the router's matrix, which training differentiates
            return make_inputs(self.case, self.weights, draw)

    def prepare(self, *, baseline: bool) -> None:
        """Compute what the gate needs, so that no answer waits for its judgement."""
        for draw in (0, 1):
            self.standard(draw, baseline=baseline)

    def standard(self, draw: int, *, baseline: bool) -> Standard:
        """Return what the answers to a draw are held against; computed once."""
        key = (draw, baseline)
        if key not in self._standards:
            self._standards[key] = self._whole(baseline=baseline) if draw == 0 else self._spot(draw, baseline=baseline)
        return self._standards[key]

    def forget(self) -> None:
        """Free all answers; gradients of a large layer are as large as the layer. The tolerances stay."""
        self._standards.clear()

    def _whole(self, *, baseline: bool) -> Standard:
        rows = self._sampled_rows()
        inputs = self._inputs(0, baseline=baseline)
        reference = solve(self.weights, self.case, inputs, TORCH_DTYPES[self.case.dtype], baseline=baseline)
        oracle = self._oracle(inputs, rows, baseline=baseline)
        self._limits[baseline] = limits_of(self.case, oracle, reference, rows)
        return Standard(oracle, self._limits[baseline], rows, reference.tensors["y"])

    def _spot(self, draw: int, *, baseline: bool) -> Standard:
        if baseline not in self._limits:
            self.standard(0, baseline=baseline)
        rows = _some(self.case, spot_rows(self.case), draw)
        oracle = self._oracle(self._inputs(draw, baseline=baseline), rows, baseline=baseline)
        limits = {name: self._limits[baseline][name].for_some(name, self.case, oracle) for name in oracle.tensors}
        return Standard(oracle, limits, rows)

    def _oracle(self, inputs: Inputs, rows: Tensor | None, *, baseline: bool) -> Answer:
        return solve(self.weights, self.case, inputs, torch.float64, rows, baseline=baseline)

    def _inputs(self, draw: int, *, baseline: bool) -> Inputs:
        inputs = self.draw(draw)
        return for_baseline(inputs, self.case) if baseline else inputs

    def _sampled_rows(self) -> Tensor | None:
        """Which tokens the oracle computes of draw 0; None for all, as always in training: gradients need all."""
        case, tokens = self.case, self.case.traffic.tokens
        flops = useful_flops(case, tokens * case.shape.active_experts)
        if case.pass_ == "training" or flops <= WHOLE_CHECK_FLOPS[case.device.partition(":")[0]]:
            return None
        return _some(case, SAMPLED_ROWS, 0)


def spot_rows(case: Case) -> int:
    """How many tokens a spot check looks at: each may hit k more experts."""
    each = max(1, case.shape.active_experts * case.shape.expert_params)
    return max(SPOT_ROWS, min(SAMPLED_ROWS, int(SPOT_PARAMS / each)))


def _some(case: Case, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(case.traffic.tokens, generator=generator)[:count].sort().values.to(case.device)
