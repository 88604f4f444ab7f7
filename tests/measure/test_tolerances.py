"""Tolerances follow from the reference's errors, with floors; and what is judged by them."""

from __future__ import annotations

import math
import sys
from typing import Any

import msgspec
import pytest
import torch

from harness.layer.inputs import make_inputs
from harness.layer.oracle import Answer, solve
from harness.layer.weights import TORCH_DTYPES, make_weights
from harness.measure.agreement import Standard, judge
from harness.measure.tolerances import KINK, UNIT_ROUNDOFF, limits_of
from harness.records.record import Agreement

FLOORS = {"fp32": (16, 64), "bf16": (3, 8), "fp16": (3, 8)}


def answer(y: torch.Tensor, ambiguous: torch.Tensor | None = None, **gradients: torch.Tensor) -> Answer:
    return Answer({"y": y, **gradients}, ambiguous)


def truth(rows: int = 8, columns: int = 16) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dtype", FLOORS)
def test_an_exact_reference_leaves_the_floors(kit: Any, dtype: str) -> None:
    y, u = truth(), UNIT_ROUNDOFF[dtype]
    limits = limits_of(kit.case(dtype=dtype), answer(y, gate_up=y), answer(y, gate_up=y))
    rel, line = FLOORS[dtype]
    assert limits["y"][:2] == (rel * u, line * u)
    assert limits["gate_up"][:2] == (2 * rel * u, 2 * line * u)


def test_a_reference_that_errs_widens_them(kit: Any) -> None:
    y = truth()
    reference = y.clone()
    reference[3] *= 1.1
    limit = limits_of(kit.case(dtype="bf16"), answer(y), answer(reference))["y"]
    assert limit.rel == pytest.approx(2 * limit.e0.rel)
    assert limit.line == pytest.approx(4 * 0.1, rel=0.5)
    assert limit.line == 4 * max(limit.e0.worst_row, limit.e0.worst_column)


def test_the_unit_is_that_of_the_case_though_routers_are_float32(kit: Any) -> None:
    """Their gradients are float32 whatever the layer's dtype, and as inexact as the layer."""
    y = truth()
    for name in ("router", "weights"):
        limits = limits_of(kit.case(dtype="bf16"), answer(y, **{name: y}), answer(y, **{name: y}))
        assert limits[name].rel == 0.06
        assert limits[name].line == 0.24


@pytest.mark.parametrize("activation", ["relu", "clamped_swiglu"])
def test_a_kink_may_move_a_few_units(kit: Any, activation: str) -> None:
    y, case = truth(), kit.case(16, dtype="bf16", activation=activation, expert_hidden=512)
    limits = limits_of(case, answer(y, x=y), answer(y, x=y))
    assert limits["x"].line == 2 * KINK / math.sqrt(2 * 512)
    assert limits["x"].rel == pytest.approx(limits["x"].line / 4)
    assert limits["y"].rel == 3 * 2**-8
    smooth = limits_of(kit.case(16, dtype="bf16"), answer(y, x=y), answer(y, x=y))
    assert smooth["x"].line == 16 * 2**-8


def test_a_reference_that_overflows_widens_nothing_and_is_named(kit: Any) -> None:
    y = truth()
    reference = y.clone()
    reference[0, 0] = math.inf
    limits = limits_of(kit.case(dtype="fp16"), answer(y), answer(reference))
    assert limits["y"].rel == 3 * 2**-11
    agreement = judge({"y": reference.half()}, Standard(answer(y), limits))
    assert agreement.rule == (
        "y: 1 values are NaN or infinite; so are some of the eager reference: the dtype cannot hold this layer"
    )
    assert judge({"y": y.half()}, Standard(answer(y), limits)).passed


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("router", ["softmax", "sigmoid", "topk_softmax"])
@pytest.mark.parametrize("dtype", FLOORS)
def test_a_router_gradient_that_cancels_is_not_judged_by_its_rounding(
    kit: Any, dtype: str, router: str, top_k: int
) -> None:
    """One renormalised expert has weight 1 whatever the logits: nothing but rounding is left of the gradient."""
    case = kit.case(
        9, hidden=64, top_k=top_k, router=router, renormalise=True, scope="layer", pass_="training", dtype=dtype
    )
    weights = make_weights(case)
    inputs = make_inputs(case, weights, 0)
    oracle = solve(weights, case, inputs, torch.float64)
    limit = limits_of(case, oracle, solve(weights, case, inputs, TORCH_DTYPES[dtype]))["router"]
    norm = oracle.tensors["router"].norm().item()
    assert limit.rel < 0.1
    if top_k == 1:
        assert norm < 1e-6 * limit.least_norm
        assert limit.e0.rel < limit.rel
    elif dtype != "fp32":
        assert norm > 10 * limit.least_norm


