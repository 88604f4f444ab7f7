"""What a tuner may try: everything one step away from where it stands."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from impls.fused.configuration import Configuration, Tiles, few_slots, valid
from impls.fused.defaults import decode_tiles, default, fitted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Shape

MOST_DECODE_TOKENS = 64
"""Up to so many tokens it may be quicker not to sort."""


def candidates(
    shape: Shape,
    tokens: int,
    dtype: str,
    pass_: str,
    base: Configuration | None = None,
    capability: tuple[int, int] = (9, 0),
) -> list[Configuration]:
    """Return what a tuner may try next: ``base`` (by default ``default``), then all that are one step from it.

    A step changes one kernel; another way to fetch, another regime or another ``block_m`` may change all of them. All
    are valid, none occurs twice. What changes most comes first, since a tuner may have no time for the rest.
    """
    start = base or default(shape, tokens, dtype, pass_, capability)
    copied = [fitted(other, shape, tokens, dtype, capability) for other in _copied(start)]
    around = list(_neighbours(start, shape, tokens, dtype, pass_))
    fits = [other for other in around if fitted(other, shape, tokens, dtype, capability) == other]
    tried = [other for other in (*copied, *fits) if valid(other, shape, tokens, dtype, pass_, capability)]
    return list(dict.fromkeys((start, *tried)))


def _copied(start: Configuration) -> Iterator[Configuration]:
    """Yield TMA for every kernel, without and with persistent programs where there are such."""
    for persistent in (False, True) if start.regime == "prefill" else (False,):
        copied = {name: replace(tiles, tma=True, persistent=persistent) for name, tiles in start.tiles().items()}
        yield start.changed(copied)


def _neighbours(start: Configuration, shape: Shape, tokens: int, dtype: str, pass_: str) -> Iterator[Configuration]:
    if pass_ == "forward" and tokens <= MOST_DECODE_TOKENS and few_slots(shape, tokens):
        yield decode_tiles(shape, tokens)
    for name, tiles in start.tiles().items():
        for other in _copies(tiles):
            yield start.changed({name: other})
    rows = start.first.block_m
    for block_m in (rows // 2, rows, 2 * rows):
        if block_m <= (128 if dtype != "fp32" else 64) and (start.regime == "decode" or block_m != rows):
            yield _with_rows(start, block_m)
    for name, tiles in start.tiles().items():
        for other in _steps(tiles, is_free=name == "grad_weight"):
            yield start.changed({name: other})


def _with_rows(start: Configuration, block_m: int) -> Configuration:
    """Give every kernel that goes over rows another ``block_m``, and sort."""
    rows = {name: tiles for name, tiles in start.tiles().items() if name != "grad_weight"}
    changed = {
        name: replace(tiles, block_m=block_m, warps=8 if block_m * tiles.block_n >= 128 * 128 else tiles.warps)
        for name, tiles in rows.items()
    }
    return start.changed(changed, "prefill")


def _steps(tiles: Tiles, *, is_free: bool) -> Iterator[Tiles]:
    """Yield tiles one step away: a block halved or doubled, other warps or stages, or some that go together.

    ``is_free`` when ``block_m`` is the kernel's own.
    """
    m, n, k = tiles.block_m, tiles.block_n, tiles.block_k
    warps, stages = tiles.warps, tiles.stages
    if warps > 4:  # two programs a multiprocessor: one multiplies while the other stores
        half = replace(tiles, block_n=n // 2, warps=4, stages=min(stages, 3))
        yield replace(half, tma=False, persistent=False)
        yield replace(half, tma=True, persistent=True)
    for depth in (stages - 1, stages + 1):
        if depth >= 1:
            yield replace(tiles, stages=depth)
    for other in (4, 8):
        if other != warps:
            yield replace(tiles, warps=other)
        yield replace(tiles, block_n=2 * n, warps=other)
        yield replace(tiles, block_n=n // 2, warps=other)
        if is_free:
            yield replace(tiles, block_m=2 * m, warps=other)
            yield replace(tiles, block_m=m // 2, warps=other)
    yield replace(tiles, block_k=2 * k)
    yield replace(tiles, block_k=2 * k, stages=max(stages // 2, 2))
    yield replace(tiles, block_k=k // 2)
    yield replace(tiles, block_k=k // 2, stages=2 * stages)


def _copies(tiles: Tiles) -> Iterator[Tiles]:
    """Yield other ways to fetch; persistent programs may need a stage less, for the memory their output takes."""
    if tiles.tma:
        yield replace(tiles, tma=False, persistent=False)
        yield replace(tiles, persistent=not tiles.persistent)
    else:
        yield replace(tiles, tma=True)
        yield replace(tiles, tma=True, persistent=True)
        yield replace(tiles, tma=True, persistent=True, stages=max(tiles.stages - 1, 1))
