"""The command ``calibrate``: exit codes, what is said and what is kept, with workers that only pretend to measure."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from harness import cli
from harness.cli import measuring
from harness.cli.app import BAD_INPUT, DONE, FAILURES, INTERRUPTED, NOTHING
from harness.records.environment import Calibration, Device, Environment
from harness.records.trials import BASE, BASELINE, CONTROL, PLANTED_PERCENT, CpuTime, Line, Trial, TrialFile
from harness.records.trials import planted_name as name
from harness.running import calibrate, jobs
from harness.running import machine as machine_module
from harness.running.machine import Machine, MachineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.running.calibrate import Task

MS = 1e6


def line(mean_ns: float, number: int, percent: float | None = None) -> Line:
    values = mean_ns * np.exp(np.random.default_rng(number).normal((percent or 0) / 100, 0.005, 15))
    return Line(samples_ns=values.tolist(), rounds=list(range(15)), calls_per_sample=1, planted_percent=percent)


def trial(task: Task, number: int, lie: float = 1.0) -> Trial:
    """A quiet trial; ``lie`` is how much longer the identical copy seems to take."""
    lines = {BASE: line(5 * MS, 10 * number), CONTROL: line(5 * MS, 10 * number + 1)}
    lines |= {BASELINE: line(3 * MS, 10 * number + 2)} if task.baseline else {}
    for i, percent in enumerate(PLANTED_PERCENT):
        lines[name(percent)] = line((lie if percent == 0 else 1.0) * 5 * MS, 10 * number + 3 + i, percent)
    cpu = CpuTime(capacity_s=2.0, own_s=1.0, others_s=0.1, steal_s=0.0)
    return Trial(process=number % len(task.shares), number=number, call_ns=5 * MS, lines=lines, cpu=cpu)


@pytest.fixture
def machine() -> Machine:
    device = Device(name="cpu", kind="cpu", memory_bytes=1 << 34, cache_bytes=1 << 20)
    environment = Environment(
        hostname="here", system="Linux", kernel="6.1", python="3.11", versions={}, devices={"cpu": device}
    )
    listed = {key: jobs.Listed(name=key, family=key) for key in ("grouped", "dense", "loop")}
    return Machine(environment, listed, {}, {})


class Main:
    """Runs the command in this process; ``trials`` makes what the workers would have answered."""

    def __init__(
        self, machine: Machine, patch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], state: Path
    ) -> None:
        self.machine, self._patch, self._capfd, self.state = machine, patch, capfd, state
        self.trial: Callable[[Task, int], Trial] = trial
        self.asked: list[Task] = []
        patch.setattr(machine_module, "look_around", lambda files=(): machine)
        patch.setattr(calibrate, "run_trials", self._run_trials)
        patch.setenv("XDG_STATE_HOME", str(state))
        patch.setenv("COLUMNS", "200")

    def _run_trials(self, task: Task, _machine: object, _limits: object, _doing: object, done: Any) -> None:
        self.asked.append(task)
        for number in range(task.trials):
            done(self.trial(task, number))

    def __call__(self, *words: str | Path) -> tuple[int, str, str]:
        self._patch.setattr(sys, "argv", ["moebench", "calibrate", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        sys.stdout.flush()
        out, err = self._capfd.readouterr()
        return int(ended.value.code or 0), out, err

    @property
    def kept(self) -> dict[str, Calibration]:
        found: dict[str, Calibration] = {}
        for file in self.state.rglob("*.json"):
            assert file.stem == self.machine.environment.environment_id
            found |= msgspec.json.decode(file.read_bytes(), type=dict[str, Calibration])
        return found


@pytest.fixture
def main(machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Main:
    return Main(machine, monkeypatch, capfd, tmp_path / "state")


def test_a_quiet_machine_is_told_so_and_it_is_kept(main: Main) -> None:
    code, out, err = main("--trials", "12", "--trial-seconds", "0.5")
    assert code == DONE, err
    assert "12 trials of loop against itself on H512" in err
    assert "0.5 s each, in 5 fresh workers: about" in " ".join(err.split())
    assert "False alarms: 0 of 12 identical copies" in out
    assert "SLOWER" in out
    assert "threshold 0.5 %" in out
    assert "Between 5 worker processes" in out
    assert "Others on this machine had 5.00 % of the CPUs' time." in out
    assert list(main.kept) == ["cpu"]
    found = main.kept["cpu"]
    assert (found.trials, found.impl, found.threshold, found.processes) == (12, "loop", 0.02, 5)
    assert str(next(main.state.rglob("*.json"))) in out
    (task,) = main.asked
    assert (task.impl, task.baseline, task.trials, task.trial_s) == ("loop", "dense", 12, 0.5)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_throwaway_calibration_leaves_a_better_one_and_says_so(main: Main, as_json: bool) -> None:
    assert main("--trials", "3")[0] == DONE
    code, out, err = main("--trials", "1", *(["--json"] if as_json else []))
    assert (code, main.kept["cpu"].trials) == (DONE, 3)
    (line,) = [one for one in err.splitlines() if "not kept" in one]
    assert "holds a calibration of 3 trials, this one has 1;" in line
    assert "--trials 3 or more" in line
    assert "Kept for the runs to come" not in out
    if as_json:
        assert json.loads(out)["kept"] is None
    code, out, err = main("--trials", "4")
    assert (code, main.kept["cpu"].trials, "not kept" in err) == (DONE, 4, False)
    assert "Kept for the runs to come" in out


@pytest.mark.parametrize(("trials", "claimed"), [(1, False), (19, False), (20, True)])
def test_95_of_100_is_claimed_by_no_fewer_trials_than_can_show_it(main: Main, trials: int, claimed: bool) -> None:
    _, out, _ = main("--trials", str(trials))
    assert main.kept["cpu"].resolves
    assert (f"95 % of the {trials} trials would have found it" in out) == claimed
    assert ("Fewer than 20 trials do not show" in out) != claimed


def test_false_alarms_beyond_chance_are_a_failure_and_kept_all_the_same(main: Main) -> None:
    main.trial = lambda task, number: trial(task, number, lie=1.2 if number < 4 else 1.0)
    code, out, err = main("--trials", "12")
    assert code == FAILURES
    assert "4 of 12 verdicts on identical code were wrong, more than a rate of 1 % explains (p = " in err
    assert "False alarms: 4 of 12" in out
    assert main.kept["cpu"].rates[0].slower == 4


def test_a_slow_and_noisy_machine_is_no_failure(main: Main) -> None:
    """Its control strays by a third: nothing is told apart, nothing is called different, and it gets some advice."""

    def noisy(task: Task, number: int) -> Trial:
        one = trial(task, number)
        one.lines[CONTROL].samples_ns = [1.3 * value for value in one.lines[CONTROL].samples_ns]
        return one

    main.trial = noisy
    code, out, _ = main("--trials", "6")
    assert code == DONE
    assert "This machine cannot tell 5 %: try a quieter machine" in out
    assert {row.slower + row.faster for row in main.kept["cpu"].rates} == {0}


def test_as_json(main: Main) -> None:
    code, out, _ = main("--trials", "6", "--json", "--threshold", "1%", "--impl", "loop")
    assert code == DONE
    said = json.loads(out)
    assert said["device"] == "cpu"
    assert said["environment_id"] == main.machine.environment.environment_id
    assert (said["false_alarms"]["wrong"], said["false_alarms"]["trials"]) == (0, 6)
    assert msgspec.convert(said["calibration"], Calibration) == main.kept["cpu"]
    assert (main.kept["cpu"].threshold, main.kept["cpu"].impl) == (0.01, "loop")
    assert Path(said["kept"]).is_relative_to(main.state)


def test_raw_samples_are_kept_on_request(main: Main, tmp_path: Path) -> None:
    code, _, _ = main("--trials", "3", "--out", tmp_path / "raw.json")
    assert code == DONE
    raw = msgspec.json.decode((tmp_path / "raw.json").read_bytes(), type=TrialFile)
    assert raw.trials == [trial(main.asked[0], number) for number in range(3)]
    assert (raw.impl, raw.baseline, raw.case.shape.hidden) == ("loop", "dense", 512)
    for bad in (tmp_path / "nowhere" / "raw.json", tmp_path):
        assert main("--out", bad)[0] == BAD_INPUT
    assert len(main.asked) == 1, "found out before anything is measured"


def test_raw_samples_that_cannot_be_kept_do_not_spoil_the_rest(main: Main, tmp_path: Path) -> None:
    (tmp_path / "raw.json.new").mkdir()
    code, out, err = main("--trials", "3", "--out", tmp_path / "raw.json")
    assert code == BAD_INPUT
    assert "False alarms: 0 of 3" in out
    assert "cannot be written: Is a directory" in err
    assert main.kept


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tiny",), "suite = 'tiny': one case is calibrated with, this has 3"),
        (("--impl", "nobody"), "--impl = 'nobody': one of grouped, dense, loop"),
        (("--threshold", "lots"), "--threshold = 'lots'"),
        (("--trials", "0"), "--trials = 0: a whole number above 0"),
        (("--trial-seconds", "nan"), "--trial-seconds = nan: a number of seconds above 0"),
        (("--set", "tokens=-1"), "tokens = -1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(main: Main, words: tuple[str, ...], says: str) -> None:
    code, out, err = main(*words)
    assert (code, out, main.asked, main.kept) == (BAD_INPUT, "", [], {})
    assert says in err
    assert "Traceback" not in err


def test_nothing_measured_is_exit_code_3(main: Main) -> None:
    def refused(*_: object) -> Trial:
        raise MachineError("grouped: unsupported: no kernel")

    main.trial = refused
    code, out, err = main("--trials", "3")
    assert (code, out, main.kept) == (NOTHING, "", {})
    assert "grouped: unsupported: no kernel" in err


def test_ctrl_c_keeps_nothing_and_says_so(main: Main, tmp_path: Path) -> None:
    def impatient(task: Task, number: int) -> Trial:
        if number == 2:
            raise KeyboardInterrupt
        return trial(task, number)

    main.trial = impatient
    code, _, err = main("--trials", "5", "--out", tmp_path / "raw.json")
    assert (code, main.kept) == (INTERRUPTED, {})
    assert "a calibration that was not finished is not kept" in err
    assert not (tmp_path / "raw.json").exists()


def test_a_state_directory_that_cannot_be_written_does_not_spoil_the_rest(main: Main) -> None:
    main.state.write_text("a file in its place")
    code, out, err = main("--trials", "3")
    assert code == DONE
    assert "False alarms: 0 of 3" in out
    assert "the calibration cannot be kept" in err


def test_a_run_says_when_a_kept_calibration_is_of_no_use(capfd: pytest.CaptureFixture[str]) -> None:
    class Stopped:
        complaint, torn_lines, path = "here.json: [/] ignored", 0, "run"

        def to_do(self) -> list[Any]:
            return []

        def measure(self, _bar: object) -> None:
            raise KeyboardInterrupt

    session: Any = Stopped()
    assert measuring._measure(session) == INTERRUPTED
    assert "here.json: [/] ignored\n" in capfd.readouterr().err
