"""pytest's front door from the outside: what pytest-benchmark shows and keeps is what the records hold."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from harness.records.store import load_run

if TYPE_CHECKING:
    from harness.records.record import Record
    from harness.records.store import Run

ROOT = Path(__file__).parents[2]
SUITES = ROOT / "suites"
USAGE_ERROR, NO_TESTS = 4, 5

THIRD_PARTY = """
    from harness import implementation

    def too_small(case):
        return "too small for me"

    def register(name, unsupported, spoil):
        @implementation(name, family="peer", devices=("cpu",), dtypes=("fp32",), unsupported=unsupported)
        def prepare(layer):
            "Leaves the layer to nobody."
            def forward(x, routing):
                print("last word of", name)
                return x * spoil
            return forward

    register("wrong", None, 3.0)
    register("refuses", too_small, 1.0)
"""
SPY = """
    import os, sys

    def pytest_unconfigure(config):
        with open(os.environ["SPY"], "w") as file:
            file.write(" ".join(sys.modules))
"""
ELSEWHERE = """
    import os
    import harness.running.machine as machine
    from harness.records.environment import Device, Environment
    from harness.running.jobs import Listed

    def look_around():
        device = Device(name=os.environ["DEVICE"], kind="cpu", memory_bytes=1 << 34, cache_bytes=1 << 20)
        there = Environment(
            hostname="there", system="Linux", kernel="6", python="3", versions={}, devices={"cpu": device}
        )
        return machine.Machine(there, {name: Listed(name=name, family=name) for name in ("loop", "dense")}, {}, {})

    machine.look_around = look_around
"""
"""A machine that nobody has to look at, so no worker starts."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules for the path of pytest and of its workers."""
    folder = tmp_path_factory.mktemp("site")
    for name, source in {"third_party": THIRD_PARTY, "spy": SPY, "elsewhere": ELSEWHERE}.items():
        (folder / f"{name}.py").write_text(dedent(source))
    info = folder / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[moebench.impls]\nthird_party = third_party\n")
    return folder


def run_pytest(site: Path, *words: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, words)]
    path = os.pathsep.join([str(site), str(ROOT)])
    # pytest-benchmark and xdist must not take this for a part of the tests that are running.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**ours, "PYTHONPATH": path, "COLUMNS": "200", "SPY": str(site / "modules"), **env}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)


@dataclass(frozen=True)
class Measured:
    """One real run: two cases, two implementations that agree, one that does not, one that cannot."""

    done: subprocess.CompletedProcess[str]
    outcomes: dict[str, tuple[str, str]]
    modules: set[str]
    folder: Path
    content: dict[str, Any]
    run: Run

    @property
    def benchmarks(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(one["params"]["case_id"], one["name"]): one for one in self.content["benchmarks"]}

    @property
    def agreeing(self) -> list[Record]:
        return [record for record in self.run.records if record.status == "ok"]


