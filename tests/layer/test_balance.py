"""Balance figures against hand-worked cases, other libraries' formulas and their own invariants."""

from __future__ import annotations

import math
from statistics import mean

import msgspec
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic
from harness.layer import balance as b
from harness.layer.contract import Routing
from harness.layer.routers import route
from harness.layer.traffic import make_logits
from harness.records.record import Balance

COUNTS = st.lists(st.integers(0, 1000), min_size=1, max_size=40)
LOADED = COUNTS.filter(any)


def make_shape(experts: int, top_k: int, kind: str = "softmax") -> Shape:
    router = Router(kind=kind)  # type: ignore[arg-type]
    return Shape(hidden=4, expert_hidden=4, experts=experts, top_k=top_k, router=router)


def measure(shape: Shape, tokens: int, spread: str = "gaussian", draw: int = 0) -> Balance:
    logits = make_logits(shape, Traffic(tokens=tokens, spread=spread), draw=draw)
    return b.balance(route(logits, shape), shape)


def test_figures_by_hand() -> None:
    counts = [6, 2, 0, 0]
    assert b.max_over_mean(counts) == 3
    assert b.max_vio(counts) == 2
    assert b.cv2(counts) == pytest.approx((16 + 0 + 4 + 4) / 4 / 4)
    assert b.entropy(counts) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert b.normalised_entropy(counts) == pytest.approx(b.entropy(counts) / math.log(4))
    assert b.gini(counts) == pytest.approx((-3 * 0 - 1 * 0 + 1 * 2 + 3 * 6) / (4 * 8))
    assert b.distinct_experts(counts) == 2
    assert b.dead_experts(counts) == 2
    assert b.drop_rate(counts, 10) == pytest.approx(0.2)
    assert b.tile_padding(counts, 4) == pytest.approx(1 - 8 / (8 + 4))


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_counts_may_be_a_list_an_array_or_a_tensor(make: object) -> None:
    assert callable(make)
    counts = make([3, 1, 0, 4])
    assert b.max_over_mean(counts) == 2
    assert b.gini(counts) == pytest.approx(b.gini([3, 1, 0, 4]))
    assert b.dead_experts(counts) == 1


@given(LOADED)
def test_figures_agree_with_other_definitions(counts: list[int]) -> None:
    c = np.array(counts, dtype=float)
    assert b.cv2(counts) == pytest.approx(scipy.stats.variation(c) ** 2)
    assert b.entropy(counts) == pytest.approx(scipy.stats.entropy(c), abs=1e-12)
    mean_difference = np.abs(c[:, None] - c[None, :]).mean()
    assert b.gini(counts) == pytest.approx(mean_difference / (2 * c.mean()), abs=1e-12)


@given(COUNTS)
def test_ranges(counts: list[int]) -> None:
    experts = len(counts)
    assert 1 <= b.max_over_mean(counts) <= experts + 1e-9
    assert b.cv2(counts) >= 0
    assert 0 <= b.normalised_entropy(counts) <= 1
    assert -1e-9 <= b.gini(counts) < 1
    assert b.distinct_experts(counts) + b.dead_experts(counts) == experts
    assert 0 <= b.tile_padding(counts, 128) < 1
    assert b.tile_padding(counts, 1) == 0


@given(LOADED, st.integers(1, 50), st.randoms(use_true_random=False))
def test_order_and_scale_of_counts_do_not_matter(counts: list[int], scale: int, random: object) -> None:
    assert hasattr(random, "shuffle")
    moved = [scale * c for c in counts]
    random.shuffle(moved)
    for figure in (b.max_over_mean, b.cv2, b.normalised_entropy, b.gini):
        assert figure(moved) == pytest.approx(figure(counts), abs=1e-9)


@given(st.integers(1, 40), st.integers(1, 1000))
def test_equal_counts_are_balanced(experts: int, count: int) -> None:
    counts = [count] * experts
    assert b.max_over_mean(counts) == 1
    assert b.cv2(counts) == 0
    assert b.gini(counts) == pytest.approx(0)
    assert b.normalised_entropy(counts) == pytest.approx(1)


@given(LOADED.filter(lambda counts: len(counts) > 1), st.data())
def test_moving_a_token_to_a_busier_expert_never_balances(counts: list[int], data: st.DataObject) -> None:
    order = sorted(range(len(counts)), key=counts.__getitem__)
    poorer = data.draw(st.integers(0, len(counts) - 2))
    giver, taker = order[poorer], order[data.draw(st.integers(poorer + 1, len(counts) - 1))]
    if not counts[giver]:
        return
    worse = list(counts)
    worse[giver] -= 1
    worse[taker] += 1
    for figure in (b.max_over_mean, b.cv2, b.gini):
        assert figure(worse) >= figure(counts) - 1e-9
    assert b.normalised_entropy(worse) <= b.normalised_entropy(counts) + 1e-9


