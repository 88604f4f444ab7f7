"""The gate against planted bugs: every one is turned away, by the rule that fits it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.layer.contract import Forward, Layer, Routing

DTYPES = ("fp32", "bf16", "fp16")
SIZES = [
    pytest.param({"tokens": 5, "hidden": 64}, id="T5-H64"),
    pytest.param({"tokens": 64, "hidden": 1024, "experts": 16, "top_k": 8, "expert_hidden": 16}, id="T64-H1024-k8"),
    pytest.param({"tokens": 512, "hidden": 96, "experts": 16, "top_k": 8, "expert_hidden": 16}, id="T512-H96-k8"),
]
Bug = Callable[[Any, Layer], Forward]


def of_answer(change: Callable[[Tensor], Tensor]) -> Bug:
    """A bug that spoils a right answer."""
    return lambda kit, layer: lambda x, routing: change(kit.experts(layer, x, routing))


def of_routing(change: Callable[[Routing], Routing]) -> Bug:
    """A bug that computes the right thing from a wrong routing."""
    return lambda kit, layer: lambda x, routing: kit.experts(layer, x, change(routing))


def lose_smallest_slot(routing: Routing) -> Routing:
    weights, token = routing.weights.clone(), len(routing.weights) // 2
    weights[token, weights[token].argmin()] = 0
    return Routing(routing.expert_ids, weights)


def zero_column(y: Tensor) -> Tensor:
    y[:, 3] = 0
    return y


def swap_rows(y: Tensor) -> Tensor:
    return y[[1, 0, *range(2, len(y))]]


def one_value(value: float) -> Callable[[Tensor], Tensor]:
    def change(y: Tensor) -> Tensor:
        y[-1, -1] = value
        return y

    return change


def unwritten_row(y: Tensor) -> Tensor:
    out = torch.empty_like(y)
    out[:-1] = y[:-1]
    return out


WORST, REL = r"y: (worst row's|relative)", r"y: relative error"
ANSWER_BUGS: dict[str, tuple[Bug, str]] = {
    "smallest slot lost": (of_routing(lose_smallest_slot), WORST),
    "gates x 1.02": (of_routing(lambda r: Routing(r.expert_ids, r.weights * 1.02)), REL),
    "zero column": (of_answer(zero_column), r"y: (worst column's|relative)"),
    "rows swapped": (of_answer(swap_rows), WORST),
    "unwritten row": (of_answer(unwritten_row), r"y: (worst row|relative|\d+ values are NaN)"),
    "NaN": (of_answer(one_value(float("nan"))), r"y: 1 values are NaN or infinite"),
    "infinity": (of_answer(one_value(float("inf"))), r"y: 1 values are NaN or infinite"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bug", ANSWER_BUGS)
def test_a_wrong_answer_is_caught(kit: Any, bug: str, size: dict[str, int], dtype: str) -> None:
    plant, rule = ANSWER_BUGS[bug]
    assert re.match(rule, kit.refused(lambda layer: plant(kit, layer), kit.case(**size, dtype=dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [16, 512])
def test_one_feature_of_a_wide_layer_is_caught(kit: Any, tokens: int, dtype: str) -> None:
    """With 7168 columns a zero one is 1.2 % of the norm, no more than bf16's rounding: the column rule finds it."""
    case = kit.case(tokens, hidden=7168, expert_hidden=4, experts=2, dtype=dtype)
    assert kit.refused(lambda layer: ANSWER_BUGS["zero column"][0](kit, layer), case).startswith("y: ")


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_token_of_many_is_caught_where_the_oracle_computes_a_sample(
    kit: Any, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token lies outside the sample: the eager reference stands in."""
    monkeypatch.setattr("harness.measure.answers.WHOLE_CHECK_FLOPS", {"cpu": 0})
    monkeypatch.setattr("harness.measure.answers.SAMPLED_ROWS", 8)
    case = kit.case(256, dtype=dtype)
    rows = kit.examiner(case).answers.standard(0, baseline=False).rows
    assert len(rows) == 8
    lost = next(token for token in range(256) if token not in rows)

    def spoil(y: Tensor) -> Tensor:
        y[lost] *= 1.2
        return y

    rule = kit.refused(lambda layer: of_answer(spoil)(kit, layer), case)
    assert re.match(r"y: worst row is 0\.2 from the eager reference's", rule)
    assert kit.admit(kit.correct, case).agreement.rows_checked == 8


def change_x(x: Tensor, _routing: Routing) -> None:
    x.mul_(2)


def change_ids(_x: Tensor, routing: Routing) -> None:
    routing.expert_ids.copy_(routing.expert_ids.flip(1))


def change_weights(_x: Tensor, routing: Routing) -> None:
    routing.weights.sort(descending=True)
    routing.weights.add_(1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("change", "what"), [(change_x, "x"), (change_ids, "expert_ids"), (change_weights, "routing weights")]
)
def test_a_changed_input_is_caught(kit: Any, change: Any, what: str, dtype: str) -> None:
    def prepare(layer: Layer) -> Forward:
        def forward(x: Tensor, routing: Routing) -> Any:
            y = kit.experts(layer, x, routing)
            change(x, routing)
            return y

        return forward

    assert kit.refused(prepare, kit.case(dtype=dtype)) == f"the call changed its inputs: {what}"


def test_a_changed_gradient_from_above_is_caught(kit: Any) -> None:
    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, y: Tensor) -> Tensor:
            return y.clone()

        @staticmethod
        def backward(_ctx: Any, dy: Tensor) -> Tensor:
            right = dy.clone()
            dy.zero_()
            return right

    def prepare(layer: Layer) -> Forward:
        return lambda x, routing: Spoil.apply(kit.experts(layer, x, routing))  # type: ignore[no-untyped-call]

    assert kit.refused(prepare, kit.case(pass_="training")) == "the call changed its inputs: dy"


@pytest.mark.parametrize("where", ["prepare", "call", "swap", "data"])
def test_changed_weights_are_caught_and_put_back(kit: Any, where: str) -> None:
    def prepare(layer: Layer) -> Forward:
        if where == "prepare":
            layer.down[0, 0, 0] += 1
        if where == "data":
            layer.down.data = layer.down.data.mT.contiguous()

        def forward(x: Tensor, routing: Routing) -> Any:
            y = kit.experts(layer, x, routing)
            if where == "call":
                layer.down[0, 0, 0] += 1
            if where == "swap":
                layer.proj_in.copy_(layer.proj_in.roll(1, 0))
            return y

        return forward

    case = kit.case(hidden=24)
    examiner = kit.examiner(case)
    before = {name: p.clone() for name, p in examiner.weights.parameters().items()}
    with pytest.raises(Exception, match=r"weights were changed: (down|gate_up)"):
        examiner.admit(kit.implementation(prepare), kit.clock, lambda _stage: None)
    assert all(torch.equal(p, before[name]) for name, p in examiner.weights.parameters().items())
    examiner.admit(kit.implementation(), kit.clock, lambda _stage: None)


def remembering(key: Callable[[Tensor, Routing], Any]) -> Bug:
    """An implementation that computes an answer once for each key."""

    def plant(kit: Any, layer: Layer) -> Forward:
        known: dict[Any, Tensor] = {}

        def forward(x: Tensor, routing: Routing) -> Any:
            if key(x, routing) not in known:
                known[key(x, routing)] = kit.experts(layer, x, routing)
            return known[key(x, routing)]

        return forward

    return plant


def stale(kit: Any, layer: Layer) -> Forward:
    """Returns what the call before should have returned."""
    answers: list[Tensor] = []

    def forward(x: Tensor, routing: Routing) -> Any:
        answers.append(kit.experts(layer, x, routing))
        return answers[-2:][0]

    return forward


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(remembering(lambda _x, _routing: None), id="for-ever"),
        pytest.param(remembering(lambda x, _routing: x.data_ptr()), id="by-address"),
        pytest.param(remembering(lambda x, routing: (x.shape, routing.expert_ids.shape)), id="by-shape"),
        pytest.param(stale, id="the-call-before"),
    ],
)
def test_an_answer_from_memory_is_caught(kit: Any, plant: Bug, dtype: str) -> None:
    assert kit.refused(lambda layer: plant(kit, layer), kit.case(64, dtype=dtype)).startswith("y: ")


def test_who_writes_after_returning_is_caught(kit: Any) -> None:
    """A thread fills the output later; what counts is what stood there when the clock stopped."""
    threads = []
    judged = threading.Event()

    def prepare(layer: Layer) -> Forward:
        def forward(x: Tensor, routing: Routing) -> Any:
            y, right = torch.zeros_like(x), kit.experts(layer, x, routing)

            def write() -> None:
                judged.wait(60)
                y.copy_(right)

            threads.append(threading.Thread(target=write))
            threads[-1].start()
            return y

        return forward

    assert kit.refused(prepare, kit.case()) == "y: relative error 1 above 9.5e-07"
    judged.set()
    for thread in threads:
        thread.join()


def one_expert_without_gradient(kit: Any, layer: Layer, x: Tensor, routing: Routing) -> Any:
    down = layer.down.clone()
    down[1] = layer.down[1].detach()
    return kit.experts(Layer(layer.shape, layer.gate_up, layer.up, down), x, routing)


def gradient_for_an_unused_expert(kit: Any, layer: Layer, x: Tensor, routing: Routing) -> Any:
    return kit.experts(layer, x, routing) + 1e-4 * (layer.down[-1] - layer.down[-1].detach()).sum()


def weights_detached(kit: Any, layer: Layer, x: Tensor, routing: Routing) -> Any:
    return kit.experts(layer, x, Routing(routing.expert_ids, routing.weights.detach()))


def x_detached_from_the_gate(kit: Any, layer: Layer, x: Tensor, routing: Routing) -> Any:
    """dx without what comes through the first expert."""
    mine = Routing(routing.expert_ids.masked_fill(routing.expert_ids != 0, layer.shape.experts), routing.weights)
    others = Routing(routing.expert_ids.masked_fill(routing.expert_ids == 0, layer.shape.experts), routing.weights)
    return kit.experts(layer, x.detach(), mine) + kit.experts(layer, x, others)


def gradients_two_percent_up(kit: Any, layer: Layer, x: Tensor, routing: Routing) -> Any:
    y = kit.experts(layer, x, routing)
    return 1.05 * y - 0.05 * y.detach()


def nothing_depends_on_the_first_projection(kit: Any, layer: Layer, x: Tensor, routing: Routing) -> Any:
    assert layer.gate_up is not None
    return kit.experts(Layer(layer.shape, layer.gate_up.detach(), None, layer.down), x, routing)


GRADIENT_BUGS = [
    (one_expert_without_gradient, {}, "down: "),
    (gradient_for_an_unused_expert, {"tokens": 12, "spread": "k_hot", "seed": 1}, "down: "),
    (weights_detached, {}, "weights: relative error 1 "),
    (weights_detached, {"scope": "layer", "renormalise": True}, "(x|router): "),
    (x_detached_from_the_gate, {}, "x: "),
    (gradients_two_percent_up, {}, "(x|gate_up): "),
    (nothing_depends_on_the_first_projection, {}, "gate_up: relative error 1 "),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "relu"])
@pytest.mark.parametrize(("bug", "given", "rule"), GRADIENT_BUGS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_gradient_is_caught(
    kit: Any, bug: Any, given: dict[str, Any], rule: str, activation: str, dtype: str
) -> None:
    case = kit.case(**{"tokens": 256, **given}, pass_="training", dtype=dtype, activation=activation)
    if bug is gradient_for_an_unused_expert:
        used = kit.examiner(case).answers.draw(0).routing.expert_ids
        assert case.shape.experts - 1 not in used
    found = kit.refused(lambda layer: lambda x, routing: bug(kit, layer, x, routing), case)
    assert re.match(rule, found), found


def test_gradients_left_out_of_poisoned_memory_are_caught(kit: Any) -> None:
    """A gradient with a row that is never written, right by luck in ordinary memory."""

    class Lucky(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, y: Tensor) -> Tensor:
            return y.clone()

        @staticmethod
        def backward(_ctx: Any, dy: Tensor) -> Tensor:
            fresh = torch.empty(1)
            return dy + fresh if fresh.isnan() else dy

    def prepare(layer: Layer) -> Forward:
        return lambda x, routing: Lucky.apply(kit.experts(layer, x, routing))  # type: ignore[no-untyped-call]

    assert re.match(r"x: \d+ values are NaN", kit.refused(prepare, kit.case(pass_="training")))
