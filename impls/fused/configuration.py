"""How the kernels cut their work: tiles, warps and stages of each, and what of it can be run.

Needs neither torch nor triton. A configuration changes speed and memory, never the result beyond the order of a sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from harness import Shape

Regime = Literal["decode", "prefill"]

SHARED_LIMIT_BYTES = {(8, 0): 163 << 10, (8, 7): 163 << 10, (9, 0): 227 << 10, (10, 0): 227 << 10, (10, 3): 227 << 10}
"""Shared memory one block may use, by compute capability (CUDA programming guide)."""
LEAST_SHARED_LIMIT_BYTES = 99 << 10
"""Of all others from compute capability 8.0 on, known or not."""
BARRIER_BYTES = 256
"""What TMA's barriers take beside the tiles they guard."""
TURNED_BYTES = 4 << 10
"""Of its output, which a warp turns around in shared memory at once, at most (read off what Triton compiles)."""
DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
RESERVED_BYTES = 1 << 10
"""Of shared memory, for each program (CUDA programming guide)."""
LEAST_BLOCK = 16
"""``tl.dot`` takes no smaller side."""
MOST_TMA_BLOCK = 256
"""A side of what one TMA copy fetches (CUDA driver API, cuTensorMapEncodeTiled: boxDim)."""
TMA_STRIDE_BYTES = 16
"""Every row that TMA fetches from starts at a multiple of it."""
LEAST_TMA_CAPABILITY = (9, 0)
MOST_DECODE_SLOTS = 1024
"""Each program of the decode kernels reads all expert ids, which must not cost more than the weights."""
MOST_ACCUMULATED = {"bf16": 160, "fp16": 160, "fp32": 32}
"""Accumulators a thread may hold, of 255 registers; without tensor cores the operands lie there too."""
MOST_WARPS = 8
"""At 255 registers a thread a multiprocessor has room for so many."""
LAUNCH = {"enable_fp_fusion": True}
"""Said at every launch: a product and a sum may become one instruction. Triton 3.10 changes the default."""
KERNELS = ("first", "second", "grad_hidden", "grad_input", "grad_weight")


@dataclass(frozen=True)
class Tiles:
    """One kernel's tile: ``block_m`` x ``block_n`` of its output, ``block_k`` along the reduction.

    Blocks are powers of two of at least 16. ``warps`` is 1, 2, 4 or 8, ``stages`` the depth of the software pipeline.
    With ``tma`` the copy engine fetches the weights' tiles, and those of rows that need not be gathered, instead of
    every thread its part. ``persistent`` programs, as many as fit onto the GPU at a time, compute one tile after the
    other, and fetch for the next before they have stored the last.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    tma: bool = False
    persistent: bool = False

    def launch(self, stages: int | None = None) -> dict[str, int | bool]:
        """Return what every kernel with tiles is launched with; ``stages`` where Triton counts them in another way."""
        blocks = {"BLOCK_M": self.block_m, "BLOCK_N": self.block_n, "BLOCK_K": self.block_k}
        return {**blocks, "num_warps": self.warps, "num_stages": stages or self.stages, **LAUNCH}

    def shared_bytes(self, products: int, element_bytes: int) -> int:
        """Bytes of shared memory of one program: both operands' tiles in every stage. An upper bound.

        ``products`` are the accumulators of an output tile. A persistent program turns its output around in memory of
        its own: that of the operands holds the next tile's.
        """
        operands = self.block_m + self.block_n * products
        taken = self.stages * operands * self.block_k * element_bytes
        if self.persistent:
            taken += min(self.block_m * self.block_n * element_bytes, TURNED_BYTES * self.warps)
        return taken + (BARRIER_BYTES if self.tma else 0)


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

    @property
    def persistent(self) -> bool:
        """Whether a kernel goes over the tile map in persistent programs."""
        return any(tiles.persistent for tiles in self.tiles().values())

    def tiles(self) -> dict[str, Tiles]:
        """Return the tiles of every kernel that runs, by the kernel's name."""
        return {name: tiles for name in KERNELS if (tiles := getattr(self, name)) is not None}

    def changed(self, tiles: dict[str, Tiles], regime: Regime | None = None) -> Configuration:
        """Return it with other tiles for the kernels named."""
        return replace(self, regime=regime or self.regime, **tiles)


