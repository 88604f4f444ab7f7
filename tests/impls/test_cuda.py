"""What only a GPU can show: its kernels' answers, who waits for the device, and what a CUDA graph can hold."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.layer.contract import Forward
    from harness.layer.inputs import Inputs

pytestmark = pytest.mark.cuda

MOE = ("loop", "einsum", "batched", "grouped", "soft", "fused")
OVER_TILES = ("first", "second", "grad_hidden", "grad_input")
"""Kernels that have persistent programs."""
NEVER_WAIT = ("grouped", "soft", "dense", "fused")


@pytest.fixture(params=[*MOE, "dense"])
def name(request: pytest.FixtureRequest) -> str:
    """Every implementation that computes something; fused too, which has no kernels for the CPU."""
    return str(request.param)


@pytest.fixture(params=MOE)
def moe(request: pytest.FixtureRequest) -> str:
    """Every implementation that follows the routing."""
    return str(request.param)


def problem_on_gpu(lab: Any, name: str, tokens: int = 130, **settings: Any) -> Any:
    problem = lab.problem(tokens, device="cuda", **{"dtype": "bf16", **settings})
    reason = lab.implementation(name).unsupported(problem.case)
    if reason:
        pytest.skip(reason)
    return problem


@pytest.mark.parametrize("pass_", ["forward", "training"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_agrees_on_poisoned_memory(lab: Any, name: str, dtype: str, bias: bool, pass_: str) -> None:
    problem = problem_on_gpu(lab, name, dtype=dtype, bias=bias, pass_=pass_)
    with lab.poison():
        lab.assert_agrees(name, problem)


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_few_tokens(lab: Any, name: str, tokens: int, pass_: str) -> None:
    lab.assert_agrees(name, problem_on_gpu(lab, name, tokens, pass_=pass_))


@pytest.mark.parametrize("tokens", [1, 12, 40, 257])
@pytest.mark.parametrize("sizes", [(50, 37), (256, 192)], ids=["uneven", "even"])
@pytest.mark.parametrize("pass_", ["forward", "training"])
@pytest.mark.parametrize(
    ("dtype", "activation"), [("bf16", "silu"), ("fp16", "clamped_swiglu"), ("fp32", "gelu"), ("bf16", "relu")]
)
def test_fused_in_both_regimes(
    lab: Any, dtype: str, activation: str, pass_: str, sizes: tuple[int, int], tokens: int
) -> None:
    """The kernels as the GPU runs them; all pairs are the interpreter's tests' business, here each takes a second."""
    layer = {"hidden": sizes[0], "expert_hidden": sizes[1], "activation": activation, "bias": True}
    problem = problem_on_gpu(lab, "fused", tokens, dtype=dtype, pass_=pass_, **layer)
    with lab.poison():
        got = lab.assert_agrees("fused", problem)
    again = lab.ask("fused", problem)
    assert all(torch.equal(got[key], again[key]) for key in got)


@pytest.mark.parametrize(
    ("experts", "sizes"),
    [(8, (512, 768)), (100, (264, 392)), (8, (2048, 1792))],
    ids=["large", "multiples of 8", "so large that by default TMA fetches"],
)
@pytest.mark.parametrize("pass_", ["forward", "training"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_fused_on_many_tokens(lab: Any, dtype: str, pass_: str, experts: int, sizes: tuple[int, int]) -> None:
    """Tiles of 128 rows and eight warps, loops of many steps, slots placed in three launches; a race would show."""
    layer = {"hidden": sizes[0], "expert_hidden": sizes[1], "experts": experts}
    problem = problem_on_gpu(lab, "fused", 5000, dtype=dtype, pass_=pass_, **layer)
    with lab.poison():
        got = lab.assert_agrees("fused", problem)
    for _ in range(20):
        again = lab.ask("fused", problem)
        assert all(torch.equal(got[key], again[key]) for key in got)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize(("tokens", "persistent"), [(16, ()), (40, OVER_TILES), (5000, ()), (5000, OVER_TILES)])
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_fused_through_tma(lab: Any, through_tma: Any, pass_: str, persistent: tuple[str, ...], tokens: int) -> None:
    """Sizes that are no multiples of the tiles; with nothing to do, too."""
    problem = problem_on_gpu(lab, "fused", tokens, pass_=pass_, hidden=456, expert_hidden=392, experts=16, bias=True)
    prepared = fetching(problem, through_tma, persistent)
    with lab.poison():
        got = lab.assert_agrees("fused", problem, lab.ask("fused", problem, prepared))
    with never_waiting():
        repeated = [lab.ask("fused", problem, prepared) for _ in range(20)]
    assert all(torch.equal(got[key], again[key]) for again in repeated for key in got)
    dropped = problem.routed(torch.full((tokens, 2), 16))
    lab.assert_agrees("fused", dropped, lab.ask("fused", dropped, prepared))


@pytest.mark.parametrize(("tokens", "persistent"), [(16, ()), (5000, ()), (5000, OVER_TILES)])
def test_fused_through_tma_fits_into_a_graph(
    lab: Any, through_tma: Any, persistent: tuple[str, ...], tokens: int
) -> None:
    """A graph keeps the descriptors it was captured with."""
    problem = problem_on_gpu(lab, "fused", tokens, pass_="forward", hidden=456, expert_hidden=392, experts=16)
    assert_fits_into_a_graph(fetching(problem, through_tma, persistent), problem.inputs)


def fetching(problem: Any, through_tma: Any, persistent: tuple[str, ...]) -> Forward:
    """The fused kernels with their default tiles, fetched by TMA."""
    from impls.fused.defaults import default
    from impls.fused.forward import FusedForward

    capability, case = torch.cuda.get_device_capability(), problem.case
    if capability < (9, 0):
        pytest.skip("below compute capability 9.0 there is no TMA")
    tiles = default(case.shape, case.traffic.tokens, case.dtype, case.pass_, capability)
    copied = through_tma(tiles, case, persistent, capability)
    assert (copied.first.tma, copied.first.persistent) == (True, bool(persistent))
    return FusedForward(problem.weights.layer, copied)


@pytest.mark.parametrize("ids", [[[8, 8]], [[8, 2]], [[5, 8]]], ids=str)
def test_dropped_slots(lab: Any, moe: str, ids: list[list[int]]) -> None:
    problem = problem_on_gpu(lab, moe, 12, bias=True)
    with lab.poison():
        lab.assert_agrees(moe, problem.routed(ids * 12))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("name", NEVER_WAIT)
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_never_waits_for_the_device(lab: Any, name: str, pass_: str) -> None:
    if name == "grouped" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("below compute capability 9.0 grouped_mm is a loop on the host")
    problem = problem_on_gpu(lab, name, pass_=pass_, bias=True)
    lab.ask(name, problem)
    with never_waiting():
        lab.ask(name, problem)


@contextlib.contextmanager
def never_waiting() -> Iterator[None]:
    """Whatever waits for the device raises."""
    try:
        torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NEVER_WAIT)
def test_fits_into_a_graph(lab: Any, name: str) -> None:
    if name == "grouped" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("below compute capability 9.0 grouped_mm is a loop on the host")
    problem = problem_on_gpu(lab, name, pass_="forward")
    assert_fits_into_a_graph(lab.implementation(name).prepare(problem.weights.layer), problem.seen_by(name).inputs)


def assert_fits_into_a_graph(forward: Forward, inputs: Inputs) -> None:
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            expected = forward(inputs.x, inputs.routing)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = forward(inputs.x, inputs.routing)
        graph.replay()
    torch.testing.assert_close(y, expected)
