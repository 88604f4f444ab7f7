"""Traffic: the skew each spread is known for, fresh tokens each draw, and choices that are really imposed."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.cases.shape import Router, Shape
from harness.cases.traffic import TRAFFIC_KINDS, Traffic
from harness.fitting.figures import Choices, any_repeats, first_repeats
from harness.layer.balance import histogram, max_over_mean
from harness.layer.routers import route
from harness.layer.traffic import make_logits, router_noise, selection_bias

if TYPE_CHECKING:
    from harness.layer.contract import Routing

V2 = Router(groups=8, top_groups=3, scale=16.0)
V3 = Router(kind="sigmoid", renormalise=True, groups=8, top_groups=4, scale=2.5, selection_bias=True)
GENERATED = [kind for kind in TRAFFIC_KINDS if kind != "trace"]
LIMITED = {"deepseek-v2": V2, "deepseek-v3": V3}
ROUTERS = {
    "softmax": Router(renormalise=True),
    "topk_softmax": Router(kind="topk_softmax"),
    "sigmoid": Router(kind="sigmoid"),
    "sigmoid, bias": Router(kind="sigmoid", selection_bias=True),
    "softmax, bias": Router(selection_bias=True),
    "noisy_topk": Router(kind="noisy_topk"),
    **LIMITED,
}


def make_shape(experts: int, top_k: int, router: Router | None = None) -> Shape:
    return Shape(hidden=4, expert_hidden=4, experts=experts, top_k=top_k, router=router or Router())


def route_traffic(shape: Shape, spread: str, tokens: int = 1024, seed: int = 0, draw: int = 0) -> Routing:
    traffic = Traffic(tokens=tokens, spread=spread, seed=seed)
    bias, noise = selection_bias(shape, seed, "cpu"), router_noise(shape, traffic, draw, "cpu")
    return route(make_logits(shape, traffic, draw=draw), shape, selection_bias=bias, noise=noise)


def counts_of(shape: Shape, spread: str, **settings: Any) -> list[int]:
    return histogram(route_traffic(shape, spread, **settings).expert_ids, shape.experts)


# Simulated max/mean at T = 8192, mean of many seeds; E8 k2, and E64 k8 where a single expert does not decide it.
CALIBRATION = [
    ("uniform", 1.03, 1.07),
    ("gaussian:0.1", 1.18, 1.45),
    ("gaussian:0.15", 1.34, 1.68),
    ("gaussian:0.3", 1.67, 2.39),
    ("gaussian:0.5", 1.90, 3.60),
    ("gaussian:1", 2.7, 6.2),
    ("zipf:0.25", 1.33, 2.0),
    ("zipf:0.5", 1.71, 3.7),
    ("zipf:1", 2.53, 7.1),
    ("dirichlet:30", 1.3, 1.4),
    ("dirichlet:10", 1.4, 1.8),
    ("dirichlet:3", 1.7, 2.6),
    ("dirichlet:1", 2.6, 3.8),
    ("temporal:0.3", 1.34, 1.68),
    ("single_hot", 4.0, 8.0),
    ("k_hot", 4.0, 8.0),
]


@pytest.mark.parametrize(("spread", "small", "large"), CALIBRATION)
def test_calibration(spread: str, small: float, large: float) -> None:
    for (experts, top_k), expected in (((8, 2), small), ((64, 8), large)):
        shape = make_shape(experts, top_k)
        found = mean(max_over_mean(counts_of(shape, spread, tokens=8192, seed=seed)) for seed in range(6))
        assert found == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("spread", "expected"), [("uniform", 1.18), ("gaussian:0.15", 2.2), ("zipf:1", 25)])
@pytest.mark.parametrize("router", ["softmax", "sigmoid, bias", "softmax, bias"])
def test_a_selection_bias_leaves_the_skew_alone(spread: str, expected: float, router: str) -> None:
    shape = make_shape(256, 8, ROUTERS[router])
    found = mean(max_over_mean(counts_of(shape, spread, tokens=8192, seed=seed)) for seed in range(2))
    assert found == pytest.approx(expected, rel=0.15)


def test_a_selection_bias_is_small_fixed_by_the_seed_and_only_where_it_belongs() -> None:
    assert selection_bias(make_shape(64, 8), 0, "cpu") is None
    shape = make_shape(64, 8, ROUTERS["sigmoid, bias"])
    bias, again, other = (selection_bias(shape, seed, "cpu") for seed in (0, 0, 1))
    assert bias is not None
    assert again is not None
    assert other is not None
    assert torch.equal(bias, again)
    assert not torch.equal(bias, other)
    assert bias.dtype == torch.float32
    assert bias.shape == (64,)
    assert 0.01 < bias.std() < 0.03
    assert bias.abs().max() <= 0.04
    without = route(logits := make_logits(shape, Traffic(tokens=512), draw=0), shape)
    assert not torch.equal(without.expert_ids, route(logits, shape, selection_bias=bias).expert_ids)


def test_router_noise_has_the_scale_of_softplus_of_zero() -> None:
    shape, traffic = make_shape(64, 8, ROUTERS["noisy_topk"]), Traffic(tokens=512)
    assert router_noise(make_shape(64, 8), traffic, 0, "cpu") is None
    noise, again, fresh = (router_noise(shape, traffic, draw, "cpu") for draw in (0, 0, 1))
    assert noise is not None
    assert again is not None
    assert fresh is not None
    assert torch.equal(noise, again)
    assert not torch.equal(noise, fresh)
    assert noise.std().item() == pytest.approx(math.log(2), rel=0.03)
    assert noise.abs().max() < 2


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9, 0.999])
def test_temporal_noise_is_an_autoregression(rho: float) -> None:
    """Against the recurrence itself: uniform draws the same noise, uncorrelated."""
    shape = make_shape(8, 2)
    settings = {"tokens": 300, "seed": 5}
    fresh = make_logits(shape, Traffic(spread="uniform", **settings), draw=3).double()
    plain = make_logits(shape, Traffic(spread="temporal:0", **settings), draw=3).double()
    popularity = (plain - fresh)[0]
    expected = [fresh[0]]
    for eps in fresh[1:]:
        expected.append(rho * expected[-1] + math.sqrt(1 - rho**2) * eps)
    found = make_logits(shape, Traffic(spread=f"temporal:{rho}", **settings), draw=3).double() - popularity
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rho", "first", "either"), [(0.0, 0.13, 0.47), (0.3, 0.23, 0.649), (0.35, 0.251, 0.685)])
def test_temporal_repeat_rates(rho: float, first: float, either: float) -> None:
    shape = make_shape(8, 2)
    ids = [route_traffic(shape, f"temporal:{rho}", tokens=8192, seed=seed).expert_ids for seed in range(4)]
    texts = [Choices(some.numpy(), 8, np.zeros(len(some), dtype=np.int64)) for some in ids]
    assert mean(map(first_repeats, texts)) == pytest.approx(first, abs=0.012)
    assert mean(map(any_repeats, texts)) == pytest.approx(either, abs=0.02)


@pytest.mark.parametrize("spread", GENERATED)
def test_draws_are_deterministic_and_fresh(spread: str) -> None:
    shape, traffic = make_shape(16, 2), Traffic(tokens=200, spread=spread)
    first, again, fresh = (make_logits(shape, traffic, draw=draw) for draw in (0, 0, 1))
    assert torch.equal(first, again)
    assert first.dtype == torch.float32
    assert first.shape == (200, 16)
    assert not torch.isclose(first, fresh).all(1).any(), "no token of one draw comes again in the next"
    other_seed = Traffic(tokens=200, spread=spread, seed=1)
    assert not torch.equal(first, make_logits(shape, other_seed, draw=0))


@pytest.mark.parametrize("spread", ["gaussian:1", "zipf:1", "dirichlet:1", "single_hot", "k_hot", "temporal:0.3"])
def test_popularity_stays_from_draw_to_draw_and_moves_with_the_seed(spread: str) -> None:
    shape = make_shape(16, 2)

    def share(seed: int, draw: int) -> Tensor:
        counts = torch.tensor(counts_of(shape, spread, tokens=4096, seed=seed, draw=draw), dtype=torch.float64)
        return counts / counts.sum()

    same, other = (share(0, 0) - share(0, 1)).abs().sum(), (share(0, 0) - share(1, 0)).abs().sum()
    assert same < 0.05
    assert other > 0.1


@pytest.mark.parametrize("spread", GENERATED)
@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_few_tokens(spread: str, tokens: int) -> None:
    routing = route_traffic(make_shape(8, 2), spread, tokens=tokens)
    assert routing.expert_ids.shape == (tokens, 2)
    assert routing.weights.isfinite().all()


@pytest.mark.parametrize("spread", ["dirichlet:0.001", "zipf:10", "gaussian:10"])
@pytest.mark.parametrize("router", ROUTERS)
def test_extreme_skew_stays_finite(spread: str, router: str) -> None:
    shape = make_shape(64, 6, ROUTERS[router])
    assert make_logits(shape, Traffic(tokens=256, spread=spread), draw=0).isfinite().all()
    assert route_traffic(shape, spread, tokens=256).weights.isfinite().all()


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("seed", range(5))
def test_one_hot_expert_is_in_every_tokens_choice(router: str, seed: int) -> None:
    shape = make_shape(64, 6, ROUTERS[router])
    counts = counts_of(shape, "single_hot", seed=seed)
    assert counts.count(1024) == 1
    others_open = router != "softmax, bias"  # there the bias outweighs the probabilities that a hot expert leaves
    assert sorted(counts)[-2] < (512 if others_open else 1024)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("seed", range(5))
def test_k_hot_experts_take_everything(router: str, seed: int) -> None:
    counts = counts_of(make_shape(64, 6, ROUTERS[router]), "k_hot", seed=seed)
    assert sorted(counts)[-6:] == [1024] * 6
    assert sum(counts) == 6 * 1024


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("draw", range(3))
def test_tiles_are_filled_by_one_row_too_many(router: str, draw: int) -> None:
    counts = counts_of(make_shape(64, 6, ROUTERS[router]), "tile:16", tokens=1000, draw=draw)
    blocks = 3 if router == "deepseek-v2" else 2 if router == "deepseek-v3" else 1
    assert sum(count % 16 != 1 for count in counts) <= blocks
    assert max(counts) - min(counts) <= 2 * 16


@pytest.mark.parametrize("name", LIMITED)
def test_hot_experts_lie_in_groups_that_one_token_can_reach(name: str) -> None:
    for seed in range(20):
        counts = counts_of(make_shape(64, 6, LIMITED[name]), "k_hot", tokens=32, seed=seed)
        hot_groups = {expert // 8 for expert, count in enumerate(counts) if count}
        assert len(hot_groups) <= LIMITED[name].top_groups


def test_hot_experts_are_scattered() -> None:
    """Of 8 in 64, chance makes 63 * (8 * 7) / (64 * 63) = 0.9 pairs neighbours; a contiguous block has 7."""
    neighbours = []
    for seed in range(40):
        counts = counts_of(make_shape(64, 8), "k_hot", tokens=4, seed=seed)
        hot = [expert for expert, count in enumerate(counts) if count]
        neighbours.append(sum(b - a == 1 for a, b in pairwise(hot)))
    assert mean(neighbours) < 1.5


def test_imposed_scores_stay_distinct_in_float32() -> None:
    shape = make_shape(64, 6, ROUTERS["sigmoid"])
    logits = make_logits(shape, Traffic(tokens=256, spread="single_hot"), draw=0)
    for row in torch.sigmoid(logits):
        assert len(row.unique()) == 64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.cuda
@pytest.mark.parametrize("spread", GENERATED)
def test_a_gpu_draws_its_own_tokens_from_the_same_popularity(spread: str) -> None:
    shape, traffic = make_shape(16, 2), Traffic(tokens=4096, spread=spread)
    logits, again = (make_logits(shape, traffic, draw=0, device="cuda") for _ in range(2))
    assert torch.equal(logits, again)
    on_gpu = torch.tensor(histogram(route(logits, shape).expert_ids, 16), dtype=torch.float64)
    on_cpu = torch.tensor(counts_of(shape, spread, tokens=4096), dtype=torch.float64)
    assert ((on_gpu - on_cpu) / on_cpu.sum()).abs().sum() < 0.1
    assert torch.equal(route(logits, shape).expert_ids.cpu(), route(logits.cpu(), shape).expert_ids)
