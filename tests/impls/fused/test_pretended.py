"""The fused kernels on a pretended GPU of compute capability 9.0, with the tiles it would run with by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from impls.fused.defaults import default
from impls.fused.forward import FusedForward
from tests.pretended.gpu import pretended

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = {"hidden": 64, "expert_hidden": 48, "experts": 4, "bias": True}


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    with pretended():
        yield


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("pass_", ["forward", "training"])
@pytest.mark.parametrize("tokens", [0, 1, 12, 70])
def test_never_leaves_the_device_and_never_waits(lab: Any, tokens: int, pass_: str, dtype: str) -> None:
    problem = lab.problem(tokens, device="cuda:0", dtype=dtype, pass_=pass_, **SIZES)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = lab.ask("fused", problem)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lab.assert_agrees("fused", problem, got)


@pytest.mark.parametrize("persistent", [(), ("first", "second", "grad_hidden", "grad_input")], ids=["", "persistent"])
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_through_tma(lab: Any, through_tma: Any, pass_: str, persistent: tuple[str, ...]) -> None:
    """Descriptors are of tensors on the device; as many programs as 132 multiprocessors hold."""
    problem = lab.problem(70, device="cuda:0", dtype="bf16", pass_=pass_, **SIZES)
    case, capability = problem.case, torch.cuda.get_device_capability()
    tiles = default(case.shape, case.traffic.tokens, case.dtype, pass_, capability)
    copied = through_tma(tiles, case, persistent, capability)
    assert copied.first.tma
    lab.assert_agrees("fused", problem, lab.ask("fused", problem, FusedForward(problem.weights.layer, copied)))


@pytest.mark.parametrize("tokens", [3, 70])
def test_a_graph_follows_other_tokens_and_routing(lab: Any, tokens: int) -> None:
    """Nothing about the first tokens is decided on the host."""
    problem = lab.problem(tokens, device="cuda:0", dtype="bf16", pass_="forward", **SIZES)
    x, routing = problem.inputs.x, problem.inputs.routing
    forward, graph = FusedForward(problem.weights.layer), torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        y = forward(x, routing)
    x.neg_()
    routing.expert_ids.copy_(routing.expert_ids.flip(0))
    routing.weights.copy_(routing.weights.flip(0))
    graph.replay()
    lab.assert_agrees("fused", problem, {"y": y})
