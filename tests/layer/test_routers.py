"""Routers against plain Python that follows the definitions one token at a time, and their invariants."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.cases.shape import ROUTER_KINDS, Router, Shape
from harness.layer.routers import expert_capacity, noisy_logits, route, switch

DROPPED = -1


def make_shape(experts: int, top_k: int, **router: Any) -> Shape:
    return Shape(hidden=4, expert_hidden=4, experts=experts, top_k=top_k, router=Router(**router))


def best(scores: list[float], k: int) -> list[int]:
    """Highest first, lowest index on a tie."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(x - top) for x in row]
    return [p / sum(powers) for p in powers]


def kept_experts(scores: list[float], router: Router) -> list[int]:
    """Experts of the best groups: by the sum of the two best (sigmoid) or by the best (softmax)."""
    size = len(scores) // router.groups
    groups = [list(range(g * size, (g + 1) * size)) for g in range(router.groups)]
    count = 2 if router.kind == "sigmoid" else 1
    group_scores = [sum(sorted((scores[e] for e in group), reverse=True)[:count]) for group in groups]
    return [e for g in best(group_scores, router.top_groups) for e in groups[g]]


def brute_force_token(row: list[float], shape: Shape, bias: list[float]) -> dict[int, float]:
    """Expert -> weight, for a router in which tokens choose."""
    router, k = shape.router, shape.top_k
    scores = [1 / (1 + math.exp(-x)) for x in row] if router.kind == "sigmoid" else softmax(row)
    if router.kind == "mixture":
        return dict(enumerate(scores))
    if router.kind in {"topk_softmax", "noisy_topk"}:
        chosen = best(row, k)
        return dict(zip(chosen, softmax([row[e] for e in chosen]), strict=True))
    choosing = [s + b for s, b in zip(scores, bias, strict=True)]
    allowed = kept_experts(choosing, router)
    chosen = sorted(allowed, key=lambda e: (-choosing[e], e))[:k]
    total = sum(scores[e] for e in chosen) + 1e-20 if router.renormalise else 1.0
    return {e: scores[e] / total for e in chosen}


def brute_force_expert_choice(rows: list[list[float]], shape: Shape) -> list[dict[int, float]]:
    scores = [softmax(row) for row in rows]
    result: list[dict[int, float]] = [{} for _ in rows]
    for expert in range(shape.experts):
        column = [row[expert] for row in scores]
        for token in best(column, math.ceil(len(rows) * shape.top_k / shape.experts)):
            result[token][expert] = column[token]
    return result


def as_dicts(ids: Tensor, weights: Tensor, experts: int) -> list[dict[int, float]]:
    """Expert -> weight for each token, slots with id E left out after checking that they weigh nothing."""
    rows = []
    for token_ids, token_weights in zip(ids.tolist(), weights.tolist(), strict=True):
        pairs = list(zip(token_ids, token_weights, strict=True))
        assert all(w == 0 for e, w in pairs if e == experts)
        rows.append({e: w for e, w in pairs if e < experts})
        assert len(rows[-1]) == sum(e < experts for e in token_ids), "an expert appears twice in a token"
    return rows


def assert_same(found: list[dict[int, float]], expected: list[dict[int, float]]) -> None:
    assert [set(row) for row in found] == [set(row) for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        for expert, weight in wanted.items():
            assert row[expert] == pytest.approx(weight, rel=1e-9, abs=1e-12)


@st.composite
def shapes(draw: st.DrawFn, kinds: tuple[str, ...] = tuple(ROUTER_KINDS)) -> Shape:
    kind = draw(st.sampled_from(kinds))
    limited = kind in {"softmax", "sigmoid"}
    groups = draw(st.integers(1, 4)) if limited else 1
    top_groups = draw(st.integers(1, groups))
    size = draw(st.integers(1, 4))
    top_k = 1 if kind == "switch" else draw(st.integers(1, size * top_groups))
    return make_shape(
        groups * size,
        top_k,
        kind=kind,
        groups=groups,
        top_groups=top_groups,
        renormalise=draw(st.booleans()),
        selection_bias=limited and draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 2.5])),
        capacity_factor=draw(st.sampled_from([0.5, 1.0, 1.25])),
    )


@st.composite
def cases(draw: st.DrawFn, kinds: tuple[str, ...] = tuple(ROUTER_KINDS)) -> tuple[Shape, Tensor, Tensor | None]:
    """Logits on a coarse grid, so that scores tie often, and exactly or not nearly.

    The grid is not symmetric around 0, where pairs of different sigmoids would have equal sums.
    """
    shape = draw(shapes(kinds))
    tokens = draw(st.integers(0, 6))
    grid = st.integers(-3, 3)
    row = st.lists(grid, min_size=shape.experts, max_size=shape.experts)
    rows = draw(st.lists(row, min_size=tokens, max_size=tokens))
    logits = torch.tensor(rows, dtype=torch.float64).reshape(tokens, shape.experts) * 0.7 + 0.1
    if not shape.router.selection_bias:
        return shape, logits, None
    return shape, logits, torch.tensor(draw(row), dtype=torch.float64) * 0.37


