"""What a stream of a GPU holds its host to: no waiting where that was forbidden, and graphs captured and replayed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch as dispatching
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Graph:
    """What ran while it was captured, to be run again on the same memory."""

    capturing: list[Graph] = []  # noqa: RUF012 (torch has one state of capture, too)

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []

    def replay(self) -> None:
        with aside(), torch.no_grad():
            for step in self.steps:
                step()

    def keep(self, func: Any, args: Any, kwargs: Any, outputs: Any) -> None:
        """What an operation returned stays where it is; replayed, it is written anew. Views follow by themselves."""

        def again() -> None:
            found = func(*args, **kwargs)
            for old, new in zip(tensors(outputs), tensors(found), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)

        if not getattr(func, "is_view", False):
            self.steps.append(again)


@contextlib.contextmanager
def capture(graph: Graph) -> Iterator[None]:
    Graph.capturing.append(graph)
    try:
        yield
    finally:
        Graph.capturing.remove(graph)


class Waiting:
    """Whether the host may wait, as ``torch.cuda.set_sync_debug_mode`` has it."""

    forbidden = False


def host_waits(why: str) -> None:
    if Graph.capturing:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {why}")
    if Waiting.forbidden:
        raise RuntimeError(f"called a synchronizing CUDA operation: {why}")


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Nobody looks on."""
    with dispatching._disable_current_modes(), torch._C.DisableTorchFunction():
        yield


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
