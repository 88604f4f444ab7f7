"""A calibration from the parent: what is asked of which worker, what is kept, and what a hostile file does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.environment import Calibration, Rates
from harness.records.store import load_run
from harness.records.trials import BASE, BASELINE
from harness.running import jobs, session
from harness.running.calibrate import Task, keep_calibration, load_calibrations, make_task, run_trials, state_path
from harness.running.child import Limits
from harness.running.machine import MachineError
from harness.running.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.records.trials import Trial
    from harness.running.machine import Machine

PRETENDING = """
    from harness.records.trials import CpuTime, Line, Trial
    assert (job.impl, job.baseline, job.trial_s, job.skip) == ('loop', 'dense', 0.5, {{'bad': 'died'}})
    {before}
    for number in range(job.first, job.first + job.count):
        self.note('', 'loop', 'round 1')
        line = Line(samples_ns=[1.0], rounds=[0], calls_per_sample=1)
        cpu = CpuTime(capacity_s=1.0, own_s=1.0, others_s=0.0)
        trial = Trial(process=job.process, number=number, call_ns=1.0, lines={{'base': line}}, cpu=cpu)
        self.answer(jobs.TrialOutcome(trial=trial))
    self.answer(jobs.DoneOutcome())
"""


@pytest.fixture
def machine(plans: Any) -> Machine:
    found: Machine = plans.machine("loop", "grouped", "dense")
    found.skip["bad"] = "died"
    found.listed["dense"] = jobs.Listed(name="dense", family="dense")
    return found


def task(plans: Any, trials: int = 6) -> Task:
    return Task(plans.case(), "loop", "dense", trials, 0.5)


def calibration(**fields: Any) -> Calibration:
    defaults: dict[str, Any] = {
        "case": "c",
        "impl": "loop",
        "trials": 10,
        "threshold": 0.02,
        "trial_s": 0.5,
        "call_ns": 1e6,
        "rates": [Rates(planted_percent=0.0, same=10), Rates(planted_percent=5.0, slower=9, ambiguous=1)],
        "resolves": {"0.25": 0.04},
        "processes": 5,
        "process_floor": 0.01,
        "taken_at": "2026-11-22T00:00:00+00:00",
    }
    return Calibration(**(defaults | fields))


@given(trials=st.integers(1, 1000))
def test_trials_are_spread_evenly_over_several_workers(trials: int) -> None:
    one: Any = None
    shares = Task(one, "loop", "", trials, 1.0).shares
    assert sum(shares) == trials
    assert max(shares) - min(shares) <= 1
    assert min(shares) >= 1
    assert len(shares) >= min(3, trials)
    assert max(shares) <= 20


def test_the_suite_s_case_and_implementation_by_default(machine: Machine) -> None:
    made = make_task("calibrate", "", "", (), 100, 3.0, machine)
    assert (made.impl, made.baseline, made.case.device, made.case.shape.hidden) == ("loop", "dense", "cpu", 512)
    assert made.shares == [20] * 5
    assert made.expected_s > 300


def test_what_was_asked_for_replaces_the_suite_s(machine: Machine) -> None:
    made = make_task("calibrate", "loop", "cpu", ("tokens=3",), 1, 0.5, machine)
    assert (made.impl, made.case.traffic.tokens, made.shares) == ("loop", 3, [1])
    assert make_task("calibrate", "dense", "", (), 1, 0.5, machine).baseline == "", "nobody is his own baseline"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"suite": "tiny"}, r"suite = 'tiny': one case is calibrated with, this has 3: H64 .*; H64 .*training"),
        ({"overrides": ("tokens=1,2",)}, r"this has 2: .*T=1 .*; .*T=2 "),
        ({"overrides": ("implementation=loop,grouped",)}, r"--impl = .*: one implementation .* of loop, grouped"),
        ({"impl": "nobody"}, r"--impl = 'nobody': one of loop, grouped, dense"),
        ({"device": "cuda"}, r"--device = 'cuda': one of cpu; torch sees no CUDA"),
        ({"trials": 0}, r"--trials = 0: a whole number above 0"),
        ({"trial_s": 0.0}, r"--trial-seconds = 0.0: a number of seconds above 0"),
        ({"trial_s": float("nan")}, r"--trial-seconds = nan: "),
        ({"trial_s": float("inf")}, r"--trial-seconds = inf: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_said_in_one_line(machine: Machine, words: dict[str, Any], says: str) -> None:
    asked: dict[str, Any] = {
        "suite": "calibrate", "impl": "", "device": "", "overrides": (), "trials": 1, "trial_s": 1.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=says) as caught:
        make_task(**(asked | words), machine=machine)
    assert "\n" not in str(caught.value)


def test_every_worker_does_its_share(plans: Any, machine: Machine, worker_does: Callable[[str], None]) -> None:
    worker_does(PRETENDING.format(before=""))
    found: list[Trial] = []
    seen: list[str] = []
    run_trials(task(plans), machine, Limits(), lambda entry: seen.append(entry.stage), found.append)
    assert [trial.number for trial in found] == list(range(6))
    assert [trial.process for trial in found] == [0, 1, 2, 3, 4, 4]
    assert seen


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("self.answer(jobs.RefusedOutcome(reason='loop: unsupported: no')); self.answer(jobs.DoneOutcome()); return",
         r"^loop: unsupported: no$"),
        ("print('oh no'); os._exit(3)", r"(?s)^loop took the worker down: .*exited with code 3.*oh no"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"^loop took the worker down: .*SIGSEGV"),
    ],
    ids=["refused", "exits", "crashes"],
)  # fmt: skip
def test_a_worker_that_cannot_is_the_end_of_it(
    plans: Any, machine: Machine, worker_does: Callable[[str], None], before: str, says: str
) -> None:
    worker_does(PRETENDING.format(before=before))
    with pytest.raises(MachineError, match=says):
        run_trials(task(plans), machine, Limits(), lambda _: None, lambda _: pytest.fail("a trial"))


def test_real_workers_run_real_trials(plans: Any) -> None:
    made = Task(plans.case(), "loop", "dense", 2, 0.05)
    found: list[Trial] = []
    run_trials(made, plans.machine("loop", "dense"), Limits(), lambda _: None, found.append)
    assert [(trial.process, trial.number) for trial in found] == [(0, 0), (1, 1)]
    for trial in found:
        assert {BASE, BASELINE} < set(trial.lines)
        assert trial.planted[10.0].planted_ns == pytest.approx(0.1 * trial.call_ns)
        assert all(len(line.samples_ns) >= 3 for line in trial.lines.values())


def test_a_real_refusal_comes_with_its_reason(plans: Any) -> None:
    made = Task(plans.case(hidden=33), "grouped", "", 1, 0.05)
    with pytest.raises(MachineError, match=r"grouped: unsupported: torch's grouped_mm needs H = 33"):
        run_trials(made, plans.machine("grouped"), Limits(), lambda _: None, lambda _: None)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "moebench" / "calibrations"


def test_what_is_kept_is_found_again_by_environment_and_device(state: Path) -> None:
    assert load_calibrations("abc") == ({}, "")
    assert keep_calibration("abc", "cpu", calibration()) == calibration()
    assert state_path("abc") == state / "abc.json"
    keep_calibration("abc", "cuda:0", calibration(impl="grouped"))
    keep_calibration("abc", "cpu", calibration(trials=20))
    assert load_calibrations("abc") == ({"cpu": calibration(trials=20), "cuda:0": calibration(impl="grouped")}, "")
    assert load_calibrations("def") == ({}, "")


@pytest.mark.usefixtures("state")
def test_a_calibration_of_fewer_trials_displaces_none_of_the_same_device() -> None:
    keep_calibration("abc", "cpu", calibration(trials=3))
    assert keep_calibration("abc", "cpu", calibration(trials=1, impl="grouped")) == calibration(trials=3)
    assert load_calibrations("abc")[0] == {"cpu": calibration(trials=3)}
    keep_calibration("abc", "cuda:0", calibration(trials=1))
    keep_calibration("abc", "cpu", calibration(trials=3, impl="grouped"))
    assert load_calibrations("abc")[0] == {
        "cpu": calibration(trials=3, impl="grouped"),
        "cuda:0": calibration(trials=1),
    }, "as many trials are as good, and newer"


def test_the_state_directory_is_the_user_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given_path in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", given_path)
        assert state_path("abc") == tmp_path / ".local/state/moebench/calibrations/abc.json"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_path("abc").is_relative_to(tmp_path)


HOSTILE = {
    "no json": b"nonsense",
    "empty": b"",
    "not text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "unknown field": msgspec.json.encode({"cpu": msgspec.to_builtins(calibration()) | {"verdict": "trust me"}}),
    "wrong type": msgspec.json.encode({"cpu": msgspec.to_builtins(calibration()) | {"trials": "many"}}),
    "missing field": b'{"cpu": {"case": "c"}}',
    "counts below 0": msgspec.json.encode({"cpu": calibration(rates=[Rates(planted_percent=0.0, same=-1)])}),
    "no A/A trials": msgspec.json.encode({"cpu": msgspec.to_builtins(calibration()) | {"rates": []}}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_broken_file_is_ignored_with_one_line_and_can_be_replaced(state: Path, content: bytes) -> None:
    state.mkdir(parents=True)
    (state / "abc.json").write_bytes(content)
    found, complaint = load_calibrations("abc")
    assert found == {}
    assert complaint.startswith(f"{state / 'abc.json'}: not a calibration of this version of moebench, ignored: ")
    assert "\n" not in complaint
    keep_calibration("abc", "cpu", calibration())
    assert load_calibrations("abc") == ({"cpu": calibration()}, "")


def test_a_directory_in_its_place_is_ignored_too(state: Path) -> None:
    (state / "abc.json").mkdir(parents=True)
    found, complaint = load_calibrations("abc")
    assert found == {}
    assert "Is a directory" in complaint


def test_a_run_knows_how_far_its_machine_was_trusted(plans: Any, machine: Machine, state: Path, tmp_path: Path) -> None:
    plan = make_plan("s", "", [plans.planned()], machine, budget_s=1.0)
    environment_id = machine.environment.environment_id
    keep_calibration(environment_id, "cpu", calibration())
    started = session.start(plan, tmp_path / "run", machine, "c", 9.0)
    assert load_run(tmp_path / "run").environment.calibrations == {"cpu": calibration()}
    assert started.complaint == ""
    assert started.machine.environment.environment_id == environment_id
    keep_calibration(environment_id, "cpu", calibration(trials=500))
    resumed = session.resume(tmp_path / "run", machine, 9.0)
    assert resumed.machine.environment.calibrations == {"cpu": calibration(trials=500)}
    state_path(environment_id).write_text("nonsense")
    resumed = session.resume(tmp_path / "run", machine, 9.0)
    assert resumed.machine.environment.calibrations == {"cpu": calibration()}, "what the run held already"
    assert "ignored" in resumed.complaint
    assert "ignored" in session.start(plan, tmp_path / "another", machine, "c", 9.0).complaint