@settings(deadline=None, max_examples=300)
@given(cases(("softmax", "sigmoid", "topk_softmax", "noisy_topk", "mixture")))
def test_a_token_gets_the_experts_and_weights_of_the_definition(case: tuple[Shape, Tensor, Tensor | None]) -> None:
    shape, logits, bias = case
    routing = route(logits, shape, selection_bias=bias)
    offsets = [0.0] * shape.experts if bias is None else bias.tolist()
    expected = [brute_force_token(row, shape, offsets) for row in logits.tolist()]
    scaled = [{e: w * shape.router.scale for e, w in row.items()} for row in expected]
    assert_same(as_dicts(routing.expert_ids, routing.weights, shape.experts), scaled)


@settings(deadline=None)
@given(cases(("expert_choice",)))
def test_expert_choice_takes_each_experts_best_tokens(case: tuple[Shape, Tensor, Tensor | None]) -> None:
    shape, logits, _ = case
    logits = logits + torch.arange(logits.numel(), dtype=logits.dtype).sqrt().view_as(logits) * 1e-3  # no ties
    routing = route(logits, shape)
    expected = brute_force_expert_choice(logits.tolist(), shape)
    scaled = [{e: w * shape.router.scale for e, w in row.items()} for row in expected]
    assert_same(as_dicts(routing.expert_ids, routing.weights, shape.experts), scaled)
    counts = torch.bincount(routing.expert_ids.flatten(), minlength=shape.experts + 1)[: shape.experts]
    assert set(counts.tolist()) == {math.ceil(len(logits) * shape.top_k / shape.experts)}
    assert routing.expert_ids.shape[1] == max([1, *(len(row) for row in expected)])


@settings(deadline=None)
@given(cases(("switch",)), st.integers(0, 4))
def test_switch_serves_the_first_tokens_and_drops_the_rest(
    case: tuple[Shape, Tensor, Tensor | None], capacity: int
) -> None:
    _, logits, _ = case
    routing = switch(logits, capacity)
    served: dict[int, int] = {}
    expected = []
    for row in logits.tolist():
        expert = best(row, 1)[0]
        served[expert] = served.get(expert, 0) + 1
        expected.append({expert: max(softmax(row))} if served[expert] <= capacity else {})
    assert_same(as_dicts(routing.expert_ids, routing.weights, logits.shape[1]), expected)


@settings(deadline=None, max_examples=200)
@given(cases())
def test_every_routing_keeps_the_contract(case: tuple[Shape, Tensor, Tensor | None]) -> None:
    shape, logits, bias = case
    routing = route(logits.float(), shape, selection_bias=bias)
    ids, weights = routing.expert_ids, routing.weights
    assert ids.dtype == torch.int64
    assert weights.dtype == torch.float32
    assert ids.shape == weights.shape
    assert ids.is_contiguous()
    assert len(ids) == len(logits)
    assert ids.numel() == 0 or (ids.min() >= 0 and ids.max() <= shape.experts)
    rows = as_dicts(ids, weights, shape.experts)
    router = shape.router
    sums_to_one = router.kind in {"topk_softmax", "noisy_topk", "mixture"} or (
        router.renormalise and router.kind in {"softmax", "sigmoid"}
    )
    if router.kind not in {"expert_choice", "switch"}:
        assert all(len(row) == shape.active_experts for row in rows)
    if router.kind == "switch":
        counts = torch.bincount(ids.flatten(), minlength=shape.experts + 1)[: shape.experts]
        assert counts.max() <= expert_capacity(len(ids), shape)
    if sums_to_one:
        torch.testing.assert_close(weights.sum(1), torch.full((len(ids),), router.scale))


@pytest.mark.parametrize("kind", ["softmax", "topk_softmax", "sigmoid", "noisy_topk"])
@pytest.mark.parametrize("experts", [16, 257])
def test_ties_go_to_the_lowest_ids(kind: str, experts: int) -> None:
    routing = route(torch.zeros(5, experts), make_shape(experts, 4, kind=kind))
    assert routing.expert_ids.tolist() == [[0, 1, 2, 3]] * 5


