"""The gate must let pass what is right, however it rounds: no false alarms over random cases."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.cases.shape import ROUTER_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.layer.contract import Forward, Layer, Routing

CASES = 120


def expert(layer: Layer, number: int, x: Tensor, dtype: torch.dtype) -> Tensor:
    def bias(stacked: Tensor | None) -> Tensor | None:
        return None if stacked is None else stacked[number].to(dtype)

    hidden = F.linear(x, layer.proj_in[number].to(dtype), bias(layer.proj_in_bias))
    return F.linear(layer.activate(hidden), layer.down[number].to(dtype), bias(layer.down_bias))


def summed(order: Callable[[list[int]], list[int]], work: torch.dtype | None, total: torch.dtype | None) -> Any:
    """Experts in some order, computed in one dtype and summed in another; None stands for x's own."""

    def prepare(layer: Layer) -> Forward:
        def forward(x: Tensor, routing: Routing) -> Any:
            inside, outside = work or x.dtype, total or x.dtype
            y = torch.zeros_like(x, dtype=outside)
            used = [e for e in routing.expert_ids.unique().tolist() if e < layer.shape.experts] or [0]
            for number in order(used):
                tokens, slots = torch.where(routing.expert_ids == number)
                out = expert(layer, number, x[tokens].to(inside), inside)
                y = y.index_add(0, tokens, (out * routing.weights[tokens, slots, None].to(inside)).to(outside))
            return y.to(x.dtype)

        return forward

    return prepare


def one_token_at_a_time(layer: Layer) -> Forward:
    def forward(x: Tensor, routing: Routing) -> Any:
        rows = [x[:0].sum(0) * layer.down.sum() * 0]
        for token in range(len(x)):
            row = x[token] * 0
            for number, weight in zip(routing.expert_ids[token].tolist(), routing.weights[token], strict=True):
                if number < layer.shape.experts:
                    row = row + expert(layer, number, x[token], x.dtype) * weight.to(x.dtype)
            rows.append(row)
        return torch.stack(rows)[1:]

    return forward


def weighed_before_the_second_product(layer: Layer) -> Forward:
    """All experts as one wide FFN, as ``soft`` does."""
    count = layer.shape.experts

    def forward(x: Tensor, routing: Routing) -> Any:
        weights = x.new_zeros(len(x), count + 1).scatter(1, routing.expert_ids, routing.weights.to(x.dtype))[:, :count]
        hidden = torch.einsum("th,eih->tei", x, layer.proj_in)
        hidden = hidden if layer.proj_in_bias is None else hidden + layer.proj_in_bias
        y = torch.einsum("tei,ehi->th", layer.activate(hidden) * weights[..., None], layer.down)
        return y if layer.down_bias is None else y + weights @ layer.down_bias

    return forward


VARIANTS = {
    "other order": summed(lambda used: used[::-1], None, None),
    "float32 sums": summed(list, None, torch.float32),
    "float32 throughout": summed(list, torch.float32, torch.float32),
    "one token at a time": one_token_at_a_time,
    "weighed before": weighed_before_the_second_product,
}


def random_case(kit: Any, rng: random.Random) -> Any:
    experts = rng.choice([1, 2, 4, 8])
    router: dict[str, Any] = {"router": rng.choice(list(ROUTER_KINDS)), "renormalise": rng.random() < 0.5}
    if router["router"] == "switch":
        router["capacity_factor"] = rng.choice([0.25, 1.25])
    activation = rng.choice(["silu", "gelu", "relu", "clamped_swiglu"])
    return kit.case(
        tokens=rng.choice([0, 1, 1, 2, 9, 33]),
        hidden=rng.choice([32, 96]),
        expert_hidden=rng.choice([16, 48]),
        experts=experts,
        top_k=1 if router["router"] == "switch" else rng.choice([1, min(2, experts), experts]),
        activation=activation,
        gated=activation == "clamped_swiglu" or rng.random() < 0.7,
        bias=rng.random() < 0.3,
        spread=rng.choice(["uniform", "gaussian:0.15", "zipf:1", "single_hot", "k_hot"]),
        seed=rng.randrange(1000),
        dtype=rng.choice(["fp32", "bf16", "fp16"]),
        pass_=rng.choice(["forward", "training", "training"]),
        scope=rng.choice(["experts", "layer"]),
        **router,
        **({"shared_experts": 1, "shared_hidden": 16, "shared_gated": True} if rng.random() < 0.3 else {}),
    )


@pytest.mark.parametrize("seed", range(4))
def test_what_is_right_passes_however_it_rounds(kit: Any, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(CASES // 4):
        case = random_case(kit, rng)
        examiner = kit.examiner(case)
        for name, prepare in VARIANTS.items():
            implementation = kit.implementation(prepare, name)
            agreement = examiner.admit(implementation, kit.clock, lambda _stage: None).agreement
            assert agreement.passed
            assert agreement.checks == 2
            assert agreement.deterministic
        baseline = kit.implementation(kit.plain_ffn, "dense", family="dense")
        assert examiner.admit(baseline, kit.clock, lambda _stage: None).agreement.passed


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_dropped_slots_and_tokens_without_any(kit: Any, pass_: str, dtype: str) -> None:
    """Under a capacity of a quarter most tokens reach no expert: their rows are exactly zero, and right."""
    case = kit.case(64, top_k=1, router="switch", capacity_factor=0.25, dtype=dtype, pass_=pass_)
    routing = kit.examiner(case).answers.draw(0).routing
    assert (routing.expert_ids == case.shape.experts).sum() > 32
    for prepare in VARIANTS.values():
        assert kit.admit(prepare, case).agreement.passed


@pytest.mark.parametrize("size", [{"tokens": 64, "hidden": 1024, "top_k": 8}, {"tokens": 512, "hidden": 64}])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_at_which_the_bugs_are_planted(kit: Any, name: str, dtype: str, size: dict[str, int]) -> None:
    case = kit.case(**size, dtype=dtype, experts=8, expert_hidden=16)
    y = kit.admit(VARIANTS[name], case).agreement.tensors["y"]
    assert y.rel_error < 0.9 * y.rel_tolerance
    assert max(y.worst_row, y.worst_column) < 0.6 * y.row_tolerance


def test_the_one_for_graphs_is_right_too(kit: Any) -> None:
    """Where there is no GPU, at least its answers are checked."""
    assert kit.admit(kit.never_asking, kit.case(33, dtype="bf16")).agreement.passed