@pytest.fixture(scope="module")
def measured(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("measured")
    words = ["--benchmark-only", "--suite", "tiny", "--impl", "loop,dense,wrong,refuses", "--budget", "2s"]
    words += ["-k", "not training", "--benchmark-save", "first", "--benchmark-json", "out.json"]
    words += ["--junitxml", "out.xml", "--run-dir", "run", "-p", "spy"]
    done = run_pytest(site, SUITES, *words, cwd=folder, OMP_NUM_THREADS="1")
    outcomes = {}
    for test in ET.parse(folder / "out.xml").iter("testcase"):
        said = next(iter(test), None)
        outcomes[test.attrib["name"]] = ("passed", "") if said is None else (said.tag, said.attrib["message"])
    return Measured(
        done,
        outcomes,
        set((site / "modules").read_text().split()),
        folder,
        json.loads((folder / "out.json").read_text()),
        load_run(folder / "run"),
    )


def test_each_test_ends_as_its_record(measured: Measured) -> None:
    expected = {"loop": "passed", "dense": "passed", "wrong": "failure", "refuses": "skipped"}
    assert {name: said[0] for name, said in measured.outcomes.items()} == {
        f"test_layer[h64-i48-e4-k2-t-{tokens}-gaussian-0-15-fp32-cpu-{case_id}-{name}]": outcome
        for tokens, case_id in ((4, "abd02b"), (32, "cadd1c"))
        for name, outcome in expected.items()
    }
    assert measured.done.returncode == 1
    assert measured.done.stderr.count("Traceback") == 0


def test_failures_and_skips_say_why(measured: Measured) -> None:
    reasons = {(record.case_id, record.impl.name): record for record in measured.run.records}
    for name, (outcome, message) in measured.outcomes.items():
        (record,) = (one for (case_id, impl), one in reasons.items() if f"-{case_id[:6]}-{impl}]" in name)
        if outcome == "skipped":
            assert (record.status, message) == ("unsupported", "too small for me")
        if outcome == "failure":
            assert record.status == "disagrees"
            assert f"wrong disagrees: {record.reason}" in message
            assert "last word of wrong" in message


def test_the_numbers_are_those_of_the_records(measured: Measured) -> None:
    assert len(measured.agreeing) == 4
    assert measured.benchmarks.keys() == {record.key for record in measured.agreeing}
    for record in measured.agreeing:
        assert record.timing is not None
        shown, samples = measured.benchmarks[record.key]["stats"], [ns / 1e9 for ns in record.timing.samples_ns]
        assert shown["data"] == samples
        assert shown["median"] == statistics.median(samples)
        assert shown["median"] * 1e9 == pytest.approx(record.timing.median_ns)
        assert (shown["min"], shown["max"], shown["rounds"]) == (min(samples), max(samples), len(samples))
        assert shown["iterations"] == 1


def test_the_rest_of_the_record_is_beside_them(measured: Measured) -> None:
    for record in measured.agreeing:
        extra = measured.benchmarks[record.key]["extra_info"]
        assert {"memory", "energy", "balance", "agreement", "work", "flags", "environment_id"} <= extra.keys()
        assert extra["memory"]["peak_bytes"] == record.memory.peak_bytes  # type: ignore[union-attr]
        assert extra["energy"]["status"] == record.energy.status  # type: ignore[union-attr]
        assert extra["balance"]["histogram"] == record.balance.histogram  # type: ignore[union-attr]
        assert extra["agreement"]["passed"] is True
        timing = extra["timing"]
        assert {"device_ns", "noise_floor", "interval_ns", "prepare_ns", "clock"} <= timing.keys()
        assert tuple(timing["interval_ns"]) == record.timing.interval_ns  # type: ignore[union-attr]
        assert "samples_ns" not in timing


def test_a_group_is_a_case_and_the_baseline_stands_apart(measured: Measured) -> None:
    for record in measured.agreeing:
        apart = " (dense baseline, not ranked)" if record.impl.name == "dense" else ""
        assert measured.benchmarks[record.key]["group"] == record.case.label() + apart
        assert f"benchmark '{record.case.label()}{apart}'" in measured.done.stdout


def test_only_what_is_selected_is_measured_and_kept_as_a_run(measured: Measured) -> None:
    assert {record.case.pass_ for record in measured.run.records} == {"forward"}
    assert len(measured.run.records) == 8
    assert len({record.bout for record in measured.agreeing}) == 2
    assert len(measured.run.info.plan) == 2
    assert measured.run.info.finished_at is not None
    assert measured.run.info.command.startswith(f"pytest -p no:cacheprovider {SUITES} --benchmark-only")
    assert "cpu" in measured.run.environment.ceilings


def test_pytest_never_imports_torch(measured: Measured) -> None:
    assert "pytest_benchmark.plugin" in measured.modules
    assert "torch" not in measured.modules


def test_a_device_has_a_storage_folder_of_its_own(site: Path, measured: Measured) -> None:
    (saved,) = (measured.folder / ".benchmarks").glob("*/0001_first.json")
    info = json.loads(saved.read_text())["machine_info"]
    assert info["moebench"]["environment_id"] == measured.run.environment.environment_id
    device = info["moebench"]["devices"]["cpu"]["name"]
    assert not {"hz_actual", "hz_actual_friendly"} & info["cpu"].keys()

    def compare(name: str, *which: str | Path) -> str:
        words = (SUITES, "-p", "elsewhere", "--collect-only", "--benchmark-compare", *which)
        done = run_pytest(site, *words, cwd=measured.folder, DEVICE=name)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert f"Comparing against benchmarks from: {saved.parent.name}/{saved.name}" in compare(device)
    assert "Can't compare. No benchmark files" in compare("Another Device")
    assert "Benchmark machine_info is different" in compare("Another Device", saved)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--suite nosuch", "suite = 'nosuch': a TOML file, or the name of a shipped suite; one of"),
        ("--run-dir {run}", "holds a run already; name a new directory"),
    ],
)
def test_bad_input_is_one_line(site: Path, tmp_path: Path, words: str, said: str) -> None:
    (tmp_path / "run.json").write_text("{}")
    done = run_pytest(site, "suites", "-p", "elsewhere", *words.format(run=tmp_path).split(), DEVICE="X")
    assert done.returncode == USAGE_ERROR
    (error,) = done.stderr.strip().splitlines()
    assert error.startswith("ERROR: ")
    assert said in error


@pytest.mark.parametrize("missing", ["msgspec", "pytest_benchmark", "torch"])
def test_a_missing_dependency_is_one_line(tmp_path: Path, missing: str) -> None:
    message = f"No module named {missing!r}"
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError({message!r}, name={missing!r})\n")
    done = run_pytest(tmp_path, "suites")
    assert done.returncode == USAGE_ERROR
    (error,) = done.stderr.strip().splitlines()
    assert error.startswith("ERROR: ")
    assert message in error


def test_a_run_over_everything_measures_nothing(site: Path) -> None:
    """The folder is passed by, and pytest-benchmark stays out of the project's own tests."""
    done = run_pytest(site, ".", "--collect-only", "--ignore", "tests", "-p", "spy")
    assert done.returncode == NO_TESTS, done.stdout + done.stderr
    modules = set((site / "modules").read_text().split())
    assert "suites.conftest" in modules
    assert not {"torch", "pytest_benchmark", "suites.bouts"} & modules