def test_ties_between_groups_go_to_the_lowest_group() -> None:
    shape = make_shape(12, 4, kind="sigmoid", groups=4, top_groups=2, selection_bias=True)
    assert route(torch.zeros(3, 12), shape).expert_ids.tolist() == [[0, 1, 2, 3]] * 3


def test_all_tied_switch_fills_the_first_expert_and_drops_the_rest() -> None:
    shape = make_shape(4, 1, kind="switch", capacity_factor=2.0)
    assert route(torch.zeros(6, 4), shape).expert_ids.flatten().tolist() == [0, 0, 0, 4, 4, 4]


def test_all_tied_expert_choice_takes_the_first_tokens() -> None:
    routing = route(torch.zeros(8, 4), make_shape(4, 1, kind="expert_choice"))
    assert routing.expert_ids.tolist() == [[0, 1, 2, 3]] * 2 + [[4] * 4] * 6


def test_an_excluded_group_loses_against_negative_scores() -> None:
    """A mask of 0 instead of -inf would let experts 2 and 3 win: the kept group's biased scores are below 0."""
    shape = make_shape(4, 2, kind="sigmoid", groups=2, top_groups=1, selection_bias=True)
    bias = torch.tensor([-1.0, -1.0, -2.0, -2.0])
    assert route(torch.zeros(1, 4), shape, selection_bias=bias).expert_ids.tolist() == [[0, 1]]


@pytest.mark.parametrize("kind", ROUTER_KINDS)
def test_huge_logits_give_finite_weights(kind: str) -> None:
    shape = make_shape(8, 1 if kind == "switch" else 2, kind=kind, renormalise=True)
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0, -1.0, -1.0, 1.0, -1.0], [-1.0] * 8, [1.0] * 8])
    routing = route(80 * signs, shape)
    assert routing.weights.isfinite().all()
    if kind == "softmax":
        assert routing.expert_ids[0].tolist() == [0, 2]


def test_softmax_chooses_by_logits_where_probabilities_underflow() -> None:
    logits = torch.tensor([[100.0, -60.0, -50.0, -40.0]])
    assert torch.softmax(logits, -1)[0, 1:].tolist() == [0, 0, 0]
    assert route(logits, make_shape(4, 2)).expert_ids.tolist() == [[0, 3]]


@pytest.mark.parametrize("kind", ROUTER_KINDS)
def test_gradients_flow_from_weights_to_logits(kind: str) -> None:
    torch.manual_seed(0)
    shape = make_shape(6, 1 if kind == "switch" else 2, kind=kind, capacity_factor=8.0, scale=2.5)
    logits = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: route(x, shape).weights.square().sum(), logits)
    (gradient,) = torch.autograd.grad(route(logits, shape).weights.square().sum(), logits)
    assert gradient.abs().sum() > 0


def test_noisy_topk_adds_scaled_noise() -> None:
    torch.manual_seed(0)
    logits, noise_logits, normal = torch.randn(3, 20, 8).unbind()
    noisy = noisy_logits(logits, noise_logits, normal)
    torch.testing.assert_close(noisy, logits + normal * torch.log1p(torch.exp(noise_logits)))
    shape = make_shape(8, 2, kind="noisy_topk")
    given_noise, expected = route(logits, shape, noise=noisy - logits), route(noisy, shape)
    assert torch.equal(given_noise.expert_ids, expected.expert_ids)
    assert not torch.equal(given_noise.expert_ids, route(logits, shape).expert_ids)
    torch.testing.assert_close(given_noise.weights, expected.weights)


@pytest.mark.parametrize(
    ("factor", "tokens", "experts", "capacity"),
    [(1.25, 1000, 8, 157), (1.0, 64, 8, 8), (1.1, 100, 11, 10), (0.1, 3, 64, 1), (1.25, 0, 8, 0)],
)
def test_capacity_is_rounded_up_once_and_exactly(factor: float, tokens: int, experts: int, capacity: int) -> None:
    shape = make_shape(experts, 1, kind="switch", capacity_factor=factor)
    assert expert_capacity(tokens, shape) == capacity


def test_bad_arguments_are_refused_in_one_line() -> None:
    shape = make_shape(8, 2)
    with pytest.raises(ValueError, match=r"logits = \(3, 7\): \(tokens, experts = 8\)"):
        route(torch.zeros(3, 7), shape)
    with pytest.raises(ValueError, match="selection_bias = True: None for a router without one"):
        route(torch.zeros(3, 8), shape, selection_bias=torch.zeros(8))
    with pytest.raises(ValueError, match="noise = True: None for router 'softmax'"):
        route(torch.zeros(3, 8), shape, noise=torch.zeros(3, 8))
    with pytest.raises(ValueError, match="selection_bias = True: false for router 'switch'"):
        make_shape(8, 1, kind="switch", selection_bias=True)
