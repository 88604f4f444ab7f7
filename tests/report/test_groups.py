"""Groups of cases and the order inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.cases.shape import Shape
from harness.report.style import FAMILY_COLOURS
from harness.report.sweeps import sweeps

if TYPE_CHECKING:
    from tests.report.conftest import Factory


def test_groups_keep_the_order_of_the_records(make: Factory) -> None:
    cases = [make.case(64), make.case(64, pass_="training"), make.case(1)]
    found = make.groups(make.run([make.timed(case, "loop") for case in cases]))
    assert [group.case.pass_ for group in found] == ["forward", "training"]
    assert found[0].tokens == [1, 64]


def test_traffic_goes_from_balanced_to_skewed(make: Factory) -> None:
    cases = [make.case(tokens, spread) for spread in ("zipf", "gaussian", "uniform") for tokens in (8, 4096)]
    (group,) = make.groups(make.machine(cases))
    assert group.spreads == ["uniform", "gaussian:0.15", "zipf:1"]
    order = [(outcome.tokens, outcome.spread) for outcome in group.outcomes]
    assert order == [(tokens, spread) for tokens in (8, 4096) for spread in group.spreads]


def test_the_main_traffic_has_most_tokens_and_is_realistic(make: Factory) -> None:
    some = [make.case(8, "uniform"), make.case(8, "gaussian")]
    (group,) = make.groups(make.machine(some))
    assert group.main_spread == "gaussian:0.15"
    (group,) = make.groups(make.machine([*some, make.case(64, "uniform")]))
    assert group.main_spread == "uniform"


def test_the_lowest_seed_is_drawn(make: Factory) -> None:
    cases = [make.case(8, seed=2), make.case(8, seed=1), make.case(64, seed=2)]
    (group,) = make.groups(make.run([make.timed(case, "loop") for case in cases]))
    assert group.seeds == [1, 2]
    assert [(outcome.tokens, outcome.seed) for outcome in group.drawn_outcomes] == [(8, 1), (64, 2)]
    assert sorted(group.drawn["seed"]) == [1, 2]


def test_columns_go_by_family_with_the_baseline_last(make: Factory) -> None:
    case = make.case()
    names = {"a": "dense", "b": "peer", "c": "loop", "d": "new", "e": "fused"}
    (group,) = make.groups(make.run([make.timed(case, name, family=family) for name, family in names.items()]))
    assert group.impls == ["c", "e", "b", "d", "a"]
    assert group.baselines == ["a"]
    assert group.looks["c"].colour == FAMILY_COLOURS["loop"].lower()


def test_members_of_a_family_look_different(make: Factory) -> None:
    case = make.case()
    (group,) = make.groups(make.run([make.timed(case, f"p{n}", family="peer") for n in range(4)]))
    assert len({(look.colour, look.marker) for look in group.looks.values()}) == 4


def test_cost_of_sparsity_compares_the_fastest_with_dense(make: Factory) -> None:
    case = make.case()
    records = [make.timed(case, "loop", 3e6), make.timed(case, "batched", 2e6), make.timed(case, "dense", 1e6)]
    (group,) = make.groups(make.run(records))
    (outcome,) = group.outcomes
    assert outcome.cost_of_sparsity == pytest.approx(2.0)
    (group,) = make.groups(make.run(records[:2]))
    assert group.outcomes[0].cost_of_sparsity is None


def test_the_cost_of_sparsity_is_held_against_the_fastest_baseline_that_counts(make: Factory) -> None:
    case = make.case()
    records = [
        make.timed(case, "loop", 4e6),
        make.timed(case, "dense", 2e6),
        make.timed(case, "dense.slow", 3e6, family="dense"),
        make.timed(case, "dense.wrong", 1e3, family="dense", status="impossible", reason="too fast"),
    ]
    (group,) = make.groups(make.run(records))
    assert group.outcomes[0].cost_of_sparsity == pytest.approx(2.0)


def test_no_speed_is_drawn_that_does_not_count(make: Factory) -> None:
    case = make.case()
    records = [
        make.timed(case, "loop"),
        make.timed(case, "dense"),
        make.timed(case, "fast", 1e3, status="impossible", reason="too fast"),
        make.timed(case, "unproven", agreement=None),
        make.timed(make.case(0), "batched"),
        make.failed(case, "grouped_mm", "crashed"),
    ]
    (group,) = make.groups(make.run(records))
    assert sorted(group.speeds["impl"]) == ["dense", "loop"]


def shape(experts: int, top_k: int, width: int = 64) -> Shape:
    return Shape(hidden=32, expert_hidden=width, experts=experts, top_k=top_k)


def test_a_sweep_holds_the_width_fixed(make: Factory) -> None:
    shapes = [shape(experts, top_k) for experts in (4, 8) for top_k in (1, 2)]
    found = make.groups(make.run([make.timed(make.case(shape=each), "loop") for each in shapes]))
    (sweep,) = sweeps(found)
    assert (sweep.experts, sweep.top_ks, sweep.held) == ([4, 8], [1, 2], "I64")


def test_a_sweep_holds_the_active_width_fixed(make: Factory) -> None:
    shapes = [shape(8, top_k, 128 // top_k) for top_k in (1, 2, 4)]
    found = make.groups(make.run([make.timed(make.case(shape=each), "loop") for each in shapes]))
    (sweep,) = sweeps(found)
    assert sweep.held == "k·I = 128"
    assert len(sweep.groups) == 3


def test_unrelated_groups_make_no_sweep(make: Factory) -> None:
    cases = [make.case(shape=shape(4, 1)), make.case(shape=shape(8, 1), dtype="fp16")]
    assert sweeps(make.groups(make.run([make.timed(case, "loop") for case in cases]))) == []
