"""Modules are found by entry points, a package's public submodules with it; what fails is listed with its reason."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from harness.measure.settings import read_settings
from harness.running import discovery
from harness.running.discovery import declared_modules, load_all
from harness.running.registry import missing_here, registered

pytestmark = pytest.mark.usefixtures("empty_registry")

SOURCE = """
    from harness import implementation

    @implementation("{name}", family="peer")
    def {name}(layer):
        return None
"""


@pytest.fixture
def beside(site: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small package in the place of ``impls``."""
    site.package("beside", one=SOURCE.format(name="one"))
    monkeypatch.setattr(discovery, "BESIDE", "beside")
    monkeypatch.setattr(discovery, "GROUP", "moebench.tests")  # what else is installed here does not count
    return site


def load(skip: dict[str, str] | None = None) -> tuple[dict[str, str], list[str]]:
    announced: list[str] = []
    return load_all(announced.append, skip or {}), announced


def test_the_package_beside_the_harness_needs_no_installation(beside: Any) -> None:
    assert declared_modules() == ["beside"]
    broken, announced = load()
    assert (broken, announced) == ({}, ["beside", "beside.one"])
    assert list(registered()) == ["one"]
    assert registered()["one"].origin == "beside.one"


def test_a_third_partys_entry_point_is_enough(beside: Any) -> None:
    beside.package("theirs", fast=SOURCE.format(name="fast"), _hidden="raise RuntimeError('never imported')")
    beside.module("single", SOURCE.format(name="single"))
    beside.declare("theirs", "moebench.tests", "theirs", "single:whatever", "beside")
    assert declared_modules() == ["beside", "theirs", "single"]
    broken, announced = load()
    assert broken == {}
    assert announced == ["beside", "beside.one", "theirs", "theirs.fast", "single"]
    assert list(registered()) == ["fast", "one", "single"]
    assert "theirs._hidden" not in sys.modules


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ValueError('first\\nsecond')", "ValueError: first"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def broken(:", "SyntaxError: invalid syntax (bad.py, line 1)"),
        ("raise RuntimeError('half a pair \\udc80')", "RuntimeError: half a pair \\udc80"),
        (
            SOURCE.format(name="one"),
            "ValueError: two implementations are called 'one': beside.one.one, theirs.bad.one; rename one",
        ),
    ],
)
def test_a_broken_module_costs_itself_only(beside: Any, source: str, reason: str) -> None:
    beside.package("theirs", bad=source, good=SOURCE.format(name="good"))
    beside.declare("theirs", "moebench.tests", "theirs")
    broken, _ = load()
    assert broken == {"theirs.bad": reason}
    assert list(registered()) == ["good", "one"]
    assert registered()["one"].origin == "beside.one"


def test_a_broken_package_hides_its_modules(beside: Any) -> None:
    beside.package("theirs", "import no_such_module", good=SOURCE.format(name="good"))
    beside.declare("theirs", "moebench.tests", "theirs", "not there at all", "")
    broken, _ = load()
    assert list(broken) == ["theirs", "not there at all", ""]
    assert list(registered()) == ["one"]


def test_a_module_that_breaks_halfway_registers_nothing(beside: Any) -> None:
    beside.module("half", SOURCE.format(name="half") + "\n    1 / 0\n")
    beside.declare("half", "moebench.tests", "half")
    assert load()[0] == {"half": "ZeroDivisionError: division by zero"}
    assert list(registered()) == ["one"]


def test_what_ended_an_earlier_process_is_not_touched(beside: Any) -> None:
    beside.package("theirs", bad="import os; os._exit(3)", good=SOURCE.format(name="good"))
    beside.declare("theirs", "moebench.tests", "theirs")
    reasons = {"theirs.bad": "the process exited with code 3 during 'import'"}
    broken, announced = load(reasons)
    assert broken == reasons
    assert "theirs.bad" not in announced
    assert list(registered()) == ["good", "one"]


def test_a_whole_package_can_be_skipped(beside: Any) -> None:
    beside.package("theirs", "import os; os._exit(3)", good=SOURCE.format(name="good"))
    beside.declare("theirs", "moebench.tests", "theirs")
    broken, announced = load({"theirs": "it died"})
    assert broken == {"theirs": "it died"}
    assert announced == ["beside", "beside.one"]


def test_a_room_in_a_package_is_gone_through_module_by_module(beside: Any) -> None:
    beside.package("theirs", one_file=SOURCE.format(name="file"))
    beside.package("theirs.room", good=SOURCE.format(name="good"), bad="1 / 0", _hidden="1 / 0")
    beside.package("theirs.whole", SOURCE.format(name="whole"), part="1 / 0")
    missing = 'from harness import missing\n\nmissing("lacking", needs="a GPU")'
    beside.package("theirs.lacking", missing, part="1 / 0")
    beside.declare("theirs", "moebench.tests", "theirs")
    broken, announced = load()
    assert broken == {"theirs.room.bad": "ZeroDivisionError: division by zero"}
    assert [module for module in announced if module.startswith("theirs.room")] == [
        "theirs.room",
        "theirs.room.bad",
        "theirs.room.good",
    ]
    assert list(registered()) == ["file", "good", "one", "whole"]
    assert {name: one.origin for name, one in missing_here().items()} == {"lacking": "theirs.lacking"}


def test_a_module_that_breaks_halfway_misses_nothing(beside: Any) -> None:
    beside.module("half", 'from harness import missing\n\nmissing("half", needs="luck")\n1 / 0')
    beside.declare("half", "moebench.tests", "half")
    assert list(load()[0]) == ["half"]
    assert missing_here() == {}


@pytest.mark.parametrize("end", ["", "raise RuntimeError('no')"], ids=["imported", "broken halfway"])
def test_what_a_module_changes_for_the_whole_process_is_put_back(beside: Any, end: str) -> None:
    before = read_settings()
    beside.module(
        "beside.greedy", f"import torch\ntorch.set_autocast_enabled('cpu', True)\ntorch.set_num_threads(3)\n{end}"
    )
    load()
    assert "beside.greedy" in sys.modules or end
    assert read_settings() == before
