"""A run from start to end, and what is missing of an earlier one. Workers run no torch, except in the last tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.records.environment import Ceilings
from harness.records.locking import in_progress, locked
from harness.records.store import ENVIRONMENT, INFO, RECORDS, RunStore, load_run, read_records
from harness.running import session
from harness.running.child import Limits
from harness.running.machine import MachineError, look_around
from harness.running.pacing import EACH_S, FIXED_S
from harness.running.plan import Plan, make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from harness.records.record import Record
    from harness.records.store import Run
    from harness.running.blackbox import Announcement
    from harness.running.machine import Machine

CEILINGS = Ceilings(
    copy_bytes_per_second=8e9,
    read_bytes_per_second=10e9,
    cached_read_bytes_per_second=40e9,
    gemm_flops_per_second={"fp32": 100e9},
    cache_bytes=1 << 20,
    launch_ns=100.0,
    seconds=3.0,
)
AB = ("a", "b")


class Silent:
    def doing(self, entry: Announcement) -> None:
        pass

    def done(self, records: Sequence[Record]) -> None:
        pass


class Impatient(Silent):
    """Ctrl-C as soon as so many records are there."""

    def __init__(self, records: int) -> None:
        self.left = records

    def done(self, records: Sequence[Record]) -> None:
        self.left -= len(records)
        if self.left <= 0:
            raise KeyboardInterrupt


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """Ceilings without measuring them; notes for which devices and dtypes they were asked."""
    asked: list[tuple[str, tuple[str, ...]]] = []

    def measure_ceilings(device: str, dtypes: tuple[str, ...], _limits: Limits) -> Ceilings:
        asked.append((device, dtypes))
        return CEILINGS

    monkeypatch.setattr(session, "measure_ceilings", measure_ceilings)
    return asked


@pytest.fixture
def machine(plans: Any) -> Machine:
    found: Machine = plans.machine("a", "b")
    return found


@pytest.fixture
def plan(plans: Any, machine: Machine) -> Plan:
    """Three cases on two layers, in two dtypes."""
    planned = [plans.planned(1, AB), plans.planned(2, AB), plans.planned(1, AB, dtype="bf16")]
    return make_plan("s", "what for", planned, machine, budget_s=12.0)


def pairs(plan: Plan) -> list[tuple[str, str]]:
    return sorted((one.case.case_id, name) for one in plan.planned for name in one.implementations or ())


def keys(records: Sequence[Record]) -> list[tuple[str, str]]:
    return sorted(record.key for record in records)


Asked = list[tuple[str, tuple[str, ...]]]


def test_a_whole_run(
    plan: Plan, machine: Machine, tmp_path: Path, workers_measure: Callable[..., Path], asked: Asked
) -> None:
    said = workers_measure(before="say(f'budget {job.budget_s:.2f} {sorted(job.ceilings)}')")
    run = session.start(plan, tmp_path / "run", machine, "moebench run s", 9.0).measure(Silent())
    assert keys(run.records) == pairs(plan)
    assert asked == [("cpu", ("bf16", "fp32"))]
    assert run.environment == msgspec.structs.replace(machine.environment, ceilings={"cpu": CEILINGS})
    assert (run.info.name, run.info.suite, run.info.command) == ("run", "s", "moebench run s")
    assert run.info.plan == list(plan.planned)
    assert run.info.started_at <= (run.info.finished_at or "")
    assert run.info.measuring_s == CEILINGS.seconds + 3 * 0.5
    assert run.info.wall_s > CEILINGS.seconds
    lines = [line for line in said.read_text().splitlines() if line.startswith("budget")]
    assert lines == ["budget 8.00 ['cpu']", "budget 8.00 ['cpu']"]  # ceilings are not taken from the bouts' 12 s


def test_a_finished_run_is_left_as_it_is(
    plan: Plan, machine: Machine, tmp_path: Path, workers_measure: Callable[..., Path], asked: Asked
) -> None:
    said = workers_measure()
    first = session.start(plan, tmp_path, machine, "c", 9.0).measure(Silent())
    before = said.read_text()
    again = session.resume(tmp_path, machine, 9.0)
    assert again.to_do() == []
    assert again.measure(Silent()).records == first.records
    assert said.read_text() == before
    assert len(asked) == 1


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_an_interrupted_run_keeps_its_records_and_is_finished_later(
    plan: Plan,
    machine: Machine,
    tmp_path: Path,
    workers_measure: Callable[..., Path],
    asked: Asked,
    stop_after: int,
) -> None:
    said = workers_measure()
    with pytest.raises(KeyboardInterrupt):
        session.start(plan, tmp_path, machine, "c", 9.0).measure(Impatient(stop_after))
    stopped = load_run(tmp_path)
    assert stopped.info.finished_at is None
    assert stopped.info.wall_s > 0
    assert stop_after <= len(stopped.records) <= 6
    run = session.resume(tmp_path, machine, 9.0).measure(Silent())
    assert keys(run.records) == pairs(plan)
    assert run.records[: len(stopped.records)] == stopped.records
    assert run.info.finished_at is not None
    assert run.info.measuring_s == pytest.approx(CEILINGS.seconds + 3 * 0.5)
    assert len(asked) == 1, "the ceilings of the first part hold for the second"
    assert 3 <= said.read_text().count("bout") <= 4, "at most the bout in flight is measured again"


def test_resume_measures_what_is_missing_and_nothing_else(
    plan: Plan, machine: Machine, tmp_path: Path, workers_measure: Callable[..., Path], asked: Asked
) -> None:
    """Two records and half of a third are left: one case is whole, one lacks an implementation, one is missing."""
    said = workers_measure(before="say(f'budget {job.budget_s:.2f}')")
    session.start(plan, tmp_path, machine, "c", 9.0).measure(Silent())
    said.unlink()
    lines = (tmp_path / RECORDS).read_bytes().splitlines(keepends=True)
    (tmp_path / RECORDS).write_bytes(b"".join(lines[:3]) + lines[3][:-20])
    current = session.resume(tmp_path, machine, 9.0)
    assert current.torn_lines == 1
    run = current.measure(Silent())
    assert keys(run.records) == pairs(plan)
    assert run.torn_lines == 0
    one, two = (FIXED_S + n * EACH_S for n in (1, 2))
    left_s = 12.0 * (one + two) / (3 * two)
    first, second = f"budget {left_s * one / (one + two):.2f}", f"budget {left_s - 2.0:.2f}"
    assert said.read_text().splitlines() == [first, "bout 2 b", second, "bout 1 a,b"], "a bout takes 2 s of it"
    assert len(asked) == 1


def test_an_occupied_directory_is_refused(plan: Plan, machine: Machine, tmp_path: Path) -> None:
    session.start(plan, tmp_path, machine, "c", 9.0)
    with pytest.raises(ValueError, match=r"--out = .*: holds a run already; continue it with --resume"):
        session.start(plan, tmp_path, machine, "c", 9.0)


def test_a_kill_while_the_run_is_laid_out_leaves_it_startable(
    plan: Plan, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two files a kill comes before, the directory can be started or resumed."""
    for dying in ("write_environment", "write_info"):
        with monkeypatch.context() as patch:
            patch.setattr(RunStore, dying, _killed)
            with pytest.raises(KeyboardInterrupt):
                session.start(plan, tmp_path, machine, "c", 9.0)
        assert not (tmp_path / INFO).exists()
    session.start(plan, tmp_path, machine, "c", 9.0)
    assert len(session.resume(tmp_path, machine, 9.0).to_do()) == 3


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_another_environment_is_refused(plan: Plan, machine: Machine, tmp_path: Path) -> None:
    session.start(plan, tmp_path, machine, "c", 9.0)
    elsewhere = replace(machine, environment=msgspec.structs.replace(machine.environment, hostname="there"))
    with pytest.raises(ValueError, match=r"taken in environment .*, this machine is .*; start a new run"):
        session.resume(tmp_path, elsewhere, 9.0)


