"""How the kernels cut their work: tiles, warps and stages of each, by shape, token count and dtype.

Needs neither torch nor triton. A configuration changes speed and memory, never the result beyond the order of a sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from impls._interpreter import interpreted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Shape

Regime = Literal["decode", "prefill"]

SHARED_LIMIT_BYTES = {(8, 0): 163 << 10, (8, 7): 163 << 10, (9, 0): 227 << 10, (10, 0): 227 << 10, (10, 3): 227 << 10}
"""Shared memory one block may use, by compute capability (CUDA programming guide)."""
LEAST_SHARED_LIMIT_BYTES = 99 << 10
"""Of all others from compute capability 8.0 on, known or not."""
DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
LEAST_BLOCK = 16
"""``tl.dot`` takes no smaller side."""
DECODE_TOKENS = 16
"""Up to so many tokens the default sorts nothing; ``candidates`` offers it up to MOST_DECODE_TOKENS."""
MOST_DECODE_TOKENS = 64
MOST_DECODE_SLOTS = 1024
"""Each program of the decode kernels reads all expert ids, which must not cost more than the weights."""
PROGRAMS = 264
"""Two on each of an H100's 132 multiprocessors: with fewer, reading weights does not fill the memory bus."""
MOST_ACCUMULATED = {"bf16": 160, "fp16": 160, "fp32": 32}
"""Accumulators a thread may hold, of 255 registers; without tensor cores the operands lie there too."""
LAUNCH = {"enable_fp_fusion": True}
"""Said at every launch: a product and a sum may become one instruction. Triton 3.10 changes the default."""
KERNELS = ("first", "second", "grad_hidden", "grad_input", "grad_weight")


