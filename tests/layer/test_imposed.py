"""Imposed counts: one row past a tile for every expert, as far as the tokens allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic
from harness.layer.imposed import imposed_choice, tile_counts


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Tokens, experts, k, rows."""
    experts = draw(st.integers(1, 40))
    return draw(st.integers(0, 600)), experts, draw(st.integers(1, experts)), draw(st.integers(1, 130))


@settings(deadline=None, max_examples=300)
@given(sizes())
def test_counts_are_possible_and_fill_as_many_tiles_as_any(size: tuple[int, int, int, int]) -> None:
    tokens, experts, k, rows = size
    counts = tile_counts(tokens, experts, k, rows)
    assert counts.sum() == tokens * k
    assert counts.min() >= 0
    assert counts.max() <= tokens
    slots = tokens * k
    if slots < experts:
        assert sorted(counts.tolist()) == [0] * (experts - slots) + [1] * slots
        return
    assert counts.min() >= 1
    odd = counts[counts % rows != 1 % rows]
    assert (odd != tokens).sum() <= 1, "experts that take the remainder are filled up to T one after another"
    # A count c fills at most 1 + (c - 1) / rows tiles, and no expert has more than T rows.
    most_tiles = min(experts + (slots - experts) // rows, experts * -(-tokens // rows))
    assert -(-counts // rows).sum() == most_tiles


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 32))
def test_counts_are_all_odd_tiles_when_the_tokens_divide(experts: int, tiles: int, rows: int) -> None:
    """T*k = E + a whole number of tiles that fits: not one expert is off."""
    tokens = experts * (1 + rows * tiles)
    assert (tile_counts(tokens, experts, 1, rows) == 1 + rows * tiles).all()


@pytest.mark.parametrize(
    ("tokens", "experts", "k", "rows", "expected"),
    [
        (8192, 8, 2, 128, [2049] * 7 + [2041]),
        (130, 4, 2, 128, [129, 129, 1, 1]),
        (100, 8, 2, 128, [1] * 6 + [94, 100]),
        (3, 8, 2, 128, [1] * 6 + [0, 0]),
        (0, 4, 2, 16, [0] * 4),
        (64, 4, 2, 1, [32] * 4),
    ],
)
def test_counts_by_hand(tokens: int, experts: int, k: int, rows: int, expected: list[int]) -> None:
    assert sorted(tile_counts(tokens, experts, k, rows).tolist()) == sorted(expected)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 80), st.sampled_from([(1, 1), (4, 1), (4, 2), (4, 3), (8, 3)]), st.integers(1, 6), st.integers(1, 20)
)
def test_tile_gives_k_experts_a_token_inside_reachable_groups(
    tokens: int, groups: tuple[int, int], size: int, rows: int
) -> None:
    total, top_groups = groups
    k = min(3, size * top_groups)
    router = Router(groups=total, top_groups=top_groups)
    shape = Shape(hidden=4, expert_hidden=4, experts=total * size, top_k=k, router=router)
    traffic = Traffic(tokens=tokens, spread=f"tile:{rows}")
    chosen = imposed_choice(shape, traffic, np.random.default_rng(0), np.random.default_rng(1))
    assert chosen.shape == (tokens, shape.experts)
    assert (chosen.sum(1) == k).all()
    groups_used = chosen.reshape(tokens, total, size).any(2).sum(1)
    assert (groups_used <= top_groups).all()


def test_a_block_too_small_for_k_stays_empty() -> None:
    """4 groups of 2 dealt 3 and 1: the last block's 2 experts cannot hold a token's 5."""
    router = Router(groups=4, top_groups=3)
    shape = Shape(hidden=4, expert_hidden=4, experts=8, top_k=5, router=router)
    traffic = Traffic(tokens=50, spread="tile:8")
    chosen = imposed_choice(shape, traffic, np.random.default_rng(0), np.random.default_rng(1))
    assert (chosen.sum(1) == 5).all()
    assert sorted(chosen.sum(0) > 0) == [False] * 2 + [True] * 6


def test_other_draws_pair_other_experts_with_the_same_counts() -> None:
    shape = Shape(hidden=4, expert_hidden=4, experts=16, top_k=4)
    traffic = Traffic(tokens=100, spread="tile:8")
    first, second = (
        imposed_choice(shape, traffic, np.random.default_rng(0), np.random.default_rng(fresh)) for fresh in (1, 2)
    )
    assert (first.sum(0) == second.sum(0)).all()
    pairs = [chosen.T.astype(int) @ chosen.astype(int) for chosen in (first, second)]
    assert (pairs[0] != pairs[1]).any()


def test_an_experts_tokens_are_scattered_over_the_batch() -> None:
    shape = Shape(hidden=4, expert_hidden=4, experts=8, top_k=1)
    traffic = Traffic(tokens=400, spread="tile:8")
    chosen = imposed_choice(shape, traffic, np.random.default_rng(0), np.random.default_rng(1))
    changes = (chosen[1:] != chosen[:-1]).sum(0)
    assert changes.min() > 20, "laid out in one piece, an expert would start and end once"
