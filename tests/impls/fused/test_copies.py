"""Weights through TMA's descriptors, and persistent programs: the same bits as by pointers, tile by tile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from impls.fused import placement
from impls.fused.configuration import Configuration, Tiles
from impls.fused.forward import FusedForward
from impls.fused.operands import along_rows
from impls.fused.placement import Placement, place

POINTERS = {
    "decode": Configuration("decode", Tiles(16, 16, 32, 4, 2), Tiles(16, 32, 16, 4, 2)),
    "prefill": Configuration("prefill", Tiles(16, 16, 32, 4, 2), Tiles(16, 32, 16, 4, 2)),
    "training": Configuration("prefill", *[Tiles(16, 32, 16, 4, 2)] * 5),
}
BOTH = ("first", "second")
BACKWARD = ("grad_hidden", "grad_input")
KERNELS = [("decode", ()), ("prefill", ()), ("prefill", BOTH), ("training", ()), ("training", BOTH + BACKWARD)]
"""By whom weights are read, and which of them are persistent."""
eights = st.integers(1, 9).map(lambda n: 8 * n)


def descriptor_of(weight: Tensor, tiles: Tiles) -> Any:
    return along_rows(weight, tiles, parts=1)


def ask(lab: Any, problem: Any, configuration: Configuration) -> dict[str, Tensor]:
    answer: dict[str, Tensor] = lab.ask("fused", problem, FusedForward(problem.weights.layer, configuration))
    return answer


@pytest.mark.parametrize(("regime", "persistent"), KERNELS[:3])
@settings(max_examples=8, deadline=None)
@given(
    tokens=st.integers(1, 16),
    hidden=eights,
    expert_hidden=eights,
    experts=st.integers(1, 6),
    gated=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from(["bf16", "fp16"]),
    dropped=st.floats(0, 1),
)
def test_the_same_bits(
    lab: Any, through_tma: Any, regime: str, persistent: tuple[str, ...], tokens: int, dropped: float, **sizes: Any
) -> None:
    problem = lab.problem(tokens, pass_="forward", top_k=min(2, sizes["experts"]), **sizes)
    ids = problem.inputs.routing.expert_ids
    lost = torch.rand(ids.shape, generator=torch.Generator().manual_seed(tokens)) < dropped
    problem = problem.routed(torch.where(lost, sizes["experts"], ids))
    expected = lab.assert_agrees("fused", problem, ask(lab, problem, POINTERS[regime]))["y"]
    copied = through_tma(POINTERS[regime], problem.case, persistent)
    assert all((tiles.tma, tiles.persistent) == (True, bool(persistent)) for tiles in copied.tiles().values())
    with lab.poison():
        assert torch.equal(ask(lab, problem, copied)["y"], expected)


@pytest.mark.parametrize("persistent", [(), *((name,) for name in BOTH + BACKWARD), BOTH + BACKWARD], ids=str)
@settings(max_examples=4, deadline=None)
@given(
    tokens=st.integers(1, 20),
    hidden=eights,
    expert_hidden=eights,
    gated=st.booleans(),
    bias=st.booleans(),
)
def test_the_same_gradients(lab: Any, through_tma: Any, persistent: tuple[str, ...], tokens: int, **sizes: Any) -> None:
    problem = lab.problem(tokens, dtype="bf16", experts=4, **sizes)
    copied = through_tma(POINTERS["training"], problem.case, persistent)
    assert all(tiles.tma for name, tiles in copied.tiles().items() if name != "grad_weight")
    assert tuple(name for name, tiles in copied.tiles().items() if tiles.persistent) == persistent
    expected = ask(lab, problem, POINTERS["training"])
    with lab.poison():
        got = ask(lab, problem, copied)
    assert all(torch.equal(got[key], value) for key, value in expected.items())


@pytest.mark.parametrize("kernel", BOTH + BACKWARD)
def test_one_persistent_kernel_is_enough_for_a_map_without_gaps(lab: Any, through_tma: Any, kernel: str) -> None:
    """In a gap there is no expert: its program would read before the start of everything."""
    passes = (("forward", "prefill"), ("training", "training"))
    for pass_, regime in passes if kernel in BOTH else passes[1:]:
        problem = lab.problem(12, dtype="bf16", pass_=pass_)
        maps: list[Placement] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(placement, "place", lambda *a, maps=maps, **k: maps.append(place(*a, **k)) or maps[-1])
            ask(lab, problem, through_tma(POINTERS[regime], problem.case, (kernel,)))
        (made,) = maps
        assert bool((made.tile_experts[: int(made.tile_count)] >= 0).all())


@pytest.mark.parametrize(("regime", "persistent"), KERNELS)
def test_a_neighbour_full_of_nan_is_not_felt(
    lab: Any, through_tma: Any, regime: str, persistent: tuple[str, ...]
) -> None:
    """Tiles reach beyond an expert's matrix, along the columns and along the reduction."""
    pass_ = "training" if regime == "training" else "forward"
    problem = lab.problem(9, dtype="bf16", pass_=pass_, hidden=40, expert_hidden=24, experts=3, top_k=1, seed=5)
    problem = problem.routed([[t % 2 * 2] for t in range(9)])
    copied = through_tma(POINTERS[regime], problem.case, persistent)
    expected = ask(lab, problem, copied)
    weights = problem.weights.layer.proj_in.data, problem.weights.layer.down.data
    healthy = [weight[1].clone() for weight in weights]
    for weight in weights:
        weight[1] = torch.nan
    try:
        got = ask(lab, problem, copied)
    finally:
        for weight, before in zip(weights, healthy, strict=True):
            weight[1] = before
    assert all(torch.equal(got[key], value) for key, value in expected.items())


def test_many_tiles_for_few_programs(lab: Any, through_tma: Any) -> None:
    """Each persistent program computes several tiles, and there are more programs than tiles where all is dropped."""
    problem = lab.problem(64, dtype="bf16", pass_="forward", hidden=64, expert_hidden=64, experts=4)
    copied = through_tma(POINTERS["prefill"], problem.case, BOTH)
    assert torch.equal(ask(lab, problem, copied)["y"], ask(lab, problem, POINTERS["prefill"])["y"])
    lost = problem.routed(torch.full((64, 2), 4))
    assert not ask(lab, lost, copied)["y"].any()


@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_without_tokens(lab: Any, through_tma: Any, pass_: str) -> None:
    problem = lab.problem(0, dtype="bf16", pass_=pass_)
    regime, persistent = ("prefill", BOTH) if pass_ == "forward" else ("training", BOTH + BACKWARD)
    lab.assert_agrees("fused", problem, ask(lab, problem, through_tma(POINTERS[regime], problem.case, persistent)))


def test_weights_that_start_anywhere_are_copied_where_tma_could_not_begin() -> None:
    tiles = Tiles(16, 16, 16, 4, 2, tma=True)
    aligned = torch.zeros(2, 16, 16, dtype=torch.bfloat16)
    assert descriptor_of(aligned, tiles).base.data_ptr() == aligned.data_ptr()
    shifted = torch.arange(513.0).to(torch.bfloat16)[1:].view(2, 16, 16)
    copied = descriptor_of(shifted, tiles).base
    assert copied.data_ptr() % 16 == 0
    assert torch.equal(copied, shifted)
    assert along_rows(shifted, Tiles(16, 16, 16, 4, 2), parts=1) is shifted
