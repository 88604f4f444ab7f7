"""What only a GPU can show: its kernels' answers, who waits for the device, and what a CUDA graph can hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.cuda

NEVER_WAIT = ("grouped", "soft", "dense")


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


@pytest.mark.parametrize("ids", [[[8, 8]], [[8, 2]], [[5, 8]]], ids=str)
def test_dropped_slots(lab: Any, moe: str, ids: list[list[int]]) -> None:
    problem = problem_on_gpu(lab, moe, 12, bias=True)
    with lab.poison():
        lab.assert_agrees(moe, problem.routed(ids * 12))


@pytest.mark.parametrize("name", NEVER_WAIT)
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_never_waits_for_the_device(lab: Any, name: str, pass_: str) -> None:
    if name == "grouped" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("below compute capability 9.0 grouped_mm is a loop on the host")
    problem = problem_on_gpu(lab, name, pass_=pass_, bias=True)
    lab.ask(name, problem)
    torch.cuda.set_sync_debug_mode("error")
    try:
        lab.ask(name, problem)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NEVER_WAIT)
def test_fits_into_a_graph(lab: Any, name: str) -> None:
    if name == "grouped" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("below compute capability 9.0 grouped_mm is a loop on the host")
    problem = problem_on_gpu(lab, name, pass_="forward")
    inputs = problem.seen_by(name).inputs
    forward = lab.implementation(name).prepare(problem.weights.layer)
    with torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            expected = forward(inputs.x, inputs.routing)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = forward(inputs.x, inputs.routing)
        graph.replay()
    torch.testing.assert_close(y, expected)
