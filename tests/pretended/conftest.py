"""A GPU that is not there, and what can be asked of it: cases and whole bouts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest
import torch

from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.layer.weights import make_weights
from harness.measure.bout import Bout
from harness.measure.clocks import clock_for
from harness.measure.surroundings import Surroundings
from harness.running.registry import registered
from tests.pretended.gpu import pretended

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.layer.contract import Implementation
    from harness.records.record import Record

for _name in ("loop", "einsum", "batched", "grouped", "soft", "dense", "peers.transformers"):
    importlib.import_module(f"impls.{_name}")


@pytest.fixture
def gpu() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors here are tiny
    with pretended():
        yield
    torch.set_num_threads(threads)


class Bench:
    """Bouts on the pretended GPU."""

    device = "cuda:0"

    def case(self, **given: Any) -> Case:
        shared: dict[str, Any] = {"shared_experts": 1, "shared_hidden": 24} if given.get("scope") == "layer" else {}
        shape = Shape(hidden=32, expert_hidden=24, experts=4, top_k=2, **shared)
        return Case(shape=shape, traffic=Traffic(tokens=12), **{"dtype": "bf16", "device": self.device, **given})

    def records(
        self, case: Case, implementations: Sequence[Implementation | str], budget_ns: float = 1e9, **around: Any
    ) -> dict[str, Record]:
        known = registered()
        asked = [known[one] if isinstance(one, str) else one for one in implementations]
        surroundings = Surroundings(
            clock=clock_for(case.device),
            note=lambda _name, _stage: None,
            environment_id="here",
            why_no_board="pretended",
            **around,
        )
        return {one.impl.name: one for one in Bout(case, make_weights(case), surroundings).run(asked, budget_ns)}


@pytest.fixture
def bench(gpu: None) -> Bench:
    return Bench()
