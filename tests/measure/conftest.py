"""A bench for the measuring rooms: a clock that tells what it is told, implementations made by hand, a layer to run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.cases.case import Case
from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic
from harness.layer.contract import Forward, Implementation, Layer, Routing
from harness.layer.weights import Weights, make_weights
from harness.measure.bout import Bout
from harness.measure.clocks import Sample
from harness.measure.gate import Admission, DisagreementError, Examiner
from harness.measure.surroundings import Surroundings

if TYPE_CHECKING:
    from harness.records.record import Record

Prepare = Callable[[Layer], Forward]


class FakeClock:
    """Time passes only when somebody says so."""

    name = "wall"

    def __init__(self) -> None:
        self.now = 0

    def now_ns(self) -> int:
        return self.now

    def synchronise(self) -> None:
        pass

    def time(self, calls: Any) -> Sample:
        start, result = self.now, None
        for call in calls:
            result = call()
        return Sample(self.now - start, None, result)

    def advance(self, nanoseconds: float) -> None:
        self.now += int(nanoseconds)


def experts(layer: Layer, x: Tensor, routing: Routing) -> Tensor:
    """The layer as its definition reads, one expert after the other, in x's dtype."""
    bias_in, bias_out = layer.proj_in_bias, layer.down_bias
    y = torch.zeros_like(x)
    # Without a token anywhere expert 0 keeps y a function of x and of the weights.
    for expert in [e for e in routing.expert_ids.unique().tolist() if e < layer.shape.experts] or [0]:
        tokens, slots = torch.where(routing.expert_ids == expert)
        hidden = F.linear(x[tokens], layer.proj_in[expert], None if bias_in is None else bias_in[expert])
        out = F.linear(layer.activate(hidden), layer.down[expert], None if bias_out is None else bias_out[expert])
        y = y.index_add(0, tokens, out * routing.weights[tokens, slots, None].to(x.dtype))
    return y


def correct(layer: Layer) -> Forward:
    return lambda x, routing: experts(layer, x, routing)


def plain_ffn(layer: Layer) -> Forward:
    """The dense baseline's function: experts 0..k-1 with weight 1, whatever the routing says."""

    def forward(x: Tensor, routing: Routing) -> Tensor:
        k = layer.shape.active_experts
        ids = torch.arange(k, device=x.device).expand(len(x), k)
        return experts(layer, x, Routing(ids, torch.ones(len(x), k, device=x.device)))

    return forward


def never_asking(layer: Layer) -> Forward:
    """The layer without a question to the host, so that a CUDA graph can hold it: all experts on all tokens."""

    def forward(x: Tensor, routing: Routing) -> Tensor:
        weights = x.new_zeros(len(x), layer.shape.experts + 1).scatter(
            1, routing.expert_ids, routing.weights.to(x.dtype)
        )
        hidden = layer.activate(torch.einsum("th,eih->tei", x, layer.proj_in))
        return torch.einsum("tei,ehi->th", hidden * weights[:, :-1, None], layer.down)

    return forward


@dataclass
class Kit:
    """Cases, implementations, and a shortcut to each way of measuring them."""

    clock: FakeClock = field(default_factory=FakeClock)
    notes: list[tuple[str, str]] = field(default_factory=list)
    correct: Prepare = correct
    plain_ffn: Prepare = plain_ffn
    never_asking: Prepare = never_asking
    experts: Callable[[Layer, Tensor, Routing], Tensor] = experts

    def case(self, tokens: int = 12, **given: Any) -> Case:
        """A small case; keys of Shape, Router, Traffic and Case in one list."""
        sizes: dict[str, Any] = {"hidden": 32, "expert_hidden": 24, "experts": 4, "top_k": 2}
        router: dict[str, Any] = {"kind": given.pop("router", "softmax")}
        router |= {key: given.pop(key) for key in list(given) if key in Router.__struct_fields__}
        traffic = {key: given.pop(key) for key in ("spread", "seed") if key in given}
        sizes |= {key: given.pop(key) for key in list(given) if key in Shape.__struct_fields__}
        given = {"dtype": "fp32", **given}
        return Case(shape=Shape(**sizes, router=Router(**router)), traffic=Traffic(tokens=tokens, **traffic), **given)

    def implementation(self, prepare: Prepare = correct, name: str = "mine", **given: Any) -> Implementation:
        values: dict[str, Any] = {
            "name": name,
            "family": "loop",
            "prepare": prepare,
            "devices": ("cpu", "cuda"),
            "passes": ("forward", "training"),
            "dtypes": ("fp32", "bf16", "fp16"),
            "version": "1",
            "summary": "by hand",
            "source_hash": "0",
            "origin": "tests",
        }
        return Implementation(**{**values, **given})

    def costing(self, nanoseconds: float | Callable[[int], float], prepare: Prepare = correct) -> Prepare:
        """The same work, taking so much of the fake clock's time; a function is given the number of the call."""

        def prepared(layer: Layer) -> Forward:
            forward, count = prepare(layer), itertools.count()

            def timed(x: Tensor, routing: Routing) -> Tensor:
                number = next(count)
                self.clock.advance(nanoseconds(number) if callable(nanoseconds) else nanoseconds)
                return forward(x, routing)

            return timed

        return prepared

    def examiner(self, case: Case, weights: Weights | None = None) -> Examiner:
        examiner = Examiner(case, weights or make_weights(case))
        for baseline in (False, True):
            examiner.answers.prepare(baseline=baseline)
        return examiner

    def admit(self, prepare: Prepare, case: Case, **given: Any) -> Admission:
        implementation = self.implementation(prepare, **given)
        return self.examiner(case).admit(implementation, self.clock, lambda stage: self.notes.append(("", stage)))

    def refused(self, prepare: Prepare, case: Case, **given: Any) -> str:
        """The rule by which the gate turns an implementation away."""
        with pytest.raises(DisagreementError) as caught:
            self.admit(prepare, case, **given)
        agreement = caught.value.agreement
        assert not agreement.passed
        return agreement.rule

    def around(self, **given: Any) -> Surroundings:
        values: dict[str, Any] = {
            "clock": self.clock,
            "note": lambda name, stage: self.notes.append((name, stage)),
            "environment_id": "here",
            "why_no_board": "no board in a test",
        }
        return Surroundings(**{**values, **given})

    def bout(
        self,
        implementations: list[Implementation],
        case: Case | None = None,
        budget_ns: float = 1e9,
        around: Surroundings | None = None,
    ) -> dict[str, Record]:
        case = case or self.case()
        records = Bout(case, make_weights(case), around or self.around()).run(implementations, budget_ns)
        assert [record.impl.name for record in records] == [implementation.name for implementation in implementations]
        return {record.impl.name: record for record in records}


@pytest.fixture
def kit() -> Kit:
    return Kit()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors here are small; threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
