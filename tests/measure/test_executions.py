"""Eager, compiled, and replayed from a CUDA graph; the last with a stand-in for CUDA, and for real where there is."""

from __future__ import annotations

import contextlib
import functools
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from harness.layer.inputs import Inputs, make_inputs
from harness.layer.weights import make_weights
from harness.measure.contestant import Contestant
from harness.measure.executions import CaptureError, GraphedCompute, execute_as, execution_refuses, start_afresh

if TYPE_CHECKING:
    from collections.abc import Iterator


COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"execution": "graph"}, "need a CUDA device"),
        ({"execution": "graph", "device": "cuda", "pass_": "training"}, "forward pass only"),
        ({"execution": "graph", "device": "cuda", "router": "expert_choice"}, "fixed shapes"),
    ],
)
def test_what_no_graph_can_hold_is_refused_with_a_reason(kit: Any, given: dict[str, Any], says: str) -> None:
    assert says in (execution_refuses(kit.case(**given)) or "")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"execution": "compile"},
        {"execution": "compile", "pass_": "training"},
        {"execution": "graph", "device": "cuda:1"},
    ],
)
def test_the_rest_is_not(kit: Any, given: dict[str, Any]) -> None:
    assert execution_refuses(kit.case(**given)) is None


def test_eager_is_left_as_it_is(kit: Any) -> None:
    def compute(_inputs: Inputs) -> Tensor:
        return torch.zeros(1)

    assert execute_as(kit.case(), compute) is compute


@COMPILER
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("pass_", ["forward", "training"])
@pytest.mark.parametrize("scope", ["experts", "layer"])
def test_a_compiled_loop_passes_the_gate(kit: Any, scope: str, pass_: str) -> None:
    case = kit.case(4, experts=2, execution="compile", scope=scope, pass_=pass_)
    start_afresh(case)
    agreement = kit.admit(kit.correct, case).agreement
    assert agreement.passed
    assert agreement.checks == 3
    assert [stage for _, stage in kit.notes] == [
        "prepare",
        "first call",
        "poisoned call",
        "second call",
        "repeated call",
    ]


