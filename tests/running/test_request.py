"""The words of the command line become a plan, or one line that says what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cases.cost import memory_estimate_bytes
from harness.running import request
from harness.running.request import Request, available_memory

SUITE = """
    [suite]
    name = "mine"
    description = "what for"
    budget = "90s"

    [[sweep]]
    hidden = [32, 64]
    expert_hidden = 16
    experts = 4
    top_k = 2
    tokens = 8
    dtype = "fp32"

    [[case]]
    hidden = 32
    expert_hidden = 16
    experts = 4
    top_k = 2
    tokens = 9
    implementation = ["loop"]
"""


@pytest.fixture
def suite(tmp_path: Path) -> str:
    (tmp_path / "mine.toml").write_text(SUITE)
    return str(tmp_path / "mine.toml")


@pytest.fixture
def machine(plans: Any) -> Any:
    return plans.machine("einsum", "loop", devices=("cpu", "cuda:0"))


def test_a_suite_is_planned_for_the_best_device(suite: str, machine: Any) -> None:
    plan = Request(suite).plan(machine)
    assert (plan.suite, plan.description, plan.budget_s) == ("mine", "what for", 90.0)
    assert plan.devices == ("cuda:0",)
    assert [(one.case.traffic.tokens, one.implementations) for one in plan.planned] == [
        (8, ("einsum", "loop")), (8, ("einsum", "loop")), (9, ("loop",)),
    ]  # fmt: skip


def test_options_replace_what_the_suite_says(suite: str, machine: Any) -> None:
    plan = Request(suite, impl="einsum", device="cpu", budget="2m", overrides=("tokens=1,2", "dtype=bf16")).plan(
        machine
    )
    assert plan.budget_s == 120.0
    assert plan.devices == ("cpu",)
    assert {one.implementations for one in plan.planned} == {("einsum",)}
    assert {one.case.dtype for one in plan.planned} == {"bf16"}
    assert sorted(one.case.traffic.tokens for one in plan.planned) == [1, 1, 2, 2]


@pytest.mark.parametrize(("device", "name"), [("", "reference"), ("cpu", "quick"), ("cuda:0", "reference")])
def test_auto_is_what_the_device_is_good_for(machine: Any, device: str, name: str) -> None:
    assert Request("auto", device=device)._suite_name(machine) == name


def test_auto_without_a_gpu(plans: Any) -> None:
    assert Request("auto")._suite_name(plans.machine("loop")) == "quick"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"suite": "nosuch"}, "suite = 'nosuch': a TOML file, or the name of a shipped suite"),
        ({"impl": "nope"}, "--impl = 'nope': one of einsum, loop"),
        ({"impl": "loop,"}, "--impl = '': one of einsum, loop"),
        ({"device": "tpu"}, "--device = 'tpu': one of cpu, cuda:0"),
        ({"device": "cuda:7"}, "--device = 'cuda:7': one of cpu, cuda:0"),
        ({"device": "cpu,cuda:7"}, "--device = 'cuda:7'"),
        ({"budget": "soon"}, "budget = 'soon': a time above 0 such as 90s"),
        ({"overrides": ("tokens=-1",)}, "tokens = -1"),
        ({"overrides": ("tokens",)}, "tokens"),
        ({"overrides": ("sigma=3",)}, "sigma = '3': not a key of a sweep"),
        ({"model": "/nowhere/config.json"}, "--model: /nowhere/config.json: cannot be read"),
    ],
    ids=str,
)
def test_bad_words_are_said_in_one_line(suite: str, machine: Any, words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole message is looked at below)
        Request(**({"suite": suite} | words)).plan(machine)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_gpu_asking_for_one_says_who_knows_why(suite: str, plans: Any) -> None:
    machine = plans.machine("loop", "einsum")
    why = "one of cpu; torch sees no CUDA device here, `moebench doctor` tells why"
    with pytest.raises(ValueError, match=rf"^--device = 'cuda': {why}$"):
        Request(suite, device="cuda").plan(machine)
    with pytest.raises(ValueError, match=rf"mine\.toml: device = 'cuda:0': {why}$"):
        Request(suite, overrides=("device=cuda",)).plan(machine)


def test_a_layer_from_the_command_line_where_the_suite_has_none(machine: Any, tmp_path: Path) -> None:
    path = tmp_path / "bare.toml"
    path.write_text('[suite]\nname = "bare"\n[[sweep]]\ntokens = 8\n')
    config = {"model_type": "mixtral", "hidden_size": 32, "intermediate_size": 16, "num_local_experts": 8}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(
        json.dumps(config | {"num_experts_per_tok": 2, "hidden_act": "silu"})
    )
    (one,) = Request(str(path), model=str(tmp_path / "mine"), device="cpu").plan(machine).planned
    assert (one.case.shape.name, one.case.shape.experts) == ("mine", 8)


def test_errors_of_the_suite_name_its_file_and_those_of_options_do_not(suite: str, machine: Any) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole message is looked at below)
        Request(suite, impl="nope").plan(machine)
    assert "mine.toml" not in str(caught.value)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole message is looked at below)
        Request(suite, overrides=("implementation=nope",)).plan(machine)
    assert "mine.toml: implementation = 'nope'" in str(caught.value)


def test_a_case_too_large_for_its_device_is_refused(suite: str, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "available_memory_bytes", lambda: 10_000)
    with pytest.raises(ValueError, match="too large for memory: case needs"):
        Request(suite, device="cpu").plan(machine)
    assert Request(suite, device="cuda").plan(machine).devices == ("cuda:0",)


def test_cases_too_large_are_left_out_and_named(suite: str, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sorted(memory_estimate_bytes(one.case) for one in Request(suite, device="cpu").plan(machine).planned)
    monkeypatch.setattr(request, "available_memory_bytes", lambda: needed[-1] - 1)
    plan = Request(suite, device="cpu").plan(machine)
    assert {one.case.shape.hidden for one in plan.planned} == {32}
    assert [one.split(":")[0] for one in plan.left_out] == ["H64 I16 E4 k2 T=8 gaussian"]


def test_published_figures_go_with_the_plan(suite: str, machine: Any) -> None:
    table = """
    [[published]]
    source = "s"
    implementation = "theirs"
    figure = 3
    unit = "ms"
    hidden = 32
    expert_hidden = 16
    experts = 4
    top_k = 2
    tokens = 8
    """
    Path(suite).write_text(SUITE + table)
    (one,) = Request(suite).plan(machine).published
    assert (one.source, one.figure) == ("s", 3.0)
    Path(suite).write_text(SUITE + table.replace("figure = 3", "figure = 'fast'"))
    with pytest.raises(ValueError, match=r"mine\.toml: published 1: figure = 'fast': a number above 0$"):
        Request(suite).plan(machine)


def test_memory_is_what_is_free_here_and_most_of_a_gpu(plans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "available_memory_bytes", lambda: 5)
    machine = plans.machine("loop", devices=("cpu", "cuda:0", "cuda:1"))
    assert available_memory(machine) == {"cpu": 5, "cuda:0": int(0.9 * (1 << 34)), "cuda:1": int(0.9 * (1 << 34))}
