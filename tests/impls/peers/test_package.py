"""Peers are offered where their package will do, and say what they need where it will not."""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.running.registry import missing_here, registered
from impls.peers._package import Package, numbers, peer

RANGE = Package("somepeer", "pip install somepeer", oldest="0.10", below="0.12", also="a GPU")


def prepare(layer: Any) -> Any:
    """Compute it somehow."""


def test_a_package_that_is_not_there(bench: Any) -> None:
    peer("some.peer", RANGE, devices=("cuda",))(prepare)
    assert missing_here()["some.peer"].needs == "pip install somepeer (0.10 or newer, below 0.12), a GPU"
    assert missing_here()["some.peer"].note == "never verified"
    assert missing_here()["some.peer"].origin == __name__
    assert "some.peer" not in registered()


@pytest.mark.parametrize(
    ("version", "lacking"),
    [
        ("0.10", ""),
        ("0.10.0", ""),
        ("0.11.3rc1", ""),
        ("0.9.9", "somepeer 0.10 or newer, below 0.12; 0.9.9 is installed"),
        ("0.12.0", "somepeer 0.10 or newer, below 0.12; 0.12.0 is installed"),
        ("unknown", ""),
    ],
)
def test_versions_out_of_range_are_refused(
    bench: Any, monkeypatch: pytest.MonkeyPatch, version: str, lacking: str
) -> None:
    bench.module("somepeer")
    if version != "unknown":
        monkeypatch.setattr(importlib.metadata, "version", lambda _name: version)
    peer("some.peer", RANGE, passes=("forward",), verified="0.10 on a GPU")(prepare)
    if lacking:
        assert missing_here()["some.peer"].needs == lacking
        assert missing_here()["some.peer"].note == ""
    else:
        offered = registered()["some.peer"]
        assert (offered.family, offered.version, offered.note) == ("peer", version, "")


def test_a_package_of_the_same_name_is_told_by_its_parts(bench: Any) -> None:
    ours = Package("somepeer", "get the other one", part="matmul.py")
    bench.module("somepeer")
    assert ours.lacking == "get the other one"
    bench.module("somepeer.matmul")
    assert ours.lacking == ""


def test_further_modules_must_be_there(bench: Any) -> None:
    package = Package("somepeer", "pip install somepeer[all]", needs=("firstpart", "secondpart"))
    bench.module("somepeer")
    bench.module("firstpart")
    assert package.lacking == "pip install somepeer[all]: somepeer is here, secondpart not"
    bench.module("secondpart")
    assert package.lacking == ""


def test_somebody_elses_build_is_taken_under_its_own_name(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.module("somepeer")
    versions = {"their-somepeer": "3.1"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"somepeer": ["their-somepeer"]})
    assert (RANGE.version, RANGE.lacking) == ("their-somepeer 3.1", "")


def test_a_module_without_a_spec_is_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "somepeer", ModuleType("somepeer"))
    assert RANGE.lacking.startswith("pip install somepeer")


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.sampled_from(["", ".post1", "rc2", "+cu12", ".dev0"]))
def test_versions_are_compared_by_their_numbers(release: list[int], tail: str) -> None:
    read = numbers(".".join(map(str, release)) + tail)
    assert read == numbers(".".join(map(str, [*release, 0])))
    assert list(read) == release[: len(read)]
    assert not any(release[len(read) :])
