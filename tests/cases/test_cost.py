"""Cost: the published floors to the microsecond, and what must hold for every shape."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases import cost
from harness.cases.case import Case
from harness.cases.presets import preset
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic

H100_FLOPS, H100_BYTES = 989e12, 3.35e12
TOKENS = (1, 8, 64, 512, 4096, 32768)
# Microseconds of one bf16 layer's routed experts under uniform routing; B bandwidth-bound, C compute-bound.
FLOORS = {
    "mixtral-8x7b": "210 B, 757 B, 842 B, 844 B, 2918 C, 23347 C",
    "qwen3-30b-a3b": "23 B, 145 B, 355 B, 362 B, 371 B, 2501 C",
    "qwen3-235b-a22b": "90 B, 582 B, 1419 B, 1445 B, 1462 B, 10006 C",
    "qwen3-next-80b-a3b": "19 B, 140 B, 690 B, 963 B, 972 B, 2085 C",
    "olmoe-1b-7b": "30 B, 158 B, 240 B, 242 B, 417 C, 3335 C",
    "gpt-oss-20b": "59 B, 312 B, 476 B, 477 B, 824 C, 6596 C",
    "gpt-oss-120b": "59 B, 427 B, 1652 B, 1903 B, 1916 B, 6596 C",
    "deepseek-v2-lite": "31 B, 180 B, 330 B, 332 B, 430 C, 3439 C",
    "deepseek-v3": "210 B, 1510 B, 5849 B, 6735 B, 6766 B, 23347 C",
}
CELLS = [
    (name, tokens, *cell.split())
    for name, row in FLOORS.items()
    for tokens, cell in zip(TOKENS, row.split(", "), strict=True)
]
BOUNDS = {"B": "bandwidth", "C": "compute"}


@pytest.mark.parametrize(("name", "tokens", "us", "bound"), CELLS)
def test_floor_table(name: str, tokens: int, us: str, bound: str) -> None:
    case = Case(shape=preset(name), traffic=Traffic(tokens=tokens))
    flops = cost.useful_flops(case, tokens * case.shape.top_k)
    moved = cost.min_bytes(case, cost.expected_distinct_experts(case.shape, tokens))
    floor = cost.floor(flops, moved, H100_FLOPS, H100_BYTES)
    assert round(floor.time_ns / 1e3) == int(us)
    assert floor.bound == BOUNDS[bound]


@pytest.mark.parametrize(
    ("experts", "top_k", "row"),
    [
        (8, 2, (5.5, 7.9, 8, 8)),
        (64, 8, (26.5, 56.4, 64, 64)),
        (128, 8, (29.1, 82.4, 125.9, 128)),
        (256, 8, (30.5, 102, 222, 255.9)),
    ],
)
def test_expected_distinct_experts_table(experts: int, top_k: int, row: tuple[float, ...]) -> None:
    shape = Shape(hidden=1, expert_hidden=1, experts=experts, top_k=top_k)
    found = [cost.expected_distinct_experts(shape, tokens) for tokens in (4, 16, 64, 256)]
    assert found == pytest.approx(row, abs=0.5 if experts == 256 else 0.06)


def a_case(scope: str = "layer", pass_: str = "forward", **changes: Any) -> Case:
    sizes: dict[str, Any] = {"hidden": 8, "expert_hidden": 4, "experts": 4, "top_k": 2}
    about: dict[str, Any] = {"scope": scope, "pass_": pass_, "dtype": "bf16"}
    return Case(shape=Shape(**{**sizes, **changes}), traffic=Traffic(tokens=10), **about)


def test_flops_by_hand() -> None:
    slots = 20
    assert cost.useful_flops(a_case("experts"), slots) == 6 * slots * 8 * 4
    assert cost.useful_flops(a_case("experts", gated=False), slots) == 4 * slots * 8 * 4
    router = 2 * 10 * 8 * 4
    assert cost.useful_flops(a_case(), slots) == 6 * slots * 8 * 4 + router
    assert cost.useful_flops(a_case(), slots, has_router=False) == 6 * slots * 8 * 4
    shared = a_case(shared_experts=2, shared_hidden=3)
    assert cost.useful_flops(shared, slots) == 6 * slots * 8 * 4 + router + 6 * 10 * 8 * 6
    gate = a_case(shared_experts=2, shared_hidden=3, shared_gated=True)
    assert cost.useful_flops(gate, slots) - cost.useful_flops(shared, slots) == 2 * 10 * 8


def test_shared_experts_cost_nothing_where_they_do_not_run() -> None:
    plain, shared = a_case("experts"), a_case("experts", shared_experts=1, shared_hidden=3)
    assert cost.useful_flops(plain, 20) == cost.useful_flops(shared, 20)
    assert cost.min_bytes(plain, 4) == cost.min_bytes(shared, 4)


def test_bytes_by_hand() -> None:
    expert, row = 3 * 8 * 4 * 2, 10 * 8 * 2
    assert cost.min_bytes(a_case("experts"), 3) == 3 * expert + 2 * row
    assert cost.min_bytes(a_case(), 3) == 3 * expert + 2 * row + 4 * 8 * 4
    assert cost.min_bytes(a_case(), 3, has_router=False) == 3 * expert + 2 * row
    assert cost.min_bytes(a_case("experts", "training"), 3) == 2 * 3 * expert + 4 * expert + 5 * row
    shared = a_case(shared_experts=1, shared_hidden=5)
    assert cost.min_bytes(shared, 3) - cost.min_bytes(a_case(), 3) == 3 * 8 * 5 * 2


def test_training_is_three_forward_passes_of_arithmetic() -> None:
    for scope in ("experts", "layer"):
        assert cost.useful_flops(a_case(scope, "training"), 20) == 3 * cost.useful_flops(a_case(scope), 20)


def test_floor_picks_the_longer_side() -> None:
    assert cost.floor(1e12, 1.0, 1e12, 1e9) == cost.Floor(1e9, "compute")
    assert cost.floor(1.0, 1e9, 1e12, 1e9) == cost.Floor(1e9, "bandwidth")
    assert cost.floor(0.0, 0.0, 1e12, 1e9) == cost.Floor(0.0, "bandwidth")


shapes = st.builds(
    lambda hidden, width, experts, share, gated: Shape(
        hidden=hidden, expert_hidden=width, experts=experts, top_k=max(1, int(share * experts)), gated=gated
    ),
    st.integers(1, 512),
    st.integers(1, 512),
    st.integers(1, 300),
    st.floats(0, 1),
    st.booleans(),
)


@given(shapes, st.integers(0, 10_000))
def test_distinct_experts_stay_in_range(shape: Shape, tokens: int) -> None:
    found = cost.expected_distinct_experts(shape, tokens)
    slots = tokens * shape.top_k
    assert min(slots, shape.top_k) - 1e-6 <= found <= min(slots, shape.experts) + 1e-6
    assert found <= cost.expected_distinct_experts(shape, tokens + 1) + 1e-9


@given(shapes, st.integers(0, 4096))
def test_memory_holds_at_least_weights_and_grows(shape: Shape, tokens: int) -> None:
    case = Case(shape=shape, traffic=Traffic(tokens=tokens))
    needed = cost.memory_estimate_bytes(case)
    assert needed >= shape.total_params * 2 + tokens * shape.top_k * (3 if shape.gated else 2) * shape.expert_hidden * 2
    assert cost.memory_estimate_bytes(msgspec.structs.replace(case, traffic=Traffic(tokens=tokens + 1))) > needed
    assert cost.memory_estimate_bytes(msgspec.structs.replace(case, pass_="training")) > needed
    assert cost.memory_estimate_bytes(msgspec.structs.replace(case, dtype="fp32")) > needed


def test_memory_of_a_real_layer_is_near_its_weights_when_few_tokens_arrive() -> None:
    case = Case(shape=preset("deepseek-v3"), traffic=Traffic(tokens=1))
    assert 1.0 < cost.memory_estimate_bytes(case) / (case.shape.total_params * 2) < 1.05


def test_memory_counts_gradients_of_every_weight_in_training() -> None:
    case = Case(shape=preset("olmoe-1b-7b"), traffic=Traffic(tokens=1), pass_="training")
    assert cost.memory_estimate_bytes(case) > case.shape.total_params * (2 + 4 + 2 + 2)


@pytest.mark.parametrize(
    ("pass_", "dtype", "beside_weights"),
    [
        # inputs: rows and 20 slots; answers: float64 once, the dtype twice; then the oracle's expert or the workspace
        ("forward", "bf16", (80 * 2 + 20 * 12) + 80 * (8 + 2 * 2) + (96 + 5 * 28) * 8),
        ("training", "bf16", (160 * 2 + 20 * 12) + 160 * (8 + 2 * 2) + 416 * (4 + 2 * 2) + 2 * (96 + 5 * 28) * 8),
        ("training", "fp32", (160 * 4 + 20 * 12) + 160 * (8 + 2 * 4) + 416 * (8 + 2 * 4) + 2 * 20 * 28 * 4),
    ],
)
def test_memory_by_hand(pass_: str, dtype: str, beside_weights: int) -> None:
    """10 tokens of 8: 20 slots over 4 experts of 3 * 8 * 4 = 96 weights; with the router's 32, 416 in all.

    A slot's rows are 3 * 4 + 2 * 8 = 28 wide. Five slots an expert: the oracle's share.
    """
    case = msgspec.structs.replace(a_case(pass_=pass_), dtype=dtype)
    needed = cost.memory_estimate_bytes(case)
    assert needed == 4 * 96 * case.dtype_bytes + 32 * 4 + beside_weights
