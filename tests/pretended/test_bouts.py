"""A bout on a GPU from beginning to end, all but the GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from harness.cases.validation import validation_cases
from harness.running.registry import registered
from harness.running.worker.devices import torch_devices

if TYPE_CHECKING:
    from harness.layer.contract import Forward, Layer, Routing

EVERYBODY = (
    "loop",
    "einsum",
    "batched",
    "grouped",
    "soft",
    "dense",
    "transformers.eager",
    "transformers.batched_mm",
    "transformers.grouped_mm",
)
IN_A_GRAPH = {"grouped", "soft", "dense", "transformers.batched_mm", "transformers.grouped_mm"}


@pytest.mark.parametrize("scope", ["experts", "layer"])
@pytest.mark.parametrize(("pass_", "execution"), [("forward", "eager"), ("training", "eager"), ("forward", "graph")])
def test_everybody_is_timed(bench: Any, pass_: str, execution: str, scope: str) -> None:
    case = bench.case(pass_=pass_, execution=execution, scope=scope)
    records = bench.records(case, EVERYBODY)
    for name, record in records.items():
        if execution == "eager" or name in IN_A_GRAPH:
            assert record.status == "ok", f"{name}: {record.reason} {record.log_tail}"
            assert record.timing.clock == ("wall" if execution == "eager" else "cuda_graph")
            assert min(record.timing.device_ns) > 0
            assert record.memory.method == "caching allocator statistics"
        else:
            assert record.status == "unsupported", f"{name}: {record.reason}"
            assert "a CUDA graph cannot hold it" in record.reason


@pytest.mark.parametrize("name", EVERYBODY)
def test_every_router_and_edge_agrees(bench: Any, name: str) -> None:
    """What ``moebench validate`` asks of training, in the dtype that everybody has kernels for."""
    found = set()
    for planned in validation_cases(bench.device):
        if planned.case.dtype == "bf16" and planned.case.pass_ == "training":
            record = bench.records(planned.case, [name], timed=False)[name]
            assert record.status in {"ok", "unsupported"}, f"{planned.case}: {record.reason} {record.log_tail}"
            found.add(record.status)
    assert "ok" in found


def adds_a_table(layer: Layer) -> Forward:
    """Correct on a CPU; on a GPU its table lies on the wrong side."""
    right = registered()["soft"].prepare(layer)

    def forward(x: torch.Tensor, routing: Routing) -> torch.Tensor:
        return right(x, routing) + torch.zeros(x.shape, dtype=x.dtype)

    return forward


def reads_back(layer: Layer) -> Forward:
    right = registered()["soft"].prepare(layer)

    def forward(x: torch.Tensor, routing: Routing) -> torch.Tensor:
        routing.weights.sum().item()
        return right(x, routing)

    return forward


def remembers(layer: Layer) -> Forward:
    """In a graph the host's own decisions are taken once."""
    right, seen = registered()["soft"].prepare(layer), []

    def forward(x: torch.Tensor, routing: Routing) -> torch.Tensor:
        seen.append(right(x, routing))
        return seen[0].clone()

    return forward


@pytest.mark.parametrize(
    ("prepare", "execution", "status", "why"),
    [
        (adds_a_table, "eager", "error", "same device"),
        (reads_back, "eager", "ok", ""),
        (reads_back, "graph", "unsupported", "synchronizing"),
        (remembers, "graph", "disagrees", ""),
    ],
)
def test_a_gpu_finds_out(bench: Any, prepare: Any, execution: str, status: str, why: str) -> None:
    mine = replace(registered()["soft"], name="mine", prepare=prepare)
    record = bench.records(bench.case(execution=execution), [mine])["mine"]
    assert record.status == status, record.reason
    assert why in record.reason


@pytest.mark.usefixtures("gpu")
def test_it_is_described() -> None:
    device = torch_devices()["cuda:0"]
    assert (device.name, device.kind, device.capability) == ("Pretended GPU", "cuda", "9.0")
    assert device.datasheet is None
