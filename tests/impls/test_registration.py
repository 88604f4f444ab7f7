"""What lists show, what is refused and why, and that implementations know only the harness's face."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

import impls
from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.layer.contract import FAMILIES

OWN = ("batched", "dense", "einsum", "fused", "grouped", "loop", "soft")


def make_case(hidden: int = 64, expert_hidden: int = 32, experts: int = 8, gated: bool = True, **case: Any) -> Case:
    shape = Shape(hidden=hidden, expert_hidden=expert_hidden, experts=experts, top_k=2, gated=gated)
    return Case(shape=shape, traffic=Traffic(tokens=8), **case)


@pytest.mark.parametrize("name", OWN)
def test_registered_under_its_family(lab: Any, name: str) -> None:
    implementation = lab.implementation(name)
    assert implementation.family == name
    assert implementation.family in FAMILIES
    assert implementation.passes == ("forward", "training")
    assert implementation.summary.endswith(".")
    assert implementation.source_hash != "unknown"
    assert implementation.origin == f"impls.{name}"


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_runs_on_the_cpu(lab: Any, name: str, dtype: str, pass_: str) -> None:
    assert lab.implementation(name).unsupported(make_case(dtype=dtype, pass_=pass_)) is None


@pytest.mark.parametrize("name", ["loop", "einsum", "batched"])
def test_what_reads_counts_back_refuses_a_graph(lab: Any, name: str) -> None:
    reason = lab.implementation(name).unsupported(make_case(device="cuda", execution="graph"))
    assert "graph" in reason


@pytest.mark.parametrize(
    ("sizes", "word"),
    [
        ({"hidden": 66}, "H = 66 to be a multiple of 8 in bf16"),
        ({"expert_hidden": 20}, "I = 20 to be a multiple of 8 in bf16"),
        ({"expert_hidden": 10}, "2I = 20 to be a multiple of 8 in bf16"),
        ({"hidden": 62, "dtype": "fp32"}, "H = 62 to be a multiple of 4 in fp32"),
        ({"expert_hidden": 20, "gated": False}, "I = 20 to be a multiple of 8 in bf16"),
        ({"dtype": "fp16", "device": "cuda"}, "bf16 only"),
        ({"experts": 1024, "device": "cuda"}, "at most 1023 experts"),
        ({"dtype": "fp32", "execution": "compile"}, "not fp32"),
    ],
    ids=str,
)
def test_grouped_refuses_what_torch_would(lab: Any, sizes: dict[str, Any], word: str) -> None:
    assert word in lab.implementation("grouped").unsupported(make_case(**sizes))


@pytest.mark.parametrize(
    ("capability", "execution", "word"),
    [
        ((7, 5), "eager", "needs compute capability 8.0"),
        ((8, 6), "graph", "no CUDA graph"),
        ((8, 6), "eager", None),
        ((9, 0), "graph", None),
        ((12, 0), "eager", None),
    ],
)
def test_grouped_on_older_gpus(
    lab: Any, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], execution: str, word: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    reason = lab.implementation("grouped").unsupported(make_case(device="cuda", execution=execution))
    assert reason is None if word is None else word in reason


def test_what_grouped_refuses_torch_refuses_too(lab: Any) -> None:
    """The rule is torch's own: when torch drops it, this test says so."""
    problem = lab.problem(hidden=66, dtype="bf16", pass_="forward")
    with pytest.raises(RuntimeError, match="16 bytes"):
        lab.ask("grouped", problem)


def test_implementations_import_only_the_harness_face() -> None:
    """And what implementations share: the modules of ``impls`` whose name starts with an underscore."""
    folder = Path(impls.__file__).parent
    for file in [*folder.glob("*.py"), *folder.glob("fused/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("harness", "impls")):
                own = file.parent.name == "fused" and node.module.startswith("impls.fused.")
                shared = node.module.startswith("impls._")
                assert own or shared or node.module == "harness", f"{file.name} imports {node.module}"
