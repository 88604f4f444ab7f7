"""What the kernels run with where nothing was tuned: reasoned from the shape and the tokens, not measured."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from impls._interpreter import interpreted
from impls.fused.configuration import (
    Configuration,
    Tiles,
    block_for,
    copies_well,
    few_slots,
    products,
    shared_bytes,
    shared_limit,
    sizes,
)

if TYPE_CHECKING:
    from harness import Shape

DECODE_TOKENS = 16
"""Up to so many tokens nothing is sorted."""
PROGRAMS = 264
"""Two on each of an H100's 132 multiprocessors: with fewer, reading weights does not fill the memory bus."""

COPIED_FLOPS = 2e11
"""From so many on, an H100 is busy for longer (0.2 ms at its peak) than the host takes to describe what TMA fetches."""


def default(shape: Shape, tokens: int, dtype: str, pass_: str, capability: tuple[int, int] = (9, 0)) -> Configuration:
    """Choose without having measured: sane from compute capability 8.0 on, and small where the sizes are small.

    Triton's interpreter takes its time by the program, so that it gets few.
    """
    if pass_ == "forward" and tokens <= DECODE_TOKENS and few_slots(shape, tokens):
        made = decode_tiles(shape, tokens)
    else:
        made = _prefill(shape, tokens, wide=(9, 0) <= capability < (12, 0))
    if pass_ == "training":
        made = _with_backward(made)
    if capability == (9, 0) and _flops(shape, tokens) >= COPIED_FLOPS:
        made = _fed_by_tma(made)
    if dtype == "fp32":
        made = _without_tensor_cores(made, shape)
    if interpreted():
        made = made.changed({name: replace(tiles, block_n=128, block_k=128) for name, tiles in made.tiles().items()})
    return fitted(made, shape, tokens, dtype, capability)


def fitted(
    configuration: Configuration, shape: Shape, tokens: int, dtype: str, capability: tuple[int, int]
) -> Configuration:
    """Cut tiles that are larger than what they cut, and stages that do not fit; leave TMA where it cannot be used."""
    limit = shared_limit(capability)
    cut = {}
    for name, tiles in configuration.tiles().items():
        columns, reduction = sizes(name, shape, tokens)
        small = replace(
            tiles,
            block_n=min(tiles.block_n, block_for(columns)),
            block_k=min(tiles.block_k, block_for(reduction)),
        )
        if not copies_well(small, name, shape, dtype, capability):
            small = replace(small, tma=False, persistent=False)
        while small.stages > 1 and shared_bytes(small, name, shape, dtype) > limit:
            small = replace(small, stages=small.stages - 1)
        cut[name] = small
    return configuration.changed(cut)


def _experts_hit(shape: Shape, tokens: int) -> float:
    """Distinct experts that uniform traffic is expected to hit."""
    return shape.experts * (1 - (1 - shape.active_experts / shape.experts) ** tokens)


def decode_tiles(shape: Shape, tokens: int) -> Configuration:
    """Narrow tiles, so that reading the weights keeps every multiprocessor busy, and deep pipelines."""
    block_m = block_for(tokens)
    hit = _experts_hit(shape, tokens)
    return Configuration(
        "decode",
        _reading_tiles(block_m, shape.expert_hidden, hit, 2 if shape.gated else 1),
        _reading_tiles(block_m, shape.hidden, hit, 1),
    )


def _reading_tiles(block_m: int, columns: int, experts_hit: float, products: int) -> Tiles:
    widths = (64, 32, 16)
    enough = (width for width in widths if experts_hit * math.ceil(columns / width) >= PROGRAMS)
    block_n = next(enough, widths[-1])
    stages = {64: 4, 32: 5, 16: 6}[block_n]
    return Tiles(block_m, block_n, 128, 4, stages if products == 1 else stages - 1)


def _prefill(shape: Shape, tokens: int, *, wide: bool) -> Configuration:
    """Row tiles as tall as an expert's share under even traffic; wide ones where arithmetic is the limit.

    ``wide`` where accumulators of 128 x 256 leave registers enough: with wgmma and its successors, whose operands lie
    in shared memory.
    """
    share = tokens * shape.active_experts / shape.experts
    block_m = next((block for block, most in ((16, 8), (32, 24), (64, 80)) if share <= most), 128)
    products = 2 if shape.gated else 1
    if block_m <= 32:
        hit = _experts_hit(shape, tokens)
        first = _reading_tiles(block_m, shape.expert_hidden, hit, products)
        return Configuration("prefill", first, _reading_tiles(block_m, shape.hidden, hit, 1))
    if block_m == 64:
        return Configuration("prefill", Tiles(64, 128 // products, 64, 4, 4), Tiles(64, 128, 64, 4, 4))
    width, stages = (256, 4) if wide else (128, 3)
    return Configuration("prefill", Tiles(128, width // products, 64, 8, stages), Tiles(128, width, 64, 8, stages))


def _with_backward(made: Configuration) -> Configuration:
    rows = made.first.block_m
    tall = rows >= 128
    return replace(
        made,
        grad_hidden=Tiles(rows, 256 if tall else 128, 64, 8 if tall else 4, 3),
        grad_input=Tiles(rows, 256 if tall else 128, 64, 8 if tall else 4, 4 if tall else 3),
        grad_weight=Tiles(128, 256, 64, 8, 3),
    )


def _flops(shape: Shape, tokens: int) -> float:
    """Of a forward pass of the routed experts."""
    return 2.0 * shape.matrices * tokens * shape.active_experts * shape.hidden * shape.expert_hidden


def _fed_by_tma(made: Configuration) -> Configuration:
    """Where both operands lie as TMA fetches them, leave copying to it, and storing to the time of the next tile."""
    whole = {name: tiles for name, tiles in made.tiles().items() if name in {"second", "grad_input"}}
    tall = {name: tiles for name, tiles in whole.items() if tiles.block_m >= 128}
    return made.changed({name: replace(tiles, tma=True, persistent=True) for name, tiles in tall.items()})


def _without_tensor_cores(made: Configuration, shape: Shape) -> Configuration:
    """Float32 products in full precision run on the ordinary cores, whose operands lie in registers: small tiles."""
    rows = min(made.first.block_m, 64)
    cut = {
        name: replace(
            tiles,
            block_m=64 if name == "grad_weight" else rows,
            block_n=min(tiles.block_n, 64 // products(name, shape)),
            block_k=32,
            warps=4,
            stages=min(tiles.stages, 3),
        )
        for name, tiles in made.tiles().items()
    }
    return made.changed(cut)