def test_a_run_whose_trace_is_gone_is_not_resumed(tmp_path: Path, machine: Machine, plan: Plan) -> None:
    one = plan.planned[0]
    traffic = msgspec.structs.replace(one.case.traffic, spread="trace:/gone.npz?layer=1&rows=8#0123456789abcdef")
    replaying = msgspec.structs.replace(one, case=msgspec.structs.replace(one.case, traffic=traffic))
    session.start(replace(plan, planned=(replaying,)), tmp_path / "run", machine, "moebench run", 5.0)
    with pytest.raises(ValueError, match=r"trace:/gone\.npz': no such file"):
        session.resume(tmp_path / "run", machine, 5.0)


def test_a_run_in_progress_is_left_alone(
    plan: Plan, machine: Machine, tmp_path: Path, workers_measure: Callable[..., Path], asked: Asked
) -> None:
    said = workers_measure()
    laid_out = session.start(plan, tmp_path, machine, "c", 9.0)
    second = session.resume(tmp_path, machine, 9.0)
    with locked(tmp_path):
        with pytest.raises(ValueError, match=r"^--resume = .*: is being measured just now, by another process$"):
            session.resume(tmp_path, machine, 9.0)
        for one in (laid_out, second):
            with pytest.raises(ValueError, match="is being measured just now, by another process"):
                one.measure(Silent())
    assert not said.exists()
    assert keys(second.measure(Silent()).records) == pairs(plan)


def test_a_run_is_taken_while_it_is_measured(
    plan: Plan, machine: Machine, tmp_path: Path, workers_measure: Callable[..., Path], asked: Asked
) -> None:
    seen: list[bool] = []

    class Looking(Silent):
        def done(self, records: Sequence[Record]) -> None:
            seen.append(in_progress(tmp_path))

    workers_measure()
    session.start(plan, tmp_path, machine, "c", 9.0).measure(Looking())
    assert set(seen) == {True}
    assert not in_progress(tmp_path)


