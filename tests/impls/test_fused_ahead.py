"""The fused kernels compiled ahead of time, without a GPU: for real shapes, by the launchers themselves.

Says what a compiler can say: that there are tensor-core instructions, that shared memory fits, that registers do not
spill. What they compute is checked under the interpreter, what they take only a GPU can tell.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.cases.case import Case, Pass
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.layer.contract import Layer, Routing
from harness.layer.weights import TORCH_DTYPES
from impls._interpreter import interpreted
from impls.fused.configuration import BARRIER_BYTES, Configuration, shared_bytes, shared_limit
from impls.fused.defaults import default
from impls.peers._package import numbers

pytestmark = pytest.mark.skipif(interpreted(), reason="under the interpreter nothing is compiled")

QWEN3 = Shape(hidden=2048, expert_hidden=768, experts=128, top_k=8)
MIXTRAL = Shape(hidden=4096, expert_hidden=14336, experts=8, top_k=2)
GPT_OSS = Shape(hidden=2880, expert_hidden=2880, experts=32, top_k=4, activation="clamped_swiglu", bias=True)
PERSISTENT = ("first", "second", "grad_hidden", "grad_input")
UNEVEN = Shape(hidden=100, expert_hidden=36, experts=5, top_k=2, activation="gelu", gated=False)
OVER_TILES = {"prefill_kernel", "grad_hidden_kernel", "grad_input_kernel"}
FENCED_FROM = (3, 7, 1)
"""The first Triton that puts a fence between threads' copies and wgmma."""
MOST_SPILLED_BYTES = 128
"""A few registers beside the loops cost nothing."""


@dataclass(frozen=True)
class Compiled:
    """One kernel: its PTX, its shared memory, its registers, the bytes it spills, and what is said of its wgmma.

    ``persistent``: whether its programs go over several tiles.
    """

    name: str
    ptx: str
    shared_bytes: int
    registers: int
    spilled_bytes: int
    remarks: str
    persistent: bool


