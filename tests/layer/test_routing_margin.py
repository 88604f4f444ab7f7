"""The margin tells which tokens a small error of the logits may send elsewhere, and only those."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.cases.shape import ROUTER_KINDS, Router, Shape
from harness.layer.routers import route, routing_margin

TOKEN_CHOICE = {
    "softmax": Router(renormalise=True),
    "softmax, groups": Router(groups=4, top_groups=2),
    "softmax, bias": Router(selection_bias=True),
    "topk_softmax": Router(kind="topk_softmax"),
    "sigmoid": Router(kind="sigmoid"),
    "sigmoid, bias": Router(kind="sigmoid", selection_bias=True),
    "sigmoid, groups": Router(kind="sigmoid", groups=4, top_groups=2),
    "sigmoid, groups, bias": Router(kind="sigmoid", groups=4, top_groups=2, selection_bias=True),
    "noisy_topk": Router(kind="noisy_topk"),
}


def make_shape(router: Router, experts: int = 16, top_k: int = 3) -> Shape:
    return Shape(hidden=4, expert_hidden=4, experts=experts, top_k=top_k, router=router)


def chosen(logits: Tensor, shape: Shape, bias: Tensor | None = None) -> Tensor:
    """(T, E + 1) bool: which experts each token goes to."""
    ids = route(logits, shape, selection_bias=bias).expert_ids
    return torch.zeros(len(logits), shape.experts + 1, dtype=torch.bool).scatter(1, ids, True)[:, : shape.experts]


@pytest.mark.parametrize("name", [*TOKEN_CHOICE, "expert_choice"])
@pytest.mark.parametrize("size", [1e-3, 1e-2])
def test_errors_below_the_margin_change_no_choice(name: str, size: float) -> None:
    torch.manual_seed(0)
    router = TOKEN_CHOICE.get(name, Router(kind="expert_choice"))
    shape, logits = make_shape(router), torch.randn(400, 16, dtype=torch.float64)
    bias = 0.1 * torch.randn(16, dtype=torch.float64) if router.selection_bias else None
    margin = routing_margin(logits, shape, selection_bias=bias)
    safe = margin > (4 if name == "expert_choice" else 2) * size
    assert 0.2 < safe.double().mean() < 1
    before, flips = chosen(logits, shape, bias), torch.zeros(400, dtype=torch.bool)
    for _ in range(20):
        moved = logits + size * (2 * torch.rand_like(logits) - 1)
        flips |= (chosen(moved, shape, bias) != before).any(1)
    assert not flips[safe].any()
    assert flips.any(), "errors of this size flip some token, or the test shows nothing"
    assert margin[flips].mean() < margin[~flips].mean()


def test_margin_is_the_distance_of_the_kth_from_the_next_logit() -> None:
    logits = torch.tensor([[4.0, 1.0, 2.5, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert routing_margin(logits, make_shape(Router(), 4, 2)).tolist() == [0.5, 0.0]
    switch = make_shape(Router(kind="switch"), 4, 1)
    assert routing_margin(logits, switch).tolist() == [1.5, 0.0]


def test_margin_of_a_biased_sigmoid_is_in_biased_scores() -> None:
    logits, bias = torch.tensor([[0.0, 1.0, -1.0, 0.5]]), torch.tensor([0.5, 0.0, 0.0, 0.0])
    scores = (torch.sigmoid(logits) + bias).sort(descending=True).values
    shape = make_shape(Router(kind="sigmoid", selection_bias=True), 4, 2)
    torch.testing.assert_close(routing_margin(logits, shape, selection_bias=bias), scores[:, 1] - scores[:, 2])


def test_with_groups_the_smaller_distance_counts() -> None:
    router = Router(groups=2, top_groups=1)
    close_groups = torch.tensor([[5.0, 1.0, 4.9, 0.0]])
    close_experts = torch.tensor([[5.0, 4.8, 1.0, 0.0]])
    for logits, expected in ((close_groups, 0.1), (close_experts, 0.2)):
        torch.testing.assert_close(routing_margin(logits, make_shape(router, 4, 1)), torch.tensor([expected]))


@pytest.mark.parametrize(
    ("router", "experts", "top_k"),
    [
        (Router(), 4, 4),
        (Router(kind="mixture"), 4, 2),
        (Router(kind="expert_choice"), 4, 4),
        (Router(kind="sigmoid", groups=2, top_groups=2), 4, 4),
    ],
)
def test_margin_is_infinite_without_an_alternative(router: Router, experts: int, top_k: int) -> None:
    margin = routing_margin(torch.randn(5, experts), make_shape(router, experts, top_k))
    assert margin.tolist() == [float("inf")] * 5


def test_taking_all_of_the_kept_groups_leaves_only_the_group_margin() -> None:
    router = Router(groups=2, top_groups=1)
    margin = routing_margin(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), make_shape(router, 4, 2))
    torch.testing.assert_close(margin, torch.tensor([1.0]))


def test_margin_of_expert_choice_is_the_distance_from_the_nearest_cut() -> None:
    logits = torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, -1.0], [0.0, -3.0]], dtype=torch.float64)
    log_p = torch.log_softmax(logits, 1)
    margin = routing_margin(logits, make_shape(Router(kind="expert_choice"), 2, 1))
    first_cut, second_cut = (log_p[2, 0] - log_p[1, 0]), (log_p[1, 1] - log_p[2, 1])
    assert margin[1].item() == pytest.approx(min(first_cut, second_cut).item())
    assert margin[2].item() == pytest.approx(min(first_cut, second_cut).item())
    assert margin[0] > margin[1]
    assert margin[3] > margin[2]


@pytest.mark.parametrize("kind", ROUTER_KINDS)
def test_no_tokens_have_no_margins(kind: str) -> None:
    settings: dict[str, Any] = {"kind": kind}
    if kind in {"softmax", "sigmoid"}:
        settings |= {"groups": 2, "top_groups": 1}
    shape = make_shape(Router(**settings), 8, 1)
    assert routing_margin(torch.zeros(0, 8), shape).shape == (0,)
    assert route(torch.zeros(0, 8), shape).expert_ids.shape == (0, 8 if kind == "mixture" else 1)
