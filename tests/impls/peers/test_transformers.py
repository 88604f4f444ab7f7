"""The adapters to transformers: agreement with the oracle, what they refuse and why, and what they leave alone."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from harness.cases.case import Case
from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic
from harness.measure.failures import is_out_of_memory
from harness.measure.meters.memory import measure_memory

ROOT = Path(__file__).parents[3]
peers = importlib.import_module("impls.peers.transformers")
WAYS = ("eager", "batched_mm", "grouped_mm")
KINDS: dict[str, dict[str, Any]] = {
    "mixtral": {},
    "mixtral-gelu": {"activation": "gelu"},
    "nemotron": {"gated": False},
    "gpt-oss": {"activation": "clamped_swiglu", "bias": True},
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return f"transformers.{request.param}"


def make_case(router: str = "softmax", *, hidden: int = 64, expert_hidden: int = 32, **case: Any) -> Case:
    shape: dict[str, Any] = {key: case.pop(key) for key in ("activation", "gated", "bias", "experts") if key in case}
    sizes = {"hidden": hidden, "expert_hidden": expert_hidden, "experts": 8, "top_k": 1 if router == "switch" else 2}
    given: dict[str, Any] = {**sizes, **shape, "router": Router(kind=cast("Any", router))}
    made = Shape(**given)
    return Case(shape=made, traffic=Traffic(tokens=8), **case)


def assert_agrees_or_refuses(lab: Any, way: str, problem: Any) -> None:
    """Older versions refuse dropped slots; what is not refused is right."""
    if not lab.implementation(way).unsupported(problem.case):
        with lab.poison():
            lab.assert_agrees(way, problem)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_agrees_with_the_oracle(lab: Any, way: str, kind: str, pass_: str, dtype: str) -> None:
    problem = lab.problem(dtype=dtype, pass_=pass_, **KINDS[kind])
    assert lab.implementation(way).unsupported(problem.case) is None
    with lab.poison():
        lab.assert_agrees(way, problem)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_few_tokens(lab: Any, way: str, kind: str, pass_: str, tokens: int) -> None:
    lab.assert_agrees(way, lab.problem(tokens, pass_=pass_, **KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("router", ["switch", "expert_choice", "mixture"])
def test_routers_whose_slots_are_not_top_k(lab: Any, way: str, kind: str, router: str) -> None:
    problem = lab.problem(40, router=router, top_k=1 if router == "switch" else 2, seed=1, **KINDS[kind])
    assert router == "mixture" or (problem.inputs.routing.expert_ids == 8).any(), "a slot without an expert"
    assert_agrees_or_refuses(lab, way, problem)


def test_everything_dropped(lab: Any, way: str) -> None:
    problem = lab.problem(12, router="switch", top_k=1).routed([[8]] * 12)
    assert_agrees_or_refuses(lab, way, problem)


@pytest.mark.parametrize("sizes", [{"experts": 4, "top_k": 4}, {"experts": 1, "top_k": 1}], ids=str)
def test_odd_shapes(lab: Any, way: str, sizes: dict[str, int]) -> None:
    lab.assert_agrees(way, lab.problem(**sizes))


def test_beyond_the_clamp(lab: Any, way: str) -> None:
    problem = lab.problem(pass_="forward", **KINDS["gpt-oss"])
    lab.assert_agrees(way, problem.with_x(problem.inputs.x * 10))


def test_a_prepared_layer_takes_many_calls(lab: Any, way: str) -> None:
    """Gradients reach the layer's own tensors every time, also where prepare laid them out anew."""
    problem = lab.problem(**KINDS["gpt-oss"])
    layer, inputs = problem.weights.layer, problem.inputs
    forward = lab.implementation(way).prepare(layer)
    leaves = list(layer.parameters().values())
    first, second = (torch.autograd.grad(forward(inputs.x, inputs.routing), leaves, inputs.dy) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.any()
        torch.testing.assert_close(one, other)


def test_nothing_is_copied_where_the_layout_fits(lab: Any) -> None:
    layer = lab.problem().weights.layer
    assert peers._in_their_layout(layer, "mixtral")["gate_up_proj"] is layer.gate_up
    experts = peers._experts(peers.model_for(layer.shape), "grouped_mm")
    assert all(parameter.is_meta for parameter in experts.parameters()), "the class builds no weights of its own"


def test_the_routing_is_left_as_it_was(lab: Any, way: str) -> None:
    problem = lab.problem(40, router="switch", top_k=1, seed=1)
    ids = problem.inputs.routing.expert_ids.clone()
    assert_agrees_or_refuses(lab, way, problem)
    assert torch.equal(problem.inputs.routing.expert_ids, ids)


@pytest.mark.parametrize(
    ("case", "word"),
    [
        ({"bias": True}, "GptOssExperts, whose activation is clamped_swiglu"),
        ({"bias": True, "gated": False, "activation": "relu"}, "GptOssExperts, whose activation"),
        ({"activation": "clamped_swiglu"}, "have biases, this layer has none"),
    ],
    ids=str,
)
def test_what_no_model_computes(lab: Any, way: str, case: dict[str, Any], word: str) -> None:
    assert word in lab.implementation(way).unsupported(make_case(**case))


@pytest.mark.parametrize("kind", ["nemotron", "gpt-oss"])
def test_a_loop_that_cannot_skip_says_so(lab: Any, kind: str) -> None:
    reason = lab.implementation("transformers.eager").unsupported(make_case("switch", **KINDS[kind]))
    assert "Experts in transformers" in reason
    assert "(id E)" in reason


def test_the_loop_refuses_a_graph(lab: Any) -> None:
    case = make_case(device="cuda", execution="graph")
    assert "CUDA graph" in lab.implementation("transformers.eager").unsupported(case)
    assert lab.implementation("transformers.batched_mm").unsupported(case) is None


@pytest.mark.parametrize(
    ("case", "word"),
    [
        ({"hidden": 66}, "H = 66 to be a multiple of 8 in bf16"),
        ({"expert_hidden": 10}, "2I = 20 to be a multiple of 8 in bf16"),
        ({"hidden": 62, "dtype": "fp32"}, "H = 62 to be a multiple of 4 in fp32"),
        ({"hidden": 62, "dtype": "fp32", "execution": "compile"}, None),
    ],
    ids=str,
)
def test_grouped_mm_refuses_sizes_that_torch_would(lab: Any, case: dict[str, Any], word: str | None) -> None:
    reason = lab.implementation("transformers.grouped_mm").unsupported(make_case(**case))
    assert reason is None if word is None else word in reason


def test_what_grouped_mm_refuses_torch_refuses_too(lab: Any) -> None:
    with pytest.raises(RuntimeError, match="16 bytes"):
        lab.ask("transformers.grouped_mm", lab.problem(hidden=66, dtype="bf16", pass_="forward"))


@pytest.mark.parametrize(
    ("capability", "case", "word"),
    [
        ((7, 5), {"hidden": 66}, None),
        ((7, 5), {"execution": "graph"}, "loop on the host"),
        ((8, 6), {"execution": "graph"}, "loop on the host"),
        ((9, 0), {"execution": "graph"}, None),
        ((9, 0), {"execution": "graph", "dtype": "fp16"}, "in fp16 on this device"),
        ((9, 0), {"experts": 1024}, "at most 1023 experts"),
        ((8, 0), {"hidden": 66}, "H = 66"),
    ],
    ids=str,
)
def test_grouped_mm_on_gpus(
    lab: Any, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], case: dict[str, Any], word: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    reason = lab.implementation("transformers.grouped_mm").unsupported(make_case(device="cuda", **case))
    assert reason is None if word is None else word in reason


def test_registration(lab: Any, way: str) -> None:
    implementation = lab.implementation(way)
    assert implementation.family == "peer"
    assert implementation.passes == ("forward", "training")
    assert implementation.version == importlib.import_module("transformers").__version__
    assert "never verified" not in implementation.note
    assert implementation.source_hash != "unknown"


def test_listing_imports_no_transformers() -> None:
    code = "import sys, impls.peers.transformers; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_memory_of_batched_mm_is_a_figure(lab: Any) -> None:
    """It copies an expert for every slot; the meter says how many bytes that takes."""
    problem = lab.problem(64, pass_="forward")
    layer, inputs = problem.weights.layer, problem.inputs
    peak = {}
    for name in ("batched_mm", "grouped_mm"):
        forward = lab.implementation(f"transformers.{name}").prepare(layer)
        call = functools.partial(forward, inputs.x, inputs.routing)
        peak[name] = measure_memory("cpu", call, weights_bytes=0).peak_bytes or 0
    copied = 64 * 2 * 2 * 32 * 64 * 4
    assert peak["batched_mm"] > copied > 4 * peak["grouped_mm"]


def test_more_memory_than_there_can_be_is_no_crash(lab: Any) -> None:
    """2**48 bytes of copied weights: the allocator refuses, and the harness knows what that means."""
    problem = lab.problem(1, pass_="forward", hidden=8, expert_hidden=1 << 20, experts=1, top_k=1)
    with pytest.raises(RuntimeError) as caught:
        lab.ask("transformers.batched_mm", problem.routed(torch.zeros(1, 1 << 22, dtype=torch.int64)))
    assert is_out_of_memory(caught.value)
