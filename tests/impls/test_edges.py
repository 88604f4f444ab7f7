"""What breaks implementations: few tokens, empty experts, dropped slots, odd strides, memory that holds NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.layer.contract import Routing


@pytest.fixture(params=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("pass_", ["forward", "training"])
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 31])
def test_few_tokens(lab: Any, name: str, tokens: int, pass_: str, dtype: str) -> None:
    problem = lab.problem(tokens, dtype=dtype, pass_=pass_, bias=True)
    with lab.poison():
        got = lab.assert_agrees(name, problem)
    assert got["y"].shape == (tokens, 64)


@pytest.mark.parametrize(
    "sizes", [{"experts": 4, "top_k": 4}, {"experts": 5, "top_k": 1}, {"experts": 1, "top_k": 1}], ids=str
)
def test_odd_shapes(lab: Any, name: str, sizes: dict[str, int], dtype: str) -> None:
    lab.assert_agrees(name, lab.problem(**sizes, dtype=dtype))


@pytest.mark.parametrize("router", ["mixture", "expert_choice", "switch"])
def test_routers_whose_slots_are_not_top_k(lab: Any, name: str, router: str, dtype: str) -> None:
    problem = lab.problem(40, router=router, top_k=1 if router == "switch" else 2, dtype=dtype, bias=True, seed=1)
    ids = problem.inputs.routing.expert_ids
    assert (ids.shape[1] != 2) if router != "switch" else (ids == 8).any()
    with lab.poison():
        lab.assert_agrees(name, problem)


ROUTINGS = {
    "one expert takes all": [[3]] * 12,
    "all on the same two, unsorted": [[6, 1]] * 12,
    "every expert one token": [[e] for e in range(8)] + [[8]] * 4,
    "first and last expert empty": [[1 + t % 6] for t in range(12)],
    "dropped first slot": [[8, t % 8] for t in range(12)],
    "dropped last slot": [[t % 8, 8] for t in range(12)],
    "some tokens without any expert": [[8, 8] if t % 3 else [t % 8, (t + 3) % 8] for t in range(12)],
    "only the first token has an expert": [[7, 8]] + [[8, 8]] * 11,
    "only the last token has an expert": [[8, 8]] * 11 + [[8, 0]],
    "everything dropped": [[8, 8]] * 12,
    "no slots beyond one": [[8]] * 12,
    "more slots than top-k": [[0, 1, 2, 3, 4, 5, 6, 7]] * 6 + [[7, 6, 8, 8, 8, 8, 8, 8]] * 6,
}


@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS.keys())
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_routing_by_hand(lab: Any, moe: str, routing: list[list[int]], bias: bool, dtype: str) -> None:
    problem = lab.problem(12, dtype=dtype, bias=bias).routed(routing)
    with lab.poison():
        got = lab.assert_agrees(moe, problem)
    ids = problem.inputs.routing.expert_ids
    unused = torch.ones(9, dtype=torch.bool).index_fill(0, ids.unique(), value=False)[:8]
    for key in problem.weights.layer.parameters():
        assert not got[key][unused].any(), f"{key}: an expert without tokens has a gradient"
    assert not got["weights"][ids == 8].any(), "a dropped slot has a gradient"
    assert not got["y"][(ids == 8).all(1)].any(), "a token without experts has an output"


def test_a_kept_slot_of_weight_zero_has_a_gradient(lab: Any, moe: str) -> None:
    problem = lab.problem(12)
    weights = problem.inputs.routing.weights.clone()
    weights[::2, 0] = 0
    got = lab.assert_agrees(moe, problem.routed(problem.inputs.routing.expert_ids, weights))
    assert got["weights"][::2, 0].all()


def test_extreme_weights(lab: Any, moe: str, dtype: str) -> None:
    """What logits of +-80 leave behind: one slot has all the weight, the other next to none."""
    problem = lab.problem(12, dtype=dtype)
    weights = torch.softmax(torch.tensor([[80.0, -80.0]] * 12), dim=-1)
    lab.assert_agrees(moe, problem.routed(problem.inputs.routing.expert_ids, weights))


def test_strided_inputs(lab: Any, name: str, dtype: str) -> None:
    problem = lab.problem(dtype=dtype)
    plain = lab.ask(name, problem)
    inputs, strided = problem.inputs, []
    for tensor in (inputs.x, inputs.routing.expert_ids, inputs.routing.weights, inputs.dy):
        wide = torch.stack([tensor, tensor], dim=-1)[..., 0]
        assert not wide.is_contiguous()
        strided.append(wide)
    x, ids, weights, dy = strided
    got = lab.ask(
        name, type(problem)(problem.case, problem.weights, type(inputs)(x, Routing(ids, weights), dy, None, None))
    )
    assert all(torch.allclose(got[key].double(), plain[key].double(), rtol=2e-2, atol=1e-3) for key in plain)
    lab.assert_agrees(name, problem, got)


def test_duplicated_tokens_get_the_same_answer(lab: Any, name: str) -> None:
    problem = lab.problem(2, pass_="forward", dtype="bf16")
    ids, weights = problem.inputs.routing.expert_ids, problem.inputs.routing.weights
    doubled = lab.problem(64, pass_="forward", dtype="bf16").with_x(problem.inputs.x.repeat(32, 1))
    y = lab.ask(name, doubled.routed(ids.repeat(32, 1), weights.repeat(32, 1)))["y"].view(32, 2, -1)
    torch.testing.assert_close(y, y[:1].expand_as(y), rtol=2e-2, atol=2e-2)


def test_poisoned_rows_stay_unread_on_larger_buffers(lab: Any, moe: str) -> None:
    """Recycled memory full of NaN, half of all slots dropped."""
    problem = lab.problem(64, dtype="bf16", bias=True)
    ids = problem.inputs.routing.expert_ids.clone()
    ids[::2, 1] = 8
    ids[1::4] = 8
    for size in (1 << 10, 1 << 14, 1 << 18):
        torch.full((size,), float("nan"))
    with lab.poison():
        lab.assert_agrees(moe, problem.routed(ids))
