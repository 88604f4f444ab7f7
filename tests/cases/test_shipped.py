"""The suites that come with moebench: they load, they fit, and they are found by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.cases.presets import presets
from harness.cases.shipped import find_suite, shipped_suites
from harness.cases.suite import check_memory, load_suite
from harness.measure.metering import ENERGY_SHARE
from harness.measure.meters.energy import SHORTEST_WINDOW_S

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
NAMES = {"loop", "einsum", "batched", "grouped", "soft", "dense", "fused"}
PEERS = {
    *("transformers.eager", "transformers.batched_mm", "transformers.grouped_mm", "triton_kernels", "scattermoe"),
    *("sonicmoe", "megablocks", "torchtitan", "vllm.fused_experts", "sglang.fused_experts", "flashinfer.cutlass"),
    "deepgemm",
}


@pytest.mark.parametrize("name", shipped_suites())
def test_a_shipped_suite_is_sound(name: str) -> None:
    suite = load_suite(find_suite(name))
    assert suite.name == name
    assert suite.description
    assert suite.budget_s
    for planned in suite.cases("cpu"):
        assert set(planned.implementations or ()) <= NAMES | PEERS


def test_what_is_shipped() -> None:
    asked = {"decode", "prefill", "skew", "models", "topk-experts", "training", "peers", "energy"}
    assert {"tiny", "quick", "reference", *asked} <= set(shipped_suites())


def test_suites_ask_a_question_in_one_line() -> None:
    ours = {"decode", "prefill", "skew", "models", "topk-experts", "training", "peers", "quick", "energy"}
    for name, path in shipped_suites().items():
        description = load_suite(path).description
        assert len(description) <= 120
        assert description.endswith("?") or not (name in ours or name.startswith("published-"))


def test_models_are_all_there_are() -> None:
    planned = load_suite(find_suite("models")).cases("cuda:0")
    assert {p.case.shape.name for p in planned} == set(presets())
    check_memory(planned, {"cuda:0": 72 * GIB})


def test_finer_experts_cost_the_same_flops() -> None:
    planned = load_suite(find_suite("topk-experts")).cases("cpu")
    finer = [p.case.shape for p in planned if p.case.traffic.tokens == 64]
    assert len({shape.top_k for shape in finer}) == len(finer) == 5
    assert {shape.top_k * shape.expert_hidden for shape in finer} == {8192}
    assert {shape.experts * shape.expert_hidden for shape in finer} == {65536}


def test_quick_fits_a_laptop() -> None:
    planned = load_suite(find_suite("quick")).cases("cpu")
    assert 25 <= len(planned) <= 35
    check_memory(planned, {"cpu": 4 * GIB})
    kinds = {p.case.traffic.kind for p in planned if p.case.shape.name == "olmoe-1b-7b"}
    assert kinds == {"uniform", "gaussian", "zipf", "trace"}
    for one in planned:  # transformers' batched_mm copies an expert for every slot
        shape, slots = one.case.shape, one.case.traffic.tokens * one.case.shape.active_experts
        copies = slots * shape.expert_params * one.case.dtype_bytes
        assert copies < GIB or "transformers.batched_mm" not in (one.implementations or PEERS)
    assert {p.case.shape.router.kind for p in planned} >= {"softmax", "sigmoid", "switch", "mixture", "expert_choice"}
    assert {p.case.pass_ for p in planned} == {"forward", "training"}


def test_energy_has_room_for_windows_that_its_counter_can_read() -> None:
    suite = load_suite(find_suite("energy"))
    planned = suite.cases("cuda:0")
    assert suite.budget_s is not None
    least = min(suite.budget_s / len(planned) / len(one.implementations or PEERS) for one in planned)
    assert least * ENERGY_SHARE / 2 > 3 * SHORTEST_WINDOW_S
    check_memory(planned, {"cuda:0": 24 * GIB})


def test_reference_fits_one_gpu() -> None:
    planned = load_suite(find_suite("reference")).cases("cuda:0")
    check_memory(planned, {"cuda:0": 75 * GIB})
    assert {p.case.traffic.tokens for p in planned} >= {1, 64, 4096, 32768}
    same_experts = {"moonlight-16b"}  # as deepseek-v2-lite's
    assert {p.case.shape.name for p in planned} == set(presets()) - same_experts
    everywhere = {(p.case.execution, p.case.pass_) for p in planned}
    assert everywhere == {("eager", "forward"), ("graph", "forward"), ("compile", "forward"), ("eager", "training")}


@pytest.mark.parametrize("name", ["quick", "reference"])
def test_soft_is_left_out_where_it_would_waste_the_budget(name: str) -> None:
    for planned in load_suite(find_suite(name)).cases("cpu"):
        shape, tokens = planned.case.shape, planned.case.traffic.tokens
        wasted = 6 * tokens * shape.hidden * shape.expert_hidden * (shape.experts - shape.active_experts)
        assert wasted < 1e12 or "soft" not in (planned.implementations or NAMES)


def test_tiny_is_tiny() -> None:
    planned = load_suite(find_suite("tiny")).cases("cpu")
    assert len(planned) == 3
    check_memory(planned, {"cpu": GIB // 256})


def test_a_suite_is_found_by_name_or_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("", encoding="utf-8")
    assert find_suite(str(path)) == path
    assert find_suite("quick").name == "quick.toml"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("quik", "did you mean 'quick'"), ("nothing/such.toml", "one of asv, calibrate, compare, ")],
)
def test_an_unknown_suite_lists_what_there_is(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"^suite = '{name}': a TOML file, or the name of a shipped suite; {hint}"):
        find_suite(name)