@dataclass(frozen=True)
class Tiles:
    """One kernel's tile: ``block_m`` x ``block_n`` of its output, ``block_k`` along the reduction.

    Blocks are powers of two of at least 16. ``warps`` is 1, 2, 4 or 8, ``stages`` the depth of the software pipeline.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int

    def launch(self, stages: int | None = None) -> dict[str, int | bool]:
        """Return what every kernel with tiles is launched with; ``stages`` where Triton counts them in another way."""
        blocks = {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "BLOCK_K": self.block_k}
        return {**blocks, "num_warps": self.warps, "num_stages": stages or self.stages, **LAUNCH}


@dataclass(frozen=True)
class Configuration:
    """Everything that may be chosen about one call.

    ``regime`` decode computes all T tokens for each expert that was hit, without a sort: ``block_m`` of both kernels
    covers T. Prefill sorts the slots by expert; every kernel that goes over rows uses the ``block_m`` of ``first``, so
    that one tile map serves all (``grad_weight`` goes over the weights' rows and has its own).

    ``first`` makes tiles of the experts' hidden units (with two accumulators where gated), ``second`` of the output;
    ``grad_hidden``, ``grad_input`` and ``grad_weight`` are the backward kernels', None in a forward pass.
    """

    regime: Regime
    first: Tiles
    second: Tiles
    grad_hidden: Tiles | None = None
    grad_input: Tiles | None = None
    grad_weight: Tiles | None = None

    def tiles(self) -> dict[str, Tiles]:
        """Return the tiles of every kernel that runs, by the kernel's name."""
        return {name: tiles for name in KERNELS if (tiles := getattr(self, name)) is not None}


def default(shape: Shape, tokens: int, dtype: str, pass_: str, capability: tuple[int, int] = (9, 0)) -> Configuration:
    """Choose without having measured: sane from compute capability 8.0 on, and small where the sizes are small.

    Triton's interpreter takes its time by the program, so that it gets few.
    """
    if pass_ == "forward" and tokens <= DECODE_TOKENS and _few_slots(shape, tokens):
        made = _decode(shape, tokens)
    else:
        made = _prefill(shape, tokens, wide=(9, 0) <= capability < (12, 0))
    if pass_ == "training":
        made = _with_backward(made)
    if dtype == "fp32":
        made = _without_tensor_cores(made, shape)
    if interpreted():
        made = _with(made, {name: replace(tiles, block_n=128, block_k=128) for name, tiles in made.tiles().items()})
    return fitted(made, shape, tokens, dtype, capability)


def candidates(
    shape: Shape,
    tokens: int,
    dtype: str,
    pass_: str,
    base: Configuration | None = None,
    capability: tuple[int, int] = (9, 0),
) -> list[Configuration]:
    """Return what a tuner may try next: ``base`` (by default ``default``), then all that are one step from it.

    A step changes one kernel; another regime or another ``block_m`` changes all of them. All are valid, none occurs
    twice.
    """
    start = base or default(shape, tokens, dtype, pass_, capability)
    tried: dict[Configuration, None] = {start: None}
    for other in _neighbours(start, shape, tokens, dtype, pass_):
        fits = fitted(other, shape, tokens, dtype, capability)
        if fits == other and valid(fits, shape, tokens, dtype, pass_, capability):
            tried[fits] = None
    return list(tried)


def valid(
    configuration: Configuration,
    shape: Shape,
    tokens: int,
    dtype: str,
    pass_: str,
    capability: tuple[int, int] = (9, 0),
) -> bool:
    """Whether the kernels can run this: regime, power-of-two blocks, registers and shared memory."""
    rows = configuration.first.block_m
    if configuration.regime == "decode" and (pass_ != "forward" or tokens > rows or not _few_slots(shape, tokens)):
        return False
    backward = (configuration.grad_hidden, configuration.grad_input, configuration.grad_weight)
    if pass_ == "training" and None in backward:
        return False
    for name, tiles in configuration.tiles().items():
        blocks = (tiles.block_m, tiles.block_n, tiles.block_k)
        if any(block < LEAST_BLOCK or block & (block - 1) for block in blocks) or tiles.warps not in {1, 2, 4, 8}:
            return False
        if name != "grad_weight" and tiles.block_m != rows:
            return False
        accumulated = tiles.block_m * tiles.block_n * _products(name, shape) / (32 * tiles.warps)
        if accumulated > MOST_ACCUMULATED[dtype] or shared_bytes(tiles, name, shape, dtype) > shared_limit(capability):
            return False
    return True


def shared_limit(capability: tuple[int, int]) -> int:
    """Bytes of shared memory one block may use on a GPU of this compute capability."""
    return SHARED_LIMIT_BYTES.get(capability, LEAST_SHARED_LIMIT_BYTES)


def shared_bytes(tiles: Tiles, kernel: str, shape: Shape, dtype: str) -> int:
    """Bytes of shared memory of one block: both operands' tiles in every stage. An upper bound of what Triton takes."""
    operands = tiles.block_m + tiles.block_n * _products(kernel, shape)
    return tiles.stages * operands * tiles.block_k * DTYPE_BYTES[dtype]


def fitted(
    configuration: Configuration, shape: Shape, tokens: int, dtype: str, capability: tuple[int, int]
) -> Configuration:
    """Cut tiles that are larger than what they cut, and stages that do not fit into shared memory."""
    hidden, expert_hidden = shape.hidden, shape.expert_hidden
    width = expert_hidden * (2 if shape.gated else 1)
    sizes = {  # columns of the output, length of the reduction
        "first": (expert_hidden, hidden),
        "second": (hidden, expert_hidden),
        "grad_hidden": (expert_hidden, hidden),
        "grad_input": (hidden, width),
        "grad_weight": (hidden, max(tokens, 1)),
    }
    limit = shared_limit(capability)
    cut = {}
    for name, tiles in configuration.tiles().items():
        columns, reduction = sizes[name]
        small = replace(
            tiles,
            block_n=min(tiles.block_n, block_for(columns)),
            block_k=min(tiles.block_k, block_for(reduction)),
        )
        while small.stages > 1 and shared_bytes(small, name, shape, dtype) > limit:
            small = replace(small, stages=small.stages - 1)
        cut[name] = small
    return _with(configuration, cut)


def block_for(size: int) -> int:
    """Return the smallest block that holds ``size``: a power of two of at least 16."""
    return max(LEAST_BLOCK, 1 << max(size - 1, 0).bit_length())


def _products(kernel: str, shape: Shape) -> int:
    """Accumulators of one output tile: gate and up have one each."""
    return 2 if kernel == "first" and shape.gated else 1


def _few_slots(shape: Shape, tokens: int) -> bool:
    return tokens * shape.active_experts <= MOST_DECODE_SLOTS


def _experts_hit(shape: Shape, tokens: int) -> float:
    """Distinct experts that uniform traffic is expected to hit."""
    return shape.experts * (1 - (1 - shape.active_experts / shape.experts) ** tokens)


def _decode(shape: Shape, tokens: int) -> Configuration:
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


def _without_tensor_cores(made: Configuration, shape: Shape) -> Configuration:
    """Float32 products in full precision run on the ordinary cores, whose operands lie in registers: small tiles."""
    rows = min(made.first.block_m, 64)
    cut = {
        name: replace(
            tiles,
            block_m=64 if name == "grad_weight" else rows,
            block_n=min(tiles.block_n, 64 // _products(name, shape)),
            block_k=32,
            warps=4,
            stages=min(tiles.stages, 3),
        )
        for name, tiles in made.tiles().items()
    }
    return _with(made, cut)


def _neighbours(start: Configuration, shape: Shape, tokens: int, dtype: str, pass_: str) -> Iterator[Configuration]:
    if pass_ == "forward" and tokens <= MOST_DECODE_TOKENS and _few_slots(shape, tokens):
        yield _decode(shape, tokens)
    for block_m in (16, 32, 64, 128) if dtype != "fp32" else (16, 32, 64):
        if start.regime == "decode" or block_m != start.first.block_m:
            yield _with_rows(start, block_m)
    for name, tiles in start.tiles().items():
        for other in _steps(tiles, is_free=name == "grad_weight"):
            yield _with(start, {name: other})


def _with(configuration: Configuration, changed: dict[str, Tiles], regime: Regime | None = None) -> Configuration:
    return replace(configuration, regime=regime or configuration.regime, **changed)


def _with_rows(start: Configuration, block_m: int) -> Configuration:
    """Give every kernel that goes over rows another ``block_m``, and sort."""
    rows = {name: tiles for name, tiles in start.tiles().items() if name != "grad_weight"}
    changed = {
        name: replace(tiles, block_m=block_m, warps=8 if block_m * tiles.block_n >= 128 * 128 else tiles.warps)
        for name, tiles in rows.items()
    }
    return _with(start, changed, "prefill")


def _steps(tiles: Tiles, *, is_free: bool) -> Iterator[Tiles]:
    """Yield tiles one step away: a block halved or doubled, another number of warps or stages, or two that go together.

    ``is_free`` when ``block_m`` is the kernel's own.
    """
    m, n, k = tiles.block_m, tiles.block_n, tiles.block_k
    warps, stages = tiles.warps, tiles.stages
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
