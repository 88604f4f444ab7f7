"""How a prepared forward is executed: eager, compiled by torch.compile, or replayed from a CUDA graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from harness.layer.contract import Routing

if TYPE_CHECKING:
    from torch import Tensor

    from harness.cases.case import Case
    from harness.layer.contract import Forward


def execution_refuses(case: Case) -> str | None:
    """Why a case's execution cannot run at all, whatever the implementation; None when it can."""
    if case.execution == "graph":
        if not case.device.startswith("cuda"):
            return "CUDA graphs need a CUDA device"
        if case.pass_ == "training":
            return "CUDA graphs are taken of the forward pass only"
        if case.shape.router.kind == "expert_choice":
            return "CUDA graphs need fixed shapes; under expert choice the slots per token vary from call to call"
    return None


def execute_as(case: Case, forward: Forward) -> Forward:
    """Wrap a forward for the case's execution."""
    if case.execution == "compile":
        return cast("Forward", torch.compile(forward))
    if case.execution == "graph":
        return GraphedForward(forward)
    return forward


class GraphedForward:
    """A forward captured in a CUDA graph at its first call, replayed on static buffers afterwards.

    Copying a call's inputs into the buffers is part of every replay and inside the time, as a server would pay it.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._graph: torch.cuda.CUDAGraph | None = None
        self._x: Tensor
        self._routing: Routing
        self._y: Tensor

    def __call__(self, x: Tensor, routing: Routing) -> Tensor:
        """Replay on these inputs; the result is copied out, so that a later call does not overwrite it."""
        if self._graph is None:
            self._capture(x, routing)
        assert self._graph is not None
        self._x.copy_(x)
        self._routing.expert_ids.copy_(routing.expert_ids)
        self._routing.weights.copy_(routing.weights)
        self._graph.replay()
        return self._y.clone()

    def _capture(self, x: Tensor, routing: Routing) -> None:
        """Warm up on a side stream, as CUDA asks, and capture. Raises RuntimeError where the forward synchronises."""
        self._x = x.clone()
        self._routing = Routing(routing.expert_ids.clone(), routing.weights.clone())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._forward(self._x, self._routing)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._y = self._forward(self._x, self._routing)
        self._graph = graph