@pytest.mark.parametrize("what", ["source", "version"])
def test_an_implementation_that_has_changed_is_not_measured_into_the_same_run(
    plan: Plan, machine: Machine, tmp_path: Path, workers_measure: Callable[..., Path], asked: Asked, what: str
) -> None:
    def now(**fields: str) -> Machine:
        return replace(machine, listed={n: msgspec.structs.replace(one, **fields) for n, one in machine.listed.items()})

    given = {"source_hash": "aaa", "version": "1"}
    workers_measure()
    with pytest.raises(KeyboardInterrupt):
        session.start(plan, tmp_path, now(**given), "c", 9.0).measure(Impatient(2))
    lines = (tmp_path / RECORDS).read_text().replace('"source_hash":"unknown"', '"source_hash":"aaa"')
    (tmp_path / RECORDS).write_text(lines)
    other = given | ({"source_hash": "bbb"} if what == "source" else {"version": "2"})
    then, after = ("aaa", "bbb") if what == "source" else ("1", "2")
    message = rf"a has changed since: {what} {then} then, {after} now; put it back as it was, or start a new run"
    with pytest.raises(ValueError, match=message):
        session.resume(tmp_path, now(**other), 9.0)
    unknown = now(**(given | {"source_hash": "unknown"}))
    assert session.resume(tmp_path, unknown, 9.0).to_do()
    run = session.resume(tmp_path, now(**given), 9.0).measure(Silent())
    assert keys(run.records) == pairs(plan)
    assert session.resume(tmp_path, now(**other), 9.0).to_do() == [], "with nothing left to do nothing is mixed"


def test_what_cannot_be_resumed_is_said_in_one_line(tmp_path: Path, machine: Machine, plan: Plan) -> None:
    with pytest.raises(ValueError, match=r"run\.json: No such file or directory") as caught:
        session.resume(tmp_path / "nowhere", machine, 9.0)
    assert "\n" not in str(caught.value)
    session.start(plan, tmp_path, machine, "c", 9.0)
    (tmp_path / ENVIRONMENT).write_text("nonsense")
    with pytest.raises(ValueError, match=r"environment\.json: not written by this version"):
        session.resume(tmp_path, machine, 9.0)


def test_ceilings_that_fail_end_the_run_and_can_be_tried_again(
    plan: Plan, machine: Machine, tmp_path: Path, workers_measure: Callable[..., Path]
) -> None:
    workers_measure(before="print('out of luck'); sys.exit(1)")
    with pytest.raises(MachineError, match=r"(?s)measuring the ceilings of cpu: .*exited with code 1.*out of luck"):
        session.start(plan, tmp_path, machine, "c", 9.0).measure(Silent())
    assert read_records(tmp_path) == ([], 0)
    assert len(session.resume(tmp_path, machine, 9.0).to_do()) == 3


def test_limits_follow_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "available_memory_bytes", lambda: 7 << 30)
    assert session.limits_for(("cpu",), 9.0) == Limits(9.0, 7 << 30, 7 << 30)
    assert session.limits_for(("cpu", "cuda:0"), 9.0) == Limits(9.0, 7 << 30, 0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_time_limit_nothing_could_keep_is_refused(
    plan: Plan, machine: Machine, tmp_path: Path, seconds: float
) -> None:
    with pytest.raises(ValueError, match=r"--timeout = .*: a number of seconds above 0"):
        session.start(plan, tmp_path, machine, "c", seconds)
    assert not (tmp_path / INFO).exists()


@pytest.fixture(scope="module")
def real_run(plans: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Loop and grouped on two tiny cases, one of them asking for more than there is, measured for real."""
    found = look_around()
    planned = [
        plans.planned(8, ("loop", "grouped", "fused")),
        plans.planned(1 << 17, ("loop",), hidden=4096),
    ]
    plan = make_plan("real", "", planned, found, budget_s=0.6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "measure_ceilings", lambda *_: CEILINGS)
        laid_out = session.start(plan, tmp_path_factory.mktemp("real") / "run", found, "c", 60.0)
        return replace(laid_out, limits=Limits(60.0, 3 << 30, 3 << 29)).measure(Silent())


def test_real_workers_measure_real_implementations(real_run: Run) -> None:
    found = {(record.case.traffic.tokens, record.impl.name): record for record in real_run.records}
    loop, grouped, fused = (found[8, name] for name in ("loop", "grouped", "fused"))
    assert (loop.status, grouped.status, fused.status) == ("ok", "ok", "unsupported")
    assert loop.bout == grouped.bout == fused.bout != ""
    for record in (loop, grouped):
        assert record.timing is not None
        assert len(record.timing.samples_ns) >= 3
        assert record.timing.median_ns is not None
        assert record.work is not None
        assert record.work.share_of_floor is not None
        assert record.environment_id == real_run.environment.environment_id
    assert real_run.info.share_measuring is not None
    assert 0 < real_run.info.share_measuring <= 1


def test_what_does_not_fit_is_oom_with_a_reason(real_run: Run) -> None:
    (record,) = (record for record in real_run.records if record.case.shape.hidden == 4096)
    assert record.status == "oom", record.reason
    assert record.reason.startswith("the case itself does not fit: ")
    assert "lower tokens or experts" in record.reason