def test_what_is_compiled_is_compiled_and_afresh_for_every_bout(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch stops compiling what it has compiled eight times: the tenth case would run eagerly, called compiled."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    case = kit.case(2, execution="compile")
    inputs = make_inputs(case, make_weights(case), 0)
    for scale in range(10):
        start_afresh(case)
        counters.clear()
        compiled = execute_as(case, lambda inputs, scale=scale: inputs.x * scale)  # type: ignore[misc]
        assert torch.equal(compiled(inputs), inputs.x * scale)
        assert counters["stats"]["unique_graphs"] == 1


def test_other_executions_forget_nothing(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "reset", lambda: pytest.fail("nothing to forget"))
    start_afresh(kit.case())


class FakeGraph:
    """Replays by running what was captured once more, into the buffer it gave at capture."""

    current: FakeGraph | None = None

    def __init__(self) -> None:
        self.replays = 0
        self.run: Any = None

    def replay(self) -> None:
        self.replays += 1
        self.run()


class FakeStream:
    def wait_stream(self, _other: Any) -> None:
        pass


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """``torch.cuda`` as far as a capture needs it; returns what was done to it."""
    done: list[str] = []

    @contextlib.contextmanager
    def graph(_graph: FakeGraph) -> Iterator[None]:
        done.append("capture")
        yield
        done.append("captured")

    @contextlib.contextmanager
    def context(_what: Any) -> Iterator[None]:
        yield

    for name, value in {
        "CUDAGraph": FakeGraph,
        "Stream": FakeStream,
        "current_stream": FakeStream,
        "stream": context,
        "set_stream": lambda _stream: done.append("own stream"),
        "set_sync_debug_mode": done.append,
        "device": context,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return done


class TestGraphed:
    def compute(self, done: list[str]) -> Any:
        def compute(inputs: Inputs) -> Tensor:
            done.append("compute")
            return inputs.x * inputs.routing.weights.sum() + inputs.routing.expert_ids.sum()

        return compute

    def test_warms_up_captures_once_and_replays_on_every_calls_numbers(self, kit: Any, cuda: list[str]) -> None:
        case = kit.case()
        weights = make_weights(case)
        compute = self.compute(cuda)
        graphed = GraphedCompute(compute)
        first, second = make_inputs(case, weights, 0), make_inputs(case, weights, 1)
        with pytest.raises(TypeError):  # nobody has told the stand-in what a replay does
            graphed(first)
        rehearsed = ["compute", "compute", "error", "compute", "default"]
        assert cuda == [*rehearsed, "capture", "compute", "captured", "own stream"]
        graph: Any = graphed._graph
        assert isinstance(graph, FakeGraph)
        graph.run = lambda: graphed._y.copy_(compute(graphed._buffers))
        for inputs in (first, second, first):
            assert torch.equal(graphed(inputs), compute(inputs))
        assert graph.replays == 4
        assert cuda.count("capture") == 1

    def test_never_touches_the_inputs_it_was_captured_on(self, kit: Any, cuda: list[str]) -> None:
        case = kit.case(scope="layer", router="noisy_topk")
        inputs = make_inputs(case, make_weights(case), 0)
        graphed = GraphedCompute(self.compute(cuda))
        with pytest.raises(TypeError):
            graphed(inputs)
        buffers = graphed._buffers
        assert buffers.router_noise is not None
        for mine, theirs in (
            (buffers.x, inputs.x),
            (buffers.routing.weights, inputs.routing.weights),
            (buffers.router_noise, inputs.router_noise),
        ):
            assert torch.equal(mine, theirs)  # type: ignore[arg-type]
            assert mine.data_ptr() != theirs.data_ptr()  # type: ignore[union-attr]

    def test_what_fails_only_when_captured_cannot_be_captured(self, kit: Any, cuda: list[str]) -> None:
        def compute(inputs: Inputs) -> Tensor:
            if "capture" in cuda:
                raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
            return inputs.x

        inputs = make_inputs(kit.case(), make_weights(kit.case()), 0)
        with pytest.raises(CaptureError, match="cannot be captured in a CUDA graph: CUDA error: operation not"):
            GraphedCompute(compute)(inputs)
        assert cuda[-1] == "own stream"  # torch leaves its own behind

    def test_what_waits_is_found_out_before_a_capture_could_fail_on_it(self, kit: Any, cuda: list[str]) -> None:
        def compute(inputs: Inputs) -> Tensor:
            if cuda and cuda[-1] == "error":
                raise RuntimeError("called a synchronizing CUDA operation")
            return inputs.x

        inputs = make_inputs(kit.case(), make_weights(kit.case()), 0)
        with pytest.raises(CaptureError, match="cannot be captured in a CUDA graph: called a synchronizing"):
            GraphedCompute(compute)(inputs)
        assert cuda == ["error", "default"]

    @pytest.mark.parametrize("error", [RuntimeError("wrong anyway"), torch.OutOfMemoryError("out of memory")])
    def test_what_fails_anyway_fails_as_it_is(self, kit: Any, cuda: list[str], error: Exception) -> None:
        def compute(inputs: Inputs) -> Tensor:
            if isinstance(error, torch.OutOfMemoryError) and "capture" not in cuda:
                return inputs.x
            raise error

        inputs = make_inputs(kit.case(), make_weights(kit.case()), 0)
        with pytest.raises(type(error)) as caught:
            GraphedCompute(compute)(inputs)
        assert caught.value is error


@pytest.mark.cuda
class TestOnAGpu:
    @pytest.mark.parametrize("scope", ["experts", "layer"])
    def test_a_graph_passes_the_gate(self, kit: Any, scope: str) -> None:
        case = kit.case(execution="graph", device="cuda", scope=scope)
        assert kit.admit(kit.never_asking, case).agreement.checks == 3

    def test_what_asks_the_host_cannot_be_captured(self, kit: Any) -> None:
        case = kit.case(execution="graph", device="cuda")
        one = Contestant(kit.implementation(kit.correct), make_weights(case), case)
        with pytest.raises(CaptureError):
            one.call(make_inputs(case, one.weights, 0))()