def valid(
    configuration: Configuration,
    shape: Shape,
    tokens: int,
    dtype: str,
    pass_: str,
    capability: tuple[int, int] = (9, 0),
) -> bool:
    """Whether the kernels can run this: regime, power-of-two blocks, registers, shared memory, and what TMA can do."""
    rows = configuration.first.block_m
    if configuration.regime == "decode" and (
        pass_ != "forward" or tokens > rows or not few_slots(shape, tokens) or configuration.persistent
    ):
        return False
    backward = (configuration.grad_hidden, configuration.grad_input, configuration.grad_weight)
    if pass_ == "training" and None in backward:
        return False
    for name, tiles in configuration.tiles().items():
        if name != "grad_weight" and tiles.block_m != rows:
            return False
        if not _valid_tiles(tiles, name, shape, dtype) or not copies_well(tiles, name, shape, dtype, capability):
            return False
        if shared_bytes(tiles, name, shape, dtype) > shared_limit(capability):
            return False
    return True


def _valid_tiles(tiles: Tiles, kernel: str, shape: Shape, dtype: str) -> bool:
    blocks = (tiles.block_m, tiles.block_n, tiles.block_k)
    if any(block < LEAST_BLOCK or block & (block - 1) for block in blocks):
        return False
    if tiles.warps not in {1, 2, 4, 8} or tiles.stages < 1:
        return False
    return tiles.block_m * tiles.block_n * products(kernel, shape) / (32 * tiles.warps) <= MOST_ACCUMULATED[dtype]


def copies_well(tiles: Tiles, kernel: str, shape: Shape, dtype: str, capability: tuple[int, int]) -> bool:
    """Whether ``tma`` and ``persistent`` are for this kernel, shape and device.

    ``grad_weight`` reads no weights and does not go over the tile map.
    """
    if not tiles.tma:
        return not tiles.persistent
    if kernel == "grad_weight":
        return False
    columns, reduction = sizes(kernel, shape)
    contiguous = {"grad_hidden": (columns,), "grad_input": (columns, reduction)}.get(kernel, (reduction,))
    aligned = all(size * DTYPE_BYTES[dtype] % TMA_STRIDE_BYTES == 0 for size in contiguous)
    small = max(tiles.block_m, tiles.block_n, tiles.block_k) <= MOST_TMA_BLOCK
    return capability >= LEAST_TMA_CAPABILITY and dtype != "fp32" and aligned and small


def sizes(kernel: str, shape: Shape, tokens: int = 1) -> tuple[int, int]:
    """Return the columns of a kernel's output and the length of its reduction."""
    hidden, expert_hidden = shape.hidden, shape.expert_hidden
    return {
        "first": (expert_hidden, hidden),
        "second": (hidden, expert_hidden),
        "grad_hidden": (expert_hidden, hidden),
        "grad_input": (hidden, expert_hidden * (2 if shape.gated else 1)),
        "grad_weight": (hidden, max(tokens, 1)),
    }[kernel]


def shared_limit(capability: tuple[int, int]) -> int:
    """Bytes of shared memory one block may use on a GPU of this compute capability."""
    return SHARED_LIMIT_BYTES.get(capability, LEAST_SHARED_LIMIT_BYTES)


def shared_bytes(tiles: Tiles, kernel: str, shape: Shape, dtype: str) -> int:
    """Bytes of shared memory that one program of a kernel takes at most."""
    return tiles.shared_bytes(products(kernel, shape), DTYPE_BYTES[dtype])


def products(kernel: str, shape: Shape) -> int:
    """Accumulators of one output tile: gate and up have one each."""
    return 2 if kernel == "first" and shape.gated else 1


def few_slots(shape: Shape, tokens: int) -> bool:
    """Whether the decode kernels are for so many tokens."""
    return tokens * shape.active_experts <= MOST_DECODE_SLOTS


def block_for(size: int) -> int:
    """Return the smallest block that holds ``size``: a power of two of at least 16."""
    return max(LEAST_BLOCK, 1 << max(size - 1, 0).bit_length())


def blocks_of(size: int, block: int) -> int:
    """Return how many blocks cover ``size``; Triton's own ``cdiv`` would take a tenth of a launch."""
    return -(-size // block)
