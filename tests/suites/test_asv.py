"""asv's own benchmarks: what asv discovers, under which names, and what it gets from a measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from asv.benchmark import __file__ as asv_script
from asv_runner.benchmarks.mark import SkipNotImplemented  # type: ignore[import-untyped]

from harness.cases.shipped import find_suite
from harness.cases.suite import load_suite
from harness.export.series import BASELINE, METRICS, VERSION, Outcome, series_name
from harness.running.discovery import load_all
from harness.running.registry import registered
from suites.asv import benchmarks

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "suites" / "asv"


@pytest.fixture(scope="module")
def discovered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What asv's own script finds, with a harness of some other commit, or none at all, on the path."""
    path = tmp_path_factory.mktemp("asv")
    (path / "harness").mkdir()
    for name in ("harness/__init__.py", "torch.py"):
        (path / name).write_text("raise RuntimeError('imported')")
    command = [sys.executable, asv_script, "discover", str(FOLDER), str(path / "found.json")]
    environment = {**os.environ, "ASV_PYTHONPATH": str(path)}
    subprocess.run(command, cwd=path, env=environment, check=True, capture_output=True)
    return {one["name"]: one for one in json.loads((path / "found.json").read_text())}


def test_names_are_those_of_an_exported_run(discovered: dict[str, dict[str, Any]]) -> None:
    cases = [msgspec.to_builtins(planned.case) for planned in load_suite(find_suite("asv")).cases("cpu")]
    metered = [metric for metric in METRICS if metric.name != "joules_per_token"]  # a CPU has no meter
    assert list(discovered) == [series_name(case, metric) for case in cases for metric in metered]


def test_what_asv_is_told_of_each(discovered: dict[str, dict[str, Any]]) -> None:
    for name, one in discovered.items():
        assert one["version"] == VERSION  # explicit: rewriting a function must not hide its history
        assert one["param_names"] == ["implementation"]
        assert ("'dense'" in one["params"][0]) == ("relative_time" not in name)
        assert one["setup_cache_timeout"] > 100
        assert one["unit"] in {metric.unit for metric in METRICS}
        assert one["pretty_name"].endswith("cpu")
        assert one["rounds"] == 1


def test_the_suite_is_quick() -> None:
    suite = load_suite(find_suite("asv"))
    planned = suite.cases("cpu")
    assert 2 <= len(planned) <= 4
    assert (suite.budget_s or 0) * benchmarks.REPEATS <= 30
    assert all(one.case.device == "cpu" for one in planned)


def test_what_is_declared_is_what_is_registered() -> None:
    load_all(lambda _: None, {})
    found = benchmarks.declared()
    for name, one in registered().items():
        if one.origin.startswith("impls.") and one.family != "peer":  # a peer's version is its package's
            assert found[name] == (one.family, one.version)
    assert [name for name, (family, _) in found.items() if family == BASELINE] == ["dense"]


def named(metric: str) -> Any:
    """The function of the first case's series."""
    functions = [one for name, one in vars(benchmarks).items() if name.startswith("track_")]
    return next(one for one in functions if one.benchmark_name.endswith(f".track_{metric}"))


def test_samples_go_to_asv_as_they_are() -> None:
    function = named("relative_time")
    found = {function.benchmark_name: {"loop": tuple(Outcome([2.0, 2.1, 1.9]))}}
    assert function(found, "loop") == {"samples": [2.0, 2.1, 1.9], "number": 1}
    function = named("peak_bytes")
    assert function({function.benchmark_name: {"loop": tuple(Outcome([7.0]))}}, "loop") == 7.0


def test_failures_and_skips() -> None:
    function = named("time")
    found: benchmarks.Found = {
        function.benchmark_name: {"a": ([], "not on a CPU", ""), "b": ([], "", "crashed: it fell over")}
    }
    with pytest.raises(SkipNotImplemented, match="not on a CPU"):
        function(found, "a")
    with pytest.raises(RuntimeError, match="crashed: it fell over"):
        function(found, "b")
    with pytest.raises(SkipNotImplemented, match="this commit has no implementation of that name and version"):
        function(found, "c@2")


def test_a_raised_version_is_another_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = {**benchmarks.declared(), "loop": ("loop", "2")}
    monkeypatch.setattr(benchmarks, "declared", lambda: declared)
    params: list[list[str]] = [vars(one)["params"][0] for one in benchmarks._benchmarks()]
    assert all("loop@2" in names and "loop" not in names for names in params)


def test_a_suite_that_could_not_be_read_without_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "asv.toml"
    path.write_text((ROOT / "suites" / "asv.toml").read_text() + 'router = "sigmoid"\n')
    monkeypatch.setattr(benchmarks, "SUITE", path)
    with pytest.raises(ValueError, match="router: cases that asv measures say only"):
        list(benchmarks.cases())


@dataclass
class Harness:
    """Stands for the commit's harness: answers calls in turn and keeps their words."""

    answers: list[tuple[int, str]]
    calls: list[tuple[str, ...]]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        self.calls.append(words)
        code, said = self.answers[len(self.calls) - 1]
        if words[0] == "run" and code < 2:
            out = Path(words[words.index("--out") + 1])
            out.mkdir(parents=True)
            (out / "records.jsonl").write_text(said)
        return subprocess.CompletedProcess(words, code, said, "")


def harness(monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, str]) -> Harness:
    made = Harness(list(answers), [])
    monkeypatch.setattr(benchmarks, "_harness", made)
    return made


@pytest.mark.parametrize(("rounds", "repeats"), [(1, 3), (5, 1)])
def test_asv_measures_once_a_round_or_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int, repeats: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmarks, "ROUNDS", rounds)
    made = harness(monkeypatch, *[(0, "")] * 3)
    assert benchmarks.setup_cache() == {}
    assert len(made.calls) == repeats


def test_an_older_commit_that_lacks_an_implementation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = json.dumps([{"name": "dense"}, {"name": "loop"}])
    made = harness(monkeypatch, (2, "implementation = 'grouped': one of dense, loop"), (0, listed), (1, ""))
    assert benchmarks._measure(tmp_path / "run") == []
    assert made.calls[-1][-2:] == ("--set", "implementation=loop,dense")


def test_a_harness_that_cannot_measure_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness(monkeypatch, (3, "nothing was measured"))
    with pytest.raises(RuntimeError, match="ended with 3: nothing was measured"):
        benchmarks._measure(tmp_path / "run")
