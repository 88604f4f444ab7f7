"""The worker's own parts, in this process: what it announces, what it adds to records, whom it belongs to."""

from __future__ import annotations

import os
import resource
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from harness.records.record import ImplInfo, Record
from harness.running import blackbox, jobs
from harness.running.worker import __main__ as worker
from harness.running.worker import bouts, errands
from harness.running.worker.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Workbench]:
    (tmp_path / jobs.LOG).touch()
    bench = Workbench(tmp_path)
    yield bench
    bench._log.close()


def say(one: Workbench, text: str) -> None:
    """What a worker prints ends in its log."""
    with (one.folder / jobs.LOG).open("a") as log:
        log.write(text)


def record(plans: Any, name: str, status: Any = "error", log_tail: str = "Traceback") -> Record:
    case = plans.case()
    return Record(
        case=case,
        case_id=case.case_id,
        impl=ImplInfo(name=name, family="peer"),
        status=status,
        reason="it raised",
        log_tail=log_tail,
        environment_id="e",
    )


def test_announcements_say_where_the_log_stands(one: Workbench) -> None:
    say(one, "12345")
    one.note("case", "a", "gate")
    last = blackbox.read(one.folder / jobs.BLACK_BOX)
    assert (last.case_id, last.impl, last.stage, last.log_offset) == ("case", "a", "gate", 5)


def test_failures_carry_what_was_printed_before_them(one: Workbench, plans: Any) -> None:
    say(one, "nobody's\n")
    for name in ("a", "b", "a"):
        one.note("case", name, "gate")
        say(one, f"{name} speaks\n")
    one.note("case", "", "writing records")
    assert one.with_log(record(plans, "a")).log_tail == "a speaks\na speaks\nTraceback"
    assert one.with_log(record(plans, "b", "ok", "")).log_tail == ""
    assert one.with_log(record(plans, "c")).log_tail == "Traceback"
    assert one.with_log(record(plans, "a")).log_tail == "Traceback", "of another bout"


def test_long_output_leaves_the_end(one: Workbench, plans: Any) -> None:
    for number in range(3):
        one.note("case", "a", f"round {number}")
        say(one, f"{number}" * 3 * jobs.LOG_TAIL_BYTES)
    one.note("case", "", "writing records")
    tail = one.with_log(record(plans, "a")).log_tail
    assert tail == "2" * (jobs.LOG_TAIL_BYTES - len("Traceback")) + "Traceback"


def test_outcomes_are_numbered(one: Workbench) -> None:
    one.answer(jobs.ReadyOutcome())
    one.answer(jobs.DoneOutcome())
    assert list(jobs.outcomes_from(one.folder, 0)) == [jobs.ReadyOutcome(), jobs.DoneOutcome()]


def test_a_job_ends_with_done(one: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "ceilings", lambda bench, job: bench.answer(jobs.ReadyOutcome()))
    worker.do(one, jobs.CeilingsJob(device="cpu", dtypes=("fp32",)))
    assert list(jobs.outcomes_from(one.folder, 0)) == [jobs.ReadyOutcome(), jobs.DoneOutcome()]


def test_a_worker_without_its_parent_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "not linux")  # whose kernel would be told to end this process
    monkeypatch.setenv(jobs.PARENT_VARIABLE, str(os.getppid()))
    worker.die_with_parent()
    monkeypatch.setenv(jobs.PARENT_VARIABLE, "1" if os.getppid() != 1 else "2")
    with pytest.raises(SystemExit, match="the parent is gone"):
        worker.die_with_parent()


def test_without_a_limit_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "setrlimit", lambda *_: pytest.fail("a limit was set"))
    monkeypatch.delenv(jobs.DATA_VARIABLE, raising=False)
    worker.limit_memory()
    monkeypatch.setenv(jobs.DATA_VARIABLE, "0")
    worker.limit_memory()


def test_the_job_planned_for_nobody_known_measures_nobody(plans: Any) -> None:
    assert bouts._asked(plans.planned(names=("nobody.knows.me",))) == []


def test_whoever_imports_when_asked_has_done_so_before_the_clock_starts(
    one: Workbench, plans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def implementation(name: str, error: BaseException | None = None) -> Any:
        def unsupported(case: Any) -> None:
            told.append(name)
            if error:
                raise error

        return SimpleNamespace(name=name, unsupported=unsupported)

    known = [implementation("a", SystemExit("not me")), implementation("b"), implementation("later")]
    monkeypatch.setattr(bouts, "registered", lambda: {each.name: each for each in known})
    bouts.greet(one, [plans.planned(names=("a", "b")), plans.planned(names=("b", "later"))])
    assert told == ["a", "b"]
    said = blackbox.read(one.folder / jobs.BLACK_BOX)
    assert (said.case_id, said.impl, said.stage) == (plans.case().case_id, "b", "asking")
    bouts.greet(one, [])
    assert told == ["a", "b"]


def test_the_clock_starts_once_everybody_was_asked(one: Workbench, plans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bouts, "come_up", lambda *, timed: None)
    monkeypatch.setattr(bouts, "greet", lambda bench, planned: bench.answer(jobs.DoneOutcome()))
    bouts.bouts(one, jobs.BoutsJob(planned=[], environment_id="e", budget_s=1.0), {})
    assert list(jobs.outcomes_from(one.folder, 0)) == [jobs.DoneOutcome(), jobs.ReadyOutcome({})]


def test_a_bout_that_took_all_the_time_leaves_the_next_a_quarter_of_its_share(
    one: Workbench, plans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, given = [0.0], []

    def bout(_bench: Any, _job: Any, planned: Any, _weights: Any, budget_s: float) -> jobs.BoutOutcome:
        given.append(budget_s)
        now[0] += 100.0  # it compiled
        return jobs.BoutOutcome(case_id=planned.case.case_id, records=[], measuring_s=0.0, wall_s=0.0)

    monkeypatch.setattr(bouts, "come_up", lambda *, timed: None)
    monkeypatch.setattr(bouts, "_bout", bout)
    monkeypatch.setattr("harness.running.worker.bouts.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(one, "layer", lambda _case: None)
    planned = [plans.planned(tokens) for tokens in (1, 2)]
    bouts.bouts(one, jobs.BoutsJob(planned=planned, environment_id="e", budget_s=10.0), {})
    assert given == [5.0, 1.25]


def test_ceilings_are_measured_in_full_precision(one: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some container images turn TF32 on, and a floor by TF32's ceiling would be several times too low."""
    import torch

    seen: list[str] = []
    monkeypatch.setattr(
        "harness.running.worker.errands.ceilings", lambda *_: seen.append(torch.get_float32_matmul_precision())
    )
    torch.set_float32_matmul_precision("high")
    try:
        worker.do(one, jobs.CeilingsJob(device="cpu", dtypes=("fp32",)))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest"]


def test_torch_comes_before_anybodys_module_and_multiplies_in_full_precision(
    one: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    seen: list[str] = []

    def load_all(*_given: Any) -> dict[str, str]:
        seen.append(torch.get_float32_matmul_precision())
        return {}

    monkeypatch.setattr("harness.running.discovery.load_all", load_all)
    monkeypatch.setattr(worker, "_do_with_implementations", lambda *_: None)
    torch.set_float32_matmul_precision("high")
    try:
        worker.do(one, jobs.ProbeJob())
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest"]