class Compiler:
    """Stands in for a GPU of some compute capability: launches compile, and nothing runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        triton = pytest.importorskip("triton", reason="the fused kernels need Triton")
        from triton.runtime.jit import JITFunction

        self.capability = (9, 0)
        self.found: list[Compiled] = []
        self._folder = Path(triton.__file__).parent
        run = JITFunction.run

        def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
            compiled = run(kernel, *args, grid=grid, warmup=True, **options)
            self.found.append(self._read(kernel.__name__, compiled, persistent=options.get("PERSISTENT", False)))

        monkeypatch.setattr(JITFunction, "run", compile_only)
        monkeypatch.setattr(triton.runtime.driver, "_active", self)

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        major, minor = self.capability
        return GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_device(self) -> int:
        """One device a capability, so that Triton keeps their kernels apart."""
        return 10 * self.capability[0] + self.capability[1]

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def forward(self, shape: Shape, tokens: int, dtype: str, configuration: Configuration) -> list[Compiled]:
        """Compile what a forward pass launches."""
        from impls.fused.decode import decode
        from impls.fused.prefill import prefill

        self.found = []
        run = decode if configuration.regime == "decode" else prefill
        run(*made_of_nothing(shape, tokens, dtype), configuration)
        return self.found

    def training(self, shape: Shape, tokens: int, dtype: str, configuration: Configuration) -> list[Compiled]:
        """Compile what a training pass launches, forward and backward."""
        from impls.fused.autograd import train

        self.found = []
        x, routing, layer = made_of_nothing(shape, tokens, dtype)
        leaves = [leaf.requires_grad_() for leaf in (x, routing.weights, *layer.parameters().values())]
        y = train(x, routing, layer, configuration)
        torch.autograd.grad(y, leaves, torch.empty_like(y))
        return self.found

    def _read(self, name: str, compiled: Any, *, persistent: bool) -> Compiled:
        with tempfile.TemporaryDirectory() as folder:
            cubin, ptx = Path(folder, "kernel.cubin"), Path(folder, "kernel.ptx")
            cubin.write_bytes(compiled.asm["cubin"])
            ptx.write_text(compiled.asm["ptx"])
            said = told([self._folder / "backends/nvidia/bin/cuobjdump", "-res-usage", cubin])
            target = f"--gpu-name={compiled.asm['ptx'].partition('.target ')[2].split()[0]}"
            asked = "wgmma" in compiled.asm["ptx"]
            remarks = told([self._assembler(), "-v", target, "-o", cubin, ptx]) if asked else ""
        usage = re.search(r"REG:(\d+) STACK:(\d+)", said)
        assert usage, said
        shared = compiled.metadata.shared
        registers, spilled = map(int, usage.groups())
        return Compiled(name, compiled.asm["ptx"], shared, registers, spilled, remarks, persistent)

    def _assembler(self) -> str:
        from triton.backends.nvidia.compiler import get_ptxas

        return str(get_ptxas(10 * self.capability[0] + self.capability[1]).path)


def told(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def made_of_nothing(shape: Shape, tokens: int, dtype: str) -> tuple[Tensor, Routing, Layer]:
    """x, routing and layer without memory behind them."""
    H, I, E, kind = shape.hidden, shape.expert_hidden, shape.experts, TORCH_DTYPES[dtype]

    def empty(*size: int, dtype: torch.dtype = kind) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    def bias(*size: int) -> Tensor | None:
        return empty(*size) if shape.bias else None

    routing = Routing(empty(tokens, shape.top_k, dtype=torch.int64), empty(tokens, shape.top_k, dtype=torch.float32))
    if shape.gated:
        layer = Layer(shape, empty(E, 2 * I, H), None, empty(E, H, I), bias(E, 2 * I), None, bias(E, H))
    else:
        layer = Layer(shape, None, empty(E, I, H), empty(E, H, I), None, bias(E, I), bias(E, H))
    return empty(tokens, H), routing, layer


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return Compiler(monkeypatch)


def assert_sound(found: list[Compiled], capability: tuple[int, int]) -> None:
    assert found
    for one in found:
        assert one.shared_bytes <= shared_limit(capability), f"{one.name} takes {one.shared_bytes} bytes shared"
        assert one.spilled_bytes <= MOST_SPILLED_BYTES, f"{one.name} spills {one.spilled_bytes} bytes a thread"
        assert "serialized" not in one.remarks, f"{one.name} waits for each of its products: {one.remarks}"
        assert_warpgroups_wait_for_each_other(one)
        assert_wgmma_sees_what_threads_copied(one)


def assert_warpgroups_wait_for_each_other(one: Compiled) -> None:
    """``wgmma.wait_group`` waits for its own four warps only: of eight, the others may still read what is overwritten.

    Triton before 3.9 leaves the barrier between them to chance (its issue 11047). Persistent programs store to
    shared memory, beside their copies, only where their output has memory of its own.
    """
    writes = r"cp\.async\.c[ag]\.|cp\.async\.bulk\.tensor" + ("" if one.persistent else r"|st\.shared")
    if not re.search(r"\.(reqntid|maxntid) 256\b", one.ptx):
        return
    assert not between(one.ptx, r"wgmma\.wait_group", r"bar\.sync", writes), (
        f"{one.name} writes shared memory that a warpgroup may still read"
    )


def assert_wgmma_sees_what_threads_copied(one: Compiled) -> None:
    """Products read shared memory by another way than threads write it: in between belongs a fence (PTX, async proxy).

    Triton before 3.7.1 leaves it out (its pull request 9610): nothing here can help that but TMA, which needs none.
    """
    import triton

    if numbers(triton.__version__) >= FENCED_FROM:
        unseen = between(one.ptx, r"cp\.async\.wait_group", r"fence\.proxy\.async", r"wgmma\.mma_async")
        assert not unseen, f"{one.name} multiplies what it may not see yet"


def between(ptx: str, begin: str, end: str, what: str) -> bool:
    """Whether a line with ``what`` stands behind one with ``begin`` and before the next with ``end``."""
    inside = False
    for line in ptx.splitlines():
        if re.search(begin, line):
            inside = True
        elif re.search(end, line):
            inside = False
        elif inside and re.search(what, line):
            return True
    return False


@pytest.mark.parametrize("tokens", [1, 16, 64, 512, 4096])
@pytest.mark.parametrize("shape", [QWEN3, GPT_OSS], ids=["qwen3", "gpt-oss"])
@pytest.mark.parametrize("capability", [(9, 0), (8, 0)], ids=["sm_90", "sm_80"])
def test_forward_of_real_shapes(compiler: Compiler, shape: Shape, tokens: int, capability: tuple[int, int]) -> None:
    compiler.capability = capability
    configuration = default(shape, tokens, "bf16", "forward", capability)
    found = compiler.forward(shape, tokens, "bf16", configuration)
    assert_sound(found, capability)
    products = [one for one in found if one.name in {"decode_kernel", "prefill_kernel"}]
    assert len(products) == 2
    for one in products:
        asynchronous = capability == (9, 0) and configuration.first.block_m >= 64
        assert ("wgmma.mma_async" in one.ptx) == asynchronous, one.name
        assert asynchronous or "mma.sync" in one.ptx, one.name
        assert "cp.async" in one.ptx, f"{one.name} is not pipelined"
    (adding,) = (one for one in found if one.name == "combine_kernel")
    assert "bar.sync" not in adding.ptx, "threads wait for each other to add up a token"
    assert re.search(r"ld\.global\S*\.v4\.b32", adding.ptx), "rows are not read in whole vectors"


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("tokens", [3, 300])
def test_uneven_shapes_in_every_dtype(compiler: Compiler, tokens: int, dtype: str) -> None:
    assert_sound(compiler.forward(UNEVEN, tokens, dtype, default(UNEVEN, tokens, dtype, "forward")), (9, 0))
    assert_sound(compiler.training(UNEVEN, tokens, dtype, default(UNEVEN, tokens, dtype, "training")), (9, 0))


def test_one_expert_of_very_many_slots(compiler: Compiler) -> None:
    shape = Shape(hidden=64, expert_hidden=64, experts=1, top_k=1)
    found = compiler.forward(shape, 10_000, "bf16", default(shape, 10_000, "bf16", "forward"))
    assert_sound(found, (9, 0))
    assert {"count_kernel", "scan_kernel", "place_many_kernel"} <= {one.name for one in found}


def test_expert_choice_compiles_each_kernel_once_however_many_choices_a_token_gets(compiler: Compiler) -> None:
    """K is the most choices of any token and changes from call to call; compiling takes a second."""
    kernels = set()
    for top_k in (3, 5, 9, 16):
        shape = Shape(hidden=64, expert_hidden=64, experts=16, top_k=top_k)
        tiles = default(shape, 8, "bf16", "forward")
        kernels |= {(one.name, one.ptx) for one in compiler.forward(shape, 8, "bf16", tiles)}
    assert len(kernels) == 3


def test_float32_runs_in_full_precision(compiler: Compiler) -> None:
    found = compiler.forward(QWEN3, 512, "fp32", default(QWEN3, 512, "fp32", "forward"))
    assert_sound(found, (9, 0))
    assert all("mma" not in one.ptx for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("pass_", ["forward", "training"])
@pytest.mark.parametrize("persistent", [(), PERSISTENT], ids=["a program a tile", "persistent"])
@pytest.mark.parametrize("shape", [QWEN3, GPT_OSS], ids=["qwen3", "gpt-oss"])
def test_tiles_through_tma(
    compiler: Compiler, through_tma: Any, shape: Shape, persistent: tuple[str, ...], pass_: Pass
) -> None:
    case = Case(shape=shape, traffic=Traffic(tokens=32768), dtype="bf16", pass_=pass_)
    configuration = through_tma(default(shape, 32768, "bf16", pass_), case, persistent)
    run = compiler.forward if pass_ == "forward" else compiler.training
    found = run(shape, 32768, "bf16", configuration)
    assert_sound(found, (9, 0))
    over_tiles = [one for one in found if one.name in OVER_TILES]
    for (name, tiles), one in zip(list(configuration.tiles().items())[:4], over_tiles, strict=True):
        assert "wgmma.mma_async" in one.ptx
        assert "cp.async.bulk.tensor" in one.ptx
        gathered = name in {"first", "grad_hidden"}
        assert ("cp.async.cg" in one.ptx) == gathered, (
            f"{name}: rows are gathered by the threads, ahead of time, or not"
        )
        assert tiles.persistent is bool(persistent)
        assert one.shared_bytes <= shared_bytes(tiles, name, shape, "bf16")
        operands = shared_bytes(replace(tiles, tma=False, persistent=False), name, shape, "bf16")
        assert not persistent or one.shared_bytes > operands + BARRIER_BYTES, "no memory of its own for the output"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [QWEN3, GPT_OSS], ids=["qwen3", "gpt-oss"])
@pytest.mark.parametrize("capability", [(9, 0), (8, 0)], ids=["sm_90", "sm_80"])
def test_training_of_real_shapes(compiler: Compiler, shape: Shape, capability: tuple[int, int]) -> None:
    compiler.capability = capability
    found = compiler.training(shape, 4096, "bf16", default(shape, 4096, "bf16", "training", capability))
    assert_sound(found, capability)
    if capability == (9, 0):
        assert sum("wgmma.mma_async" in one.ptx for one in found) >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(QWEN3, "bf16"), (MIXTRAL, "bf16"), (GPT_OSS, "bf16"), (QWEN3, "fp32")],
    ids=["qwen3", "mixtral", "gpt-oss", "qwen3-fp32"],
)
def test_backward_is_pipelined_and_adds_nothing_atomically(compiler: Compiler, shape: Shape, dtype: str) -> None:
    configuration = default(shape, 32768, dtype, "training")
    found = compiler.training(shape, 32768, dtype, configuration)
    assert_sound(found, (9, 0))
    products = [one for one in found if one.name in {"grad_hidden_kernel", "grad_input_kernel", "grad_weight_kernel"}]
    assert len(products) == 4
    for one in products:
        assert ("wgmma.mma_async" in one.ptx) == (dtype == "bf16"), one.name
        assert "cp.async" in one.ptx, f"{one.name} is not pipelined"
        tiles = getattr(configuration, one.name.removesuffix("_kernel"))
        assert one.shared_bytes >= shared_bytes(tiles, one.name.removesuffix("_kernel"), shape, dtype) * 2 / 3
    assert not any(re.search(r"^\s*(?:@\S+\s+)?(?:atom|red)\.", one.ptx, re.MULTILINE) for one in found)
