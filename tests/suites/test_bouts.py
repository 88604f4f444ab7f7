"""When a case is measured, and what of; no worker starts here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness.records.environment import Device, Environment
from harness.records.record import ImplInfo, Record
from harness.records.store import RunStore, load_run
from harness.records.unmeasured import now
from harness.running import session
from harness.running.jobs import Listed
from harness.running.machine import Machine
from harness.running.request import Request
from suites import bouts

if TYPE_CHECKING:
    from pathlib import Path

    from harness.cases.case import PlannedCase
    from harness.records.store import Run

NAMES = ("loop", "dense")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Make bouts on a machine whose CPU has a certain name."""

    def make(device: str = "A CPU") -> bouts.Bouts:
        found = {"cpu": Device(name=device, kind="cpu", memory_bytes=1 << 34, cache_bytes=1 << 20)}
        there = Environment(hostname="h", system="s", kernel="k", python="3", versions={}, devices=found)
        machine = Machine(there, {name: Listed(name=name, family=name) for name in NAMES}, {}, {})
        monkeypatch.setattr(bouts, "look_around", lambda: machine)
        return bouts.Bouts(Request("tiny"), tmp_path / "run", ["suites"])

    return make


def records_of(planned: list[PlannedCase]) -> list[Record]:
    return [
        Record(
            case=one.case,
            case_id=one.case.case_id,
            impl=ImplInfo(name=name, family=name),
            status="ok",
            environment_id="e",
        )
        for one in planned
        for name in one.implementations or ()
    ]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What sessions were asked to measure, in turn; they write records without figures."""
    asked: list[list[str]] = []

    def measure(self: session.Session, _: Any) -> Run:
        asked.append([one.case.case_id for one in self.to_do()])
        RunStore(self.path).append(records_of(self.to_do()))
        self.info.finished_at = now()
        RunStore(self.path).write_info(self.info)
        return load_run(self.path)

    monkeypatch.setattr(session.Session, "measure", measure)
    return asked


def test_a_case_is_measured_when_it_is_first_asked_for(on: Any, measured: list[list[str]]) -> None:
    made = on()
    ids = [one.case.case_id for one in made.plan.planned]
    assert not measured
    for case_id in reversed(ids):
        for name in NAMES:
            assert made.record(case_id, name, timed=True).key == (case_id, name)
        finished = load_run(made.run_dir).info.finished_at
        assert (finished is not None) == (case_id == ids[0])
    assert measured == [[case_id] for case_id in reversed(ids)]


def test_what_is_deselected_is_not_measured(on: Any, measured: list[list[str]]) -> None:
    made = on()
    last = made.plan.planned[-1].case.case_id
    made.narrow({(last, "dense"), ("elsewhere", "loop")})
    made.record(last, "dense", timed=True)
    assert [record.key for record in load_run(made.run_dir).records] == [(last, "dense")]
    assert len(load_run(made.run_dir).info.plan) == 1
    made.narrow(set())
    assert made.plan.planned == ()


def test_benchmark_disable_checks_agreement_of_all_at_once(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def gate_only(planned: list[PlannedCase], *_: Any) -> list[Record]:
        calls.append(len(planned))
        return records_of(planned)

    monkeypatch.setattr(session, "gate_only", gate_only)
    made = on()
    for one in made.plan.planned:
        assert made.record(one.case.case_id, "loop", timed=False).status == "ok"
    assert calls == [3]
    assert not made.run_dir.exists()


def test_devices_are_told_apart(on: Any) -> None:
    first, second = on("NVIDIA H100 80GB HBM3"), on("NVIDIA A100-SXM4-80GB")
    assert (first.device_slug, second.device_slug) == ("nvidia-h100-80gb-hbm3", "nvidia-a100-sxm4-80gb")
    assert first.machine_details() != second.machine_details()
    assert first.machine_details() == on("NVIDIA H100 80GB HBM3").machine_details()


def test_ids_are_readable_and_tell_cases_apart(on: Any) -> None:
    made = on()
    ids = [bouts.readable_id(one, name) for one in made.plan.planned for name in NAMES]
    assert len(set(ids)) == 6
    assert ids[0].startswith("h64-i48-e4-k2-t-4-")
    assert ids[0].endswith("-loop")


def test_the_baseline_is_known_by_its_family(on: Any) -> None:
    assert [name for name in NAMES if on().is_baseline(name)] == ["dense"]
