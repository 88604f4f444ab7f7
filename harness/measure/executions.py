"""How a contestant is executed: eager, compiled by torch.compile, or replayed from a CUDA graph."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch

from harness.layer.inputs import Inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.cases.case import Case

Compute = Callable[[Inputs], "Tensor"]
"""What is timed: a call's inputs -> y (T, H)."""

CAPTURE_WARMUPS = 3


class CaptureError(RuntimeError):
    """What runs eagerly cannot be captured in a CUDA graph."""


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


def start_afresh(case: Case) -> None:
    """Forget what earlier cases compiled: torch.compile runs a function eagerly once it has compiled it eight times."""
    if case.execution == "compile":
        torch.compiler.reset()


def execute_as(case: Case, compute: Compute) -> Compute:
    """Wrap a contestant's work for the case's execution."""
    if case.execution == "compile":
        return cast("Compute", torch.compile(compute))
    if case.execution == "graph":
        return GraphedCompute(compute)
    return compute


class GraphedCompute:
    """Work captured in a CUDA graph at its first call, replayed on static buffers afterwards.

    Copying a call's inputs into the buffers is part of every replay and inside the time, as a server would pay it. The
    result is the graph's own buffer: it lasts until the next replay.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._graph: torch.cuda.CUDAGraph | None = None
        self._buffers: Inputs
        self._y: Tensor

    def __call__(self, inputs: Inputs) -> Tensor:
        """Replay on these inputs."""
        if self._graph is None:
            with torch.cuda.device(inputs.x.device):
                self._graph = self._capture(inputs)
        buffers = self._buffers.tensors()
        for name, tensor in inputs.tensors().items():
            buffers[name].copy_(tensor)
        self._graph.replay()
        return self._y

    def _capture(self, inputs: Inputs) -> torch.cuda.CUDAGraph:
        """Warm up on a side stream, as CUDA asks, and capture.

        Raises
        ------
        CaptureError
            where the work waits for the host or has shapes that follow from data.
        """
        self._buffers = inputs.clone()
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(CAPTURE_WARMUPS - 1):
                self._compute(self._buffers)
            with _never_waiting():
                self._compute(self._buffers)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with _as_capture_error(), torch.cuda.graph(graph):
                self._y = self._compute(self._buffers)
        finally:
            torch.cuda.set_stream(current)  # after a failed capture torch leaves its own stream current
        return graph


@contextlib.contextmanager
def _as_capture_error() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise CaptureError(f"cannot be captured in a CUDA graph: {error}") from error


@contextlib.contextmanager
def _never_waiting() -> Iterator[None]:
    """Let torch refuse what waits for the device. A capture would fail on it too, and spoil torch's allocator."""
    with _as_capture_error():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls the mode a prototype
                torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