@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (64, 8), (128, 8), (256, 8)])
def test_floors_are_what_uniform_routing_shows(experts: int, top_k: int) -> None:
    shape = make_shape(experts, top_k)
    draws = [measure(shape, 8192, "uniform", draw) for draw in range(4)]
    found = draws[0]
    assert mean(draw.max_over_mean for draw in draws) == pytest.approx(found.max_over_mean_floor, abs=0.04)
    assert found.max_over_mean_floor == pytest.approx({8: 1.04, 64: 1.08, 128: 1.13, 256: 1.20}[experts], abs=0.01)
    spread_of_estimate = 4 * math.sqrt(2 / (experts - 1))
    assert found.cv2 == pytest.approx(found.cv2_floor, rel=spread_of_estimate)
    assert measure(shape, 8192, "gaussian:0.5").cv2 > 10 * found.cv2_floor


@pytest.mark.parametrize(
    ("experts", "tokens", "expected"),
    [(64, 1024, 0.33), (64, 8192, 0.057), (128, 1024, 0.50), (256, 128, 0.97), (256, 4096, 0.32), (256, 16384, 0.11)],
)
def test_padding_of_uniform_traffic(experts: int, tokens: int, expected: float) -> None:
    assert measure(make_shape(experts, 8), tokens, "uniform").tile_padding == pytest.approx(expected, abs=0.02)


def test_tile_traffic_wastes_more_than_uniform_traffic() -> None:
    shape = make_shape(64, 8)
    assert measure(shape, 4096, "tile:128").tile_padding > 1.15 * measure(shape, 4096, "uniform").tile_padding


def test_dropped_slots_are_counted() -> None:
    shape = make_shape(4, 1, "switch")
    routing = Routing(torch.tensor([[0], [4], [0], [4], [1]]), torch.ones(5, 1))
    found = b.balance(routing, shape, tile_rows=2)
    assert found.histogram == [2, 1, 0, 0]
    assert found.drop_rate == pytest.approx(0.4)
    assert found.tile_rows == 2
    assert found.tile_padding == pytest.approx(1 - 3 / 4)
    assert found.tokens_per_expert_choice is None


def test_dropped_slots_are_a_share_of_all_that_tokens_asked_for() -> None:
    routing = Routing(torch.tensor([[0, 4], [1, 4], [2, 3], [4, 0], [1, 2]]), torch.ones(5, 2))
    found = b.balance(routing, make_shape(4, 2))
    assert found.drop_rate == pytest.approx(3 / 10)


def test_expert_choice_reports_experts_per_token() -> None:
    shape = make_shape(16, 4, "expert_choice")
    found = measure(shape, 200, "gaussian:1")
    assert found.max_over_mean == 1
    assert found.drop_rate == 0
    assert found.max_over_mean_floor == 1
    assert found.cv2_floor == 0
    per_token = found.tokens_per_expert_choice
    assert per_token is not None
    assert sum(per_token) == 200
    assert sum(slots * count for slots, count in enumerate(per_token)) == sum(found.histogram) == 16 * 50
    assert per_token[0] == 0 or len(per_token) > 5
    assert len(per_token) > 5, "some tokens get more than k experts"


def test_mixture_reaches_every_expert() -> None:
    found = measure(make_shape(8, 2, "mixture"), 30)
    assert found.histogram == [30] * 8
    assert found.drop_rate == 0
    assert found.max_over_mean_floor == 1


@pytest.mark.parametrize("kind", ["softmax", "switch", "expert_choice", "mixture"])
def test_no_tokens_are_balanced_and_the_record_stays_json(kind: str) -> None:
    shape = make_shape(4, 1, kind)
    found = b.balance(route(torch.zeros(0, 4), shape), shape)
    assert (found.max_over_mean, found.cv2, found.gini, found.normalised_entropy) == (1, 0, 0, 1)
    assert (found.max_over_mean_floor, found.cv2_floor, found.drop_rate, found.tile_padding) == (1, 0, 0, 0)
    assert found.dead_experts == 4
    assert msgspec.json.decode(msgspec.json.encode(found), type=Balance, strict=True) == found


def test_all_dropped() -> None:
    shape = make_shape(4, 1, "switch")
    found = b.balance(Routing(torch.full((6, 1), 4), torch.zeros(6, 1)), shape)
    assert found.histogram == [0] * 4
    assert found.drop_rate == 1
    assert (found.max_over_mean, found.tile_padding, found.distinct_experts) == (1, 0, 0)
    assert all(math.isfinite(value) for value in msgspec.structs.asdict(found).values() if isinstance(value, float))


def test_one_expert() -> None:
    found = measure(make_shape(1, 1), 10)
    assert (found.max_over_mean, found.normalised_entropy, found.max_over_mean_floor) == (1, 1, 1)


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(0, 12), st.data())
def test_token_figures_agree_with_loops(experts: int, tokens: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, experts))
    rows = [data.draw(st.permutations(range(experts + 1)))[:k] for _ in range(tokens)]
    ids = torch.tensor(rows, dtype=torch.int64).reshape(tokens, k)
    assert b.experts_per_token(ids, experts) == [sum(len(set(r) - {experts}) == n for r in rows) for n in range(k + 1)]
