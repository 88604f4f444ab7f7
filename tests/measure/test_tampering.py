"""What a call was only lent: whether it was written to, and how it is put back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.layer.inputs import make_inputs
from harness.layer.weights import make_weights
from harness.measure.tampering import (
    changed_inputs,
    changed_weights,
    fingerprint,
    overwrite,
    restore_weights,
    versions,
)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("sizes", [{}, {"hidden": 9, "expert_hidden": 7, "bias": True}])
def test_any_change_of_any_weight_shows(kit: Any, sizes: dict[str, Any], dtype: str) -> None:
    case = kit.case(dtype=dtype, shared_experts=1, shared_hidden=3, shared_gated=True, **sizes)
    weights = make_weights(case)
    before = fingerprint(weights)
    assert changed_weights(weights, before) == []
    for name, tensor in weights.parameters().items():
        last = tensor.view(-1)[-1:]
        last.copy_(torch.nextafter(last.float(), torch.tensor(9.0)) if dtype == "fp32" else last * 1.01)
        assert changed_weights(weights, before) == [name]
        restore_weights(weights, case)
        assert changed_weights(weights, before) == []


def test_experts_that_change_places_show(kit: Any) -> None:
    weights = make_weights(kit.case())
    before = fingerprint(weights)
    weights.layer.down.copy_(weights.layer.down.roll(1, 0))
    assert changed_weights(weights, before) == ["down"]


def test_weights_are_put_back_where_they_were(kit: Any) -> None:
    """In training too, where they are leaves; views that somebody prepared see the restored values."""
    case = kit.case()
    weights = make_weights(case)
    down = weights.layer.down.requires_grad_()
    view, right = down.detach().flatten(), down.detach().clone()
    with torch.no_grad():
        down.zero_()
    restore_weights(weights, case)
    assert torch.equal(view, right.flatten())
    assert down.requires_grad


def test_weights_that_were_replaced_by_another_shape_are_put_back(kit: Any) -> None:
    case = kit.case()
    weights = make_weights(case)
    before = fingerprint(weights)
    weights.layer.down.data = torch.zeros(3)
    assert changed_weights(weights, before) == ["down"]
    restore_weights(weights, case)
    assert changed_weights(weights, before) == []


def test_changed_inputs_are_named(kit: Any) -> None:
    case = kit.case(pass_="training")
    weights = make_weights(case)
    pristine = make_inputs(case, weights, 0)
    inputs = pristine.clone()
    assert changed_inputs(inputs, pristine) == []
    assert inputs.dy is not None
    inputs.x[0, 0] += 1
    inputs.dy[0, 0] += 1
    assert changed_inputs(inputs, pristine) == ["x", "dy"]
    inputs.routing.expert_ids[0, 0] += 1
    inputs.routing.weights[0, 0] += 1
    assert changed_inputs(inputs, pristine) == ["x", "expert_ids", "routing weights", "dy"]


@pytest.mark.parametrize("name", ["x", "ids", "weights", "dy"])
def test_versions_tell_of_writes_through_views_and_leaves(kit: Any, name: str) -> None:
    case = kit.case(pass_="training")
    inputs = make_inputs(case, make_weights(case), 0)
    before = versions(inputs)
    assert inputs.dy is not None
    tensor = {"x": inputs.x, "ids": inputs.routing.expert_ids, "weights": inputs.routing.weights, "dy": inputs.dy}[name]
    tensor.sum()
    assert versions(inputs) == before
    alias = tensor.detach() if name == "ids" else tensor.detach().requires_grad_()
    with torch.no_grad():
        alias[0].zero_()
    assert versions(inputs) != before


@pytest.mark.parametrize("router", ["softmax", "expert_choice"])
def test_overwriting_puts_other_numbers_into_the_same_memory(kit: Any, router: str) -> None:
    case = kit.case(32, router=router, spread="zipf:1", pass_="training")
    weights = make_weights(case)
    first, second = make_inputs(case, weights, 0), make_inputs(case, weights, 1)
    desk = first.clone()
    now = overwrite(desk, second)
    assert changed_inputs(now, second) == []
    assert now.x.data_ptr() == desk.x.data_ptr()
    assert now.x.data_ptr() != second.x.data_ptr()
    now.routing.expert_ids.zero_()
    now.routing.weights.zero_()
    assert changed_inputs(second, make_inputs(case, weights, 1)) == []
