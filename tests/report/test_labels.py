"""What runs, devices and groups are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from harness.cases.shape import Router, Shape
from harness.report.labels import describe, group_id, group_label, run_labels, short_name, slug, unique, used_devices

if TYPE_CHECKING:
    from tests.report.conftest import Factory


def test_runs_are_called_by_host_and_device(make: Factory) -> None:
    here = make.run([make.timed(make.case(), "loop")])
    there = make.run([make.timed(make.case(), "loop")], environment=make.environment("other", "NVIDIA A100"))
    assert run_labels([here, there]) == ["gpu-07, NVIDIA H100 80GB HBM3", "other, NVIDIA A100"]


def test_equal_machines_are_told_apart(make: Factory) -> None:
    runs = [make.run([], path=path) for path in ("monday", "tuesday", "monday")]
    labels = run_labels(runs)
    assert len(set(labels)) == 3
    assert labels[1].endswith("tuesday")
    assert labels[2].endswith("monday (2)")


def test_unique_numbers_repetitions() -> None:
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]


def test_an_unknown_device_keeps_its_word(make: Factory) -> None:
    run = make.run([make.timed(make.case(), "loop"), make.timed(make.case(device="cuda:5"), "loop")])
    assert used_devices(run) == {"cuda:0": "NVIDIA H100 80GB HBM3", "cuda:5": "cuda:5"}


@pytest.mark.parametrize(
    ("device", "short"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "Intel Xeon Platinum 8481C"),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
        ("NVIDIA H200", "NVIDIA H200"),
        ("CPU", "CPU"),
    ],
)
def test_short_names(device: str, short: str) -> None:
    assert short_name(device) == short


def test_a_group_ignores_traffic_and_name_and_nothing_else(make: Factory) -> None:
    case = make.case(1)
    unnamed = msgspec.structs.replace(case, shape=msgspec.structs.replace(case.shape, name="x"))
    assert group_id(case) == group_id(make.case(64, "zipf", seed=3)) == group_id(unnamed)
    for other in (make.case(1, dtype="fp16"), make.case(1, pass_="training"), make.case(1, device="cpu")):
        assert group_id(other) != group_id(case)
    routed = msgspec.structs.replace(case, shape=msgspec.structs.replace(case.shape, router=Router(kind="sigmoid")))
    assert group_id(routed) != group_id(case)


def test_description_names_what_is_computed(make: Factory) -> None:
    router = Router(kind="sigmoid", groups=8, top_groups=4, scale=2.5, renormalise=True, selection_bias=True)
    shape = Shape(
        hidden=64, expert_hidden=32, experts=16, top_k=2, shared_experts=1, shared_hidden=48, bias=True, router=router
    )
    text = describe(make.case(shape=shape, scope="layer", pass_="training"))
    for words in ("2 of 16 experts", "gated silu", "biases", "64 → 32 → 64", "sigmoid", "4 of 8 groups", "scale 2.5"):
        assert words in text
    for words in (
        "renormalised",
        "selection bias",
        "1 of width 48",
        "router, the routed and the shared",
        "and backward",
    ):
        assert words in text
    switch = Shape(hidden=8, expert_hidden=8, experts=4, top_k=1, router=Router(kind="switch"))
    assert "capacity factor 1.25" in describe(make.case(shape=switch))


def test_label_and_slug(make: Factory) -> None:
    label = group_label(make.case())
    assert label == "tiny-moe (H2048 I768 E64 k8), bf16 forward, experts, eager, cuda:0"
    assert slug("A b/c: (d)") == "a-b-c-d"
