"""The cases of ``moebench validate`` cover every router, dtype and pass, and the edges."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from harness.cases.case import DTYPE_BYTES, PASSES, Case
from harness.cases.cost import memory_estimate_bytes
from harness.cases.shape import ACTIVATIONS, ROUTER_KINDS
from harness.cases.traffic import TRAFFIC_KINDS
from harness.cases.validation import validation_cases

CASES = [planned.case for planned in validation_cases("cpu")]


def test_every_case_is_there_once_and_for_everybody() -> None:
    assert max(Counter(case.case_id for case in CASES).values()) == 1
    assert all(planned.implementations is None for planned in validation_cases("cpu"))


def test_every_router_dtype_and_pass_in_both_scopes() -> None:
    covered = {(case.shape.router.kind, case.dtype, case.pass_, case.scope) for case in CASES}
    assert covered >= set(product(ROUTER_KINDS, DTYPE_BYTES, PASSES, ("experts", "layer")))


@pytest.mark.parametrize("dtype", DTYPE_BYTES)
@pytest.mark.parametrize("pass_", PASSES)
def test_the_edges_of_shape_and_traffic(dtype: str, pass_: str) -> None:
    here = [case for case in CASES if (case.dtype, case.pass_) == (dtype, pass_)]
    shapes = [case.shape for case in here]
    assert {shape.activation for shape in shapes} == set(ACTIVATIONS)
    assert {shape.gated for shape in shapes} == {shape.bias for shape in shapes} == {True, False}
    assert any(shape.shared_experts > 1 for shape in shapes)
    assert any(shape.shared_gated for shape in shapes)
    assert any(shape.experts == 1 for shape in shapes)
    assert any(shape.top_k == shape.experts > 1 for shape in shapes)
    assert any(shape.top_k == 1 < shape.experts and shape.router.kind != "switch" for shape in shapes)
    assert any(shape.router.capacity_factor < 1 for shape in shapes), "tokens are dropped"
    assert any(shape.router.groups > 1 for shape in shapes)
    assert {0, 1} <= {case.traffic.tokens for case in here}
    assert {case.traffic.kind for case in here} >= {"single_hot", "k_hot", "tile", "zipf", "temporal"}
    assert {case.traffic.kind for case in here} <= set(TRAFFIC_KINDS)


def test_sizes_are_small_and_divide_no_tile() -> None:
    assert max(memory_estimate_bytes(case) for case in CASES) < 32 << 20
    assert any(case.shape.expert_hidden % 64 for case in CASES)
    assert any(case.traffic.tokens % 8 for case in CASES)


def test_the_device_is_the_one_asked_for() -> None:
    assert {case.device for case in CASES} == {"cpu"}
    on_gpu: list[Case] = [planned.case for planned in validation_cases("cuda")]
    assert {case.device for case in on_gpu} == {"cuda:0"}
    assert len(on_gpu) == len(CASES)
