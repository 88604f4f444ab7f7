"""The two gathers against autograd's own gradient of indexing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.layer.contract import Routing
from impls import batched, grouped
from impls._dispatch import Placement, combine_rows, dense_weights, gather_tokens, side_by_side, sort_slots

EXPERTS = 5


def random_routing(tokens: int, seed: int) -> Routing:
    """K = 3, about one slot in four dropped."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.rand(tokens, EXPERTS, generator=generator).argsort(1)[:, :3]
    ids = torch.where(torch.rand(ids.shape, generator=generator) < 0.25, EXPERTS, ids)
    weights = torch.rand(ids.shape, generator=generator)
    return Routing(ids, torch.where(ids < EXPERTS, weights, 0.0))


def place(kind: str, routing: Routing) -> Placement:
    found = batched._place(routing, EXPERTS) if kind == "batched" else grouped._place(routing, EXPERTS)
    return found[0]


@settings(deadline=None)
@given(tokens=st.integers(0, 20), seed=st.integers(0, 1000))
def test_slots_are_sorted_and_counted(tokens: int, seed: int) -> None:
    routing = random_routing(tokens, seed)
    ids, order, ends = sort_slots(routing, EXPERTS)
    flat = routing.expert_ids.flatten()
    assert torch.equal(ids, flat[order])
    assert torch.equal(order, flat.argsort(stable=True))
    assert ends.tolist() == [int((flat <= expert).sum()) for expert in range(EXPERTS)]
    assert ends.dtype == torch.int32


@pytest.mark.parametrize("kind", ["batched", "grouped"])
@settings(deadline=None)
@given(tokens=st.integers(0, 20), seed=st.integers(0, 1000))
def test_rows_and_slots_point_at_each_other(kind: str, tokens: int, seed: int) -> None:
    routing = random_routing(tokens, seed)
    row_tokens, slots, rows, kept = place(kind, routing)
    assert torch.equal(kept, routing.expert_ids < EXPERTS)
    assert torch.equal(slots[rows[kept]], torch.arange(tokens * 3).view(tokens, 3)[kept])
    assert torch.equal(row_tokens[rows[kept]], torch.arange(tokens)[:, None].expand(tokens, 3)[kept])
    assert not rows[~kept].any()
    assert ((row_tokens >= 0) & (row_tokens < max(tokens, 1))).all()


@pytest.mark.parametrize("kind", ["batched", "grouped"])
@pytest.mark.parametrize("tokens", [0, 1, 11])
def test_gathers_are_each_others_transpose(kind: str, tokens: int) -> None:
    """Values and gradients as plain indexing gives them, NaN in every row that no slot owns."""
    routing = random_routing(tokens, seed=4)
    placement = place(kind, routing)
    x = torch.randn(tokens, 6, dtype=torch.float64, requires_grad=True)
    weights = routing.weights.double().requires_grad_()
    owned = torch.zeros(len(placement.tokens), dtype=torch.bool)
    owned[placement.rows[placement.kept]] = True
    owned[:1] = True

    def ours(x: Tensor, weights: Tensor) -> Tensor:
        rows = gather_tokens(x, placement)
        return combine_rows(torch.where(owned[:, None], rows * 2, float("nan")), weights, placement)

    def plain(x: Tensor, weights: Tensor) -> Tensor:
        return 2 * x * torch.where(placement.kept, weights, 0).sum(1, keepdim=True)

    dy = torch.randn(tokens, 6, dtype=torch.float64)
    results = []
    for function in (ours, plain):
        y = function(x, weights)
        results.append((y, *torch.autograd.grad(y, (x, weights), dy)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
    assert torch.autograd.gradcheck(ours, (x, weights))


def test_dense_weights_and_their_gradient() -> None:
    routing = random_routing(9, seed=2)
    weights = routing.weights.clone().requires_grad_()
    matrix = dense_weights(Routing(routing.expert_ids, weights), EXPERTS)
    expected = torch.zeros(9, EXPERTS)
    for token, slot in torch.nonzero(routing.expert_ids < EXPERTS).tolist():
        expected[token, routing.expert_ids[token, slot]] = routing.weights[token, slot]
    assert torch.equal(matrix, expected)
    (gradient,) = torch.autograd.grad(matrix.sum(), weights)
    assert torch.equal(gradient, (routing.expert_ids < EXPERTS).float())


def test_side_by_side_is_one_ffn() -> None:
    down, hidden = torch.randn(3, 4, 5), torch.randn(7, 3, 5)
    together = hidden.flatten(1) @ side_by_side(down).T
    torch.testing.assert_close(together, torch.einsum("tei,ehi->th", hidden, down))