def test_a_routing_weights_gradient_is_as_large_as_an_experts_output_before_the_routers_scale(kit: Any) -> None:
    case = kit.case(9, router="sigmoid", scale=2.5, pass_="training", dtype="fp32")
    weights = make_weights(case)
    oracle = solve(weights, case, make_inputs(case, weights, 0), torch.float64)
    limits = limits_of(case, oracle, oracle)
    assert limits["weights"].least_norm == pytest.approx(oracle.tensors["y"].norm().item() / 2.5)
    assert limits["down"].least_norm == 0


def test_tokens_whose_routing_may_flip_are_held_against_the_reference(kit: Any) -> None:
    y = truth()
    flipped = y.clone()
    flipped[2] = -y[2]
    ambiguous = torch.arange(8) == 2
    oracle = answer(y, ambiguous, gate_up=y)
    limits = limits_of(kit.case(), oracle, answer(flipped.float(), gate_up=y.float()))
    standard = Standard(oracle, limits, None, flipped.float())
    got = {"y": flipped.float(), "gate_up": y.float()}
    agreement = judge(got, standard)
    assert agreement.passed
    assert agreement.ambiguous_tokens == 1
    assert "the eager reference's" in judge({**got, "y": y.float()}, standard).rule
    assert judge({**got, "gate_up": flipped.float()}, standard).rule.startswith("gate_up: ")


def test_rows_left_out_are_tokens_never_experts(kit: Any) -> None:
    """With as many tokens as experts, an expert's gradient must not be taken for a token's."""
    y = truth(4)
    oracle = answer(y, torch.arange(4) == 1, down=y)
    limits = limits_of(kit.case(4), oracle, answer(y, down=y))
    wrong = y.clone()
    wrong[1] = 0
    assert judge({"y": y, "down": wrong}, Standard(oracle, limits)).rule.startswith("down: ")


def test_a_spot_check_still_wants_everything_finite(kit: Any) -> None:
    y, rows = truth(), torch.tensor([1, 5])
    oracle = answer(y[rows])
    limits = limits_of(kit.case(), oracle, answer(y), rows)
    standard = Standard(oracle, limits, rows)
    agreement = judge({"y": y, "down": y}, standard)
    assert (agreement.passed, agreement.rows_checked, agreement.rows_total) == (True, 2, 8)
    assert set(agreement.tensors) == {"y"}
    holed = y.clone()
    holed[0, 0] = math.nan
    assert judge({"y": holed}, standard).rule == "y: 1 values are NaN or infinite"
    assert judge({"y": y, "down": holed}, standard).rule == "down: 1 values are NaN or infinite"


def test_errors_without_measure_survive_json(kit: Any) -> None:
    y = truth()
    wrong = y.clone()
    wrong[0, 0] = math.nan
    zero = torch.zeros_like(y)
    oracle = answer(y, down=zero)
    limits = limits_of(kit.case(), oracle, answer(wrong, down=y))
    agreement = judge({"y": wrong, "down": y}, Standard(oracle, limits))
    again = msgspec.json.decode(msgspec.json.encode(agreement), type=Agreement)
    assert again == agreement
    assert again.tensors["y"].rel_error == sys.float_info.max
    assert again.tensors["down"].rel_tolerance == sys.float_info.max


def test_the_first_tensor_to_fail_decides(kit: Any) -> None:
    y = truth()
    oracle = answer(y, x=y, down=y)
    limits = limits_of(kit.case(), oracle, oracle)
    agreement = judge({"y": y, "x": y + 1, "down": y + 1}, Standard(oracle, limits))
    assert agreement.rule.startswith("x: relative error ")
    assert agreement.tensors["down"].rel_error > agreement.tensors["down"].rel_tolerance
