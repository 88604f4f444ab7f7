"""What a peer cannot do is said in one sentence, before anything is built."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.cases.case import Case
from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic
from impls._interpreter import untimed
from impls.peers._limits import Limits

ALL = Limits("it", gated=("silu", "relu"), plain=("relu",), bias=True)


def case(router: Any = "softmax", hidden: int = 64, expert_hidden: int = 32, **given: Any) -> Case:
    shape = {key: given.pop(key) for key in ("activation", "gated", "bias") if key in given}
    top_k = 1 if router == "switch" else 2
    sizes: dict[str, Any] = {"hidden": hidden, "expert_hidden": expert_hidden, "experts": 4, "top_k": top_k}
    return Case(shape=Shape(**sizes, **shape, router=Router(kind=router)), traffic=Traffic(tokens=3), **given)


@pytest.mark.parametrize(
    ("limits", "given", "says"),
    [
        (ALL, {}, None),
        (ALL, {"gated": False, "activation": "relu", "bias": True}, None),
        (ALL, {"router": "mixture", "execution": "compile"}, None),
        (ALL, {"activation": "gelu"}, "it has silu and relu only, not gelu for gated experts"),
        (ALL, {"gated": False}, "it has relu only, not silu for plain experts"),
        (Limits("it", gated=("silu",)), {"gated": False}, "it has none for plain experts"),
        (Limits("it", gated=("silu",)), {"bias": True}, "it adds no biases to its experts"),
        (ALL, {"router": "switch"}, "it has no slots without an expert, which router 'switch' may leave"),
        (ALL, {"router": "expert_choice"}, "it has no slots without an expert, which router 'expert_choice' may leave"),
        (Limits("it", gated=("silu",), multiple=16), {"hidden": 72}, "it needs H = 72 to be a multiple of 16"),
        (Limits("it", gated=("silu",), multiple=16), {"expert_hidden": 8}, "it needs I = 8 to be a multiple of 16"),
        (
            Limits("it", gated=("silu",), refuses=(("graph", "it waits"),)),
            {"execution": "graph", "device": "cuda"},
            "it does not do execution 'graph': it waits",
        ),
    ],
    ids=str,
)
def test_each_limit_says_what_it_is(limits: Limits, given: dict[str, Any], says: str | None) -> None:
    assert limits(case(**given)) == says


@pytest.mark.parametrize(("capability", "fits"), [((8, 9), False), ((9, 0), True), ((10, 3), True), ((12, 0), False)])
def test_only_devices_with_kernels_will_do(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fits: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    limits = Limits("it", gated=("silu",), capabilities=(9, 10))
    had = f"{capability[0]}.{capability[1]}"
    said = f"it has kernels for compute capability 9.x or 10.x, this device has {had}"
    assert limits(case(device="cuda")) == (None if fits else said)
    assert limits(case()) is None


def test_triton_needs_its_interpreter_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits("it", gated=("silu",), interpreted=True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "with TRITON_INTERPRET=1" in (limits(case()) or "")
    assert untimed(case()) is None
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "multiplies bf16 wrongly" in (limits(case()) or "")
    assert limits(case(dtype="fp16")) is None
    assert "never timed" in (untimed(case()) or "")
