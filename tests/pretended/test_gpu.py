"""The pretended GPU refuses what a real one refuses. Otherwise what runs on it would prove nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("gpu")


def far(*size: int) -> Tensor:
    return torch.ones(*size, device="cuda")


def test_its_tensors_say_where_they_are() -> None:
    made = far(3, 2), torch.ones(3, 2).to("cuda:0"), torch.empty_like(far(3)), far(3, 2).t()[0], far(2).new_zeros(4)
    assert all(one.is_cuda and one.device == torch.device("cuda:0") for one in made)
    assert torch.ones(2).device.type == far(2).cpu().device.type == "cpu"


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: far(3) + torch.ones(3),
        lambda: torch.mm(far(2, 2), torch.ones(2, 2)),
        lambda: torch.ones(4)[torch.arange(2, device="cuda")],
        lambda: far(3).add_(torch.arange(3)),
        lambda: torch.cat([far(3), torch.ones(3)]),
    ],
    ids=["sum", "product", "index", "in place", "list"],
)
def test_two_devices_do_not_mix(mixed: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        mixed()


def test_a_number_may_come_from_anywhere() -> None:
    assert (far(3) * torch.tensor(2.0)).tolist() == [2.0, 2.0, 2.0]


WAITS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy_": lambda x: torch.empty(3).copy_(x),
    "upload": lambda x: x.copy_(torch.ones(3)),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "repeats": lambda x: x.repeat_interleave(x.long()),
    "truth": lambda x: bool((x > 0).all()),
}


@pytest.mark.parametrize("waits", WAITS.values(), ids=WAITS)
def test_it_tells_who_waits(waits: Callable[[Tensor], Any]) -> None:
    x = far(3)
    waits(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            waits(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(RuntimeError, match="capturing"):
        waits(x)


def test_a_graph_runs_again_on_the_same_memory() -> None:
    x, graph = far(2, 8), torch.cuda.CUDAGraph()
    total = far(2)
    with torch.cuda.graph(graph):
        y = (x.view(4, 4).t() * 2).relu().sum(1)
        total.add_(1)
    x.fill_(3.0)
    assert y.tolist() == [8.0] * 4
    graph.replay()
    assert y.tolist() == [24.0] * 4
    assert total.tolist() == [3.0, 3.0]


def test_gradients_stay_there() -> None:
    x, w = far(4, 3).requires_grad_(), far(2, 3).to(torch.bfloat16).requires_grad_()
    index = torch.tensor([0, 2], device="cuda")
    y = torch.nn.functional.linear(x[index].to(torch.bfloat16), w)
    gradients = torch.autograd.grad(y, (x, w), torch.ones_like(y))
    assert all(one.is_cuda for one in gradients)
    assert gradients[0].tolist() == [[2.0] * 3, [0.0] * 3, [2.0] * 3, [0.0] * 3]
