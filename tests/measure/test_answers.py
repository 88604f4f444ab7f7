"""What is asked, and what is known of the answers: computed once, and no more of it than is needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.layer.oracle import solve
from harness.layer.weights import make_weights
from harness.measure import answers as module
from harness.measure.answers import SAMPLED_ROWS, SPOT_ROWS, Answers, spot_rows
from harness.measure.tolerances import SPOT_SLACK


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Every computation: dtype, pass, number of rows or None, baseline."""
    calls: list[tuple[Any, ...]] = []

    def counted(weights: Any, case: Any, inputs: Any, dtype: Any, rows: Any = None, *, baseline: bool = False) -> Any:
        calls.append((str(dtype)[6:], case.pass_, None if rows is None else len(rows), baseline))
        return solve(weights, case, inputs, dtype, rows, baseline=baseline)

    monkeypatch.setattr(module, "solve", counted)
    return calls


def make(case: Any) -> Answers:
    return Answers(case, make_weights(case))


@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_each_draw_is_solved_once_and_the_reference_once_a_bout(kit: Any, solved: Any, pass_: str) -> None:
    answers = make(kit.case(200, dtype="bf16", pass_=pass_))
    for _ in range(3):
        answers.prepare(baseline=False)
        answers.prepare(baseline=True)
    for draw in (7, 7, 8):
        answers.standard(draw, baseline=False)
    spot = ("float64", pass_, SAMPLED_ROWS)
    assert solved == [
        ("bfloat16", pass_, None, False),
        ("float64", pass_, None, False),
        (*spot, False),
        ("bfloat16", pass_, None, True),
        ("float64", pass_, None, True),
        (*spot, True),
        (*spot, False),
        (*spot, False),
    ]


def test_too_much_work_for_the_oracle_is_sampled_but_never_training(
    kit: Any, solved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE_CHECK_FLOPS", {"cpu": 0})
    forward = make(kit.case(200)).standard(0, baseline=False)
    assert forward.rows is not None
    assert len(forward.rows) == SAMPLED_ROWS
    assert forward.reference_y is not None
    assert forward.reference_y.shape == (200, 32)
    assert make(kit.case(200, pass_="training")).standard(0, baseline=False).rows is None


def test_spot_checks_look_at_fewer_tokens_of_larger_layers(kit: Any) -> None:
    assert spot_rows(kit.case(200)) == SAMPLED_ROWS
    olmoe = kit.case(16, hidden=2048, expert_hidden=1024, experts=64, top_k=8)
    assert spot_rows(olmoe) == SPOT_ROWS == 4
    assert make(kit.case(3)).standard(5, baseline=False).rows.tolist() == [0, 1, 2]  # type: ignore[union-attr]


def test_a_spot_check_uses_the_tolerances_of_the_whole_one(kit: Any) -> None:
    answers = make(kit.case(100, pass_="training"))
    some, whole = (answers.standard(draw, baseline=False).limits for draw in (9, 0))
    assert list(some) == ["y", "x", "weights"]
    for name, limit in some.items():
        assert limit.rel == limit.line == SPOT_SLACK * whole[name].line, "each may be off as a row, and a little more"
    assert some["x"].least_norm == whole["x"].least_norm == 0
    assert 0 < some["weights"].least_norm < whole["weights"].least_norm, "fewer tokens add up to less"


def test_forgetting_frees_the_answers_and_keeps_the_tolerances(kit: Any, solved: Any) -> None:
    answers = make(kit.case())
    limits = answers.standard(0, baseline=False).limits
    answers.forget()
    solved.clear()
    assert answers.standard(5, baseline=False).limits["y"].e0 is limits["y"].e0
    assert [dtype for dtype, *_ in solved] == ["float64"]


def test_the_baseline_has_answers_of_its_own(kit: Any) -> None:
    answers = make(kit.case())
    mine, dense = (answers.standard(0, baseline=baseline).oracle.tensors["y"] for baseline in (False, True))
    assert not torch.allclose(mine, dense)


def test_fresh_inputs_are_new_tensors_and_those_of_the_gate_are_not(kit: Any) -> None:
    answers = make(kit.case())
    assert answers.draw(0) is answers.draw(0)
    assert answers.fresh(0) is not answers.fresh(0)
    assert torch.equal(answers.fresh(0).x, answers.draw(0).x)
    assert not torch.equal(answers.fresh(1).x, answers.draw(0).x)


def test_inputs_carry_no_graph_though_the_router_is_a_leaf(kit: Any) -> None:
    answers = make(kit.case(scope="layer", pass_="training"))
    answers.weights.router.requires_grad_()
    for inputs in (answers.draw(0), answers.fresh(1)):
        assert not inputs.x.requires_grad
        assert not inputs.routing.weights.requires_grad


@pytest.mark.parametrize("router", ["softmax", "sigmoid", "expert_choice", "switch", "mixture"])
def test_hardly_a_token_is_ambiguous(kit: Any, router: str) -> None:
    """Tokens left to the reference weaken the check: there must be few, under skew too."""
    for spread in ("uniform", "zipf:3", "single_hot"):
        case = kit.case(
            512, experts=16, top_k=1 if router == "switch" else 2, router=router, scope="layer", spread=spread
        )
        ambiguous = make(case).standard(0, baseline=False).oracle.ambiguous
        assert ambiguous is not None
        assert ambiguous.sum() <= 2
