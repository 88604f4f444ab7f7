"""The traffics that impose each token's experts: one hot expert, k hot experts, or counts that waste tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.cases.shape import Shape
    from harness.cases.traffic import Traffic

IMPOSED = ("single_hot", "k_hot", "tile")


def imposed_choice(
    shape: Shape, traffic: Traffic, popular: np.random.Generator, fresh: np.random.Generator
) -> NDArray[np.bool_]:
    """Which experts each token must take: (T, E) bool, at most k a token, within groups the router can keep.

    ``single_hot`` marks the same expert for every token and leaves its other choices open. ``k_hot`` marks the same k.
    ``tile:rows`` marks k a token, so that the experts' counts are ``tile_counts``. With a group-limited router, groups
    are dealt into blocks of ``top_groups``, every token stays inside one block, and the counts are those of each block
    by itself; a last block of fewer than k experts gets no token.

    ``popular`` decides which experts are hot, ``fresh`` which tokens go together.
    """
    blocks = _blocks(shape, popular)
    chosen = np.zeros((traffic.tokens, shape.experts), dtype=bool)
    if traffic.kind != "tile":
        chosen[:, blocks[0][: 1 if traffic.kind == "single_hot" else shape.top_k]] = True
        return chosen
    rows = int(traffic.parameter or 0)
    blocks = [block for block in blocks if len(block) >= shape.top_k]
    shares = np.cumsum([len(block) for block in blocks]) / sum(len(block) for block in blocks)
    ends = np.round(shares * traffic.tokens).astype(int).tolist()
    for block, start, end in zip(blocks, [0, *ends[:-1]], ends, strict=True):
        counts = tile_counts(end - start, len(block), shape.top_k, rows)
        chosen[start:end, block] = _deal(counts, end - start, fresh)
    return fresh.permutation(chosen)


def tile_counts(tokens: int, experts: int, k: int, rows: int) -> NDArray[np.int64]:
    """Deal T*k slots to experts, (E,), at most T each, so that they fill as many tiles as any counts could.

    With T*k >= E every expert gets one token, then whole tiles are dealt out evenly while they fit below T. What
    remains goes to the experts with fewest tiles, each filled up to T before the next gets any. So all counts are 1
    modulo ``rows`` but those: one expert as a rule, since less than ``rows`` remains unless 1 + rows * tiles would pass
    T.
    With T*k < E, T*k experts get one token and the others none.
    """
    slots = tokens * k
    counts = np.zeros(experts, dtype=np.int64)
    counts[:slots] = 1
    room = max(0, tokens - 1) // rows
    tiles = min(max(0, slots - experts) // rows, room * experts)
    counts += rows * (tiles // experts + (np.arange(experts) < tiles % experts))
    for expert in reversed(range(experts)):
        counts[expert] += min(tokens - counts[expert], slots - counts.sum())
    return counts


def _deal(counts: NDArray[np.int64], tokens: int, fresh: np.random.Generator) -> NDArray[np.bool_]:
    """(T, E) bool with those column sums and k in each row.

    Experts are laid out one after another over T*k slots and slot s belongs to token s mod T: no expert is longer than
    T, so none meets a token twice.
    """
    order = fresh.permutation(len(counts))
    expert_of_slot = np.repeat(order, counts[order])
    chosen = np.zeros((tokens, len(counts)), dtype=bool)
    chosen[np.arange(len(expert_of_slot)) % max(1, tokens), expert_of_slot] = True
    return chosen


def _blocks(shape: Shape, popular: np.random.Generator) -> list[NDArray[np.int64]]:
    """Experts that one token may take together, shuffled; one block of all of them where groups do not limit."""
    size = shape.experts // shape.router.groups
    groups = popular.permutation(np.arange(shape.experts).reshape(-1, size))
    together = shape.router.top_groups
    starts = range(0, len(groups), together)
    return [popular.permutation(groups[start : start + together].ravel()) for start in starts]
